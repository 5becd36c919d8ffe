"""How long planning takes, and how much memory, on data sets of the official size.

    python benchmarks/full_size.py [vc1 nsynth spcv2] [--folder DIR]

Makes folders with the official counts and names of the official scheme (the names themselves are made up), every clip
a hard link to one of a few tiny WAV files, and plans on them in a process of its own: read the metadata, check the
clip table, look for every file, make the rotations. Needs 2 GB of disk for the links, and a few minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: File systems allow no more hard links to one file than this (ext4: 65000).
LINKS = 60_000
SOURCES = ("acoustic", "electronic", "synthetic")

PLAN = """
import json, sys, time
from pathlib import Path
start = time.perf_counter()
from aape_bench import clip_table, registry
task, root, steps = registry.task(sys.argv[1]), Path(sys.argv[2]), {}
def step(name, since):
    steps[name] = time.perf_counter() - since
    return time.perf_counter()
now = step("import", start)
table = task.read(root)
now = step("read", now)
table = clip_table.check(task, table)
now = step("check", now)
present = clip_table.select_present(task, root, table, allow_partial=False)
now = step("look", now)
rounds = clip_table.rotations(task, present.table)
step("rotations", now)
assert sum(len(rotation.test) for rotation in rounds) == task.part_clips[2]
assert "torch" not in sys.modules and "sklearn" not in sys.modules
steps["total"] = time.perf_counter() - start
# not ru_maxrss, which begins at what the process was that started this one
lines = Path("/proc/self/status").read_text().splitlines()
memory = int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
print(json.dumps({"clips": len(present.table), "memory": memory, **steps}))
"""


class Links:
    """Makes clips: hard links to a tiny WAV file, to a fresh one before a file system's limit is reached."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made, self.source = folder, 0, folder
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, path: Path) -> None:
        if self.made % LINKS == 0:
            import numpy as np
            import soundfile

            self.source = self.folder / f"{self.made // LINKS}.wav"
            soundfile.write(self.source, np.zeros(480), 16000, subtype="PCM_16")
        try:
            os.link(self.source, path)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(self.source, path)
        self.made += 1


def shares(total: int, among: int) -> Iterator[int]:
    """`total` cut into `among` shares that differ by at most one."""
    return (total * (i + 1) // among - total * i // among for i in range(among))


def name_of(*parts: object) -> str:
    """11 characters that look like a YouTube id and depend on the parts alone."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:11]


def make_vc1(root: Path, link: Links) -> None:
    """1251 speakers; a video for every 7 utterances, as VoxCeleb1's 22496 have on average."""
    from aape_bench.tasks.vc1 import SPEAKERS, task

    assert task.part_clips is not None
    lines = []
    counts = zip(*(shares(total, SPEAKERS) for total in task.part_clips), strict=True)
    for speaker, parts in enumerate(counts):
        for part, count in enumerate(parts, start=1):
            for i in range(count):
                clip = f"id{10001 + speaker}/{name_of(speaker, part, i // 7)}/{1 + i % 7:05d}.wav"
                lines.append(f"{part} {clip}\n")
                link(root / "wav" / clip)
    (root / "iden_split.txt").write_text("".join(lines))


def make_nsynth(root: Path, link: Links) -> None:
    """1006 instruments; `examples.json` with every official field."""
    from aape_bench.tasks.nsynth import FAMILIES, PARTS, task

    assert task.part_clips is not None
    note = instrument = 0
    for part, total, instruments in zip(PARTS, task.part_clips, (953, 37, 16), strict=True):
        families = [family for family in FAMILIES if part == "train" or family != "synth_lead"]
        notes = {}
        for count in shares(total, instruments):
            family = families[instrument % len(families)]
            source = instrument % len(SOURCES)
            timbre = f"{family}_{SOURCES[source]}_{instrument // len(SOURCES):03d}"
            for i in range(count):
                pitch, velocity = 9 + i // 5 % 112, (25, 50, 75, 100, 127)[i % 5]
                name = f"{timbre}-{pitch:03d}-{velocity:03d}"
                notes[name] = {
                    "note": note, "sample_rate": 16000, "instrument_family": FAMILIES.index(family),
                    "qualities": [0, 1, 0, 0, 0, 0, 1, 0, 0, 0], "instrument_source_str": SOURCES[source],
                    "note_str": name, "instrument_family_str": family, "instrument_str": timbre, "pitch": pitch,
                    "instrument": instrument, "velocity": velocity, "instrument_source": source,
                    "qualities_str": ["dark", "nonlinear_env"],
                }  # fmt: skip
                link(root / f"nsynth-{part}" / "audio" / f"{name}.wav")
                note += 1
            instrument += 1
        with (root / f"nsynth-{part}" / "examples.json").open("w") as handle:
            json.dump(notes, handle, indent=4, sort_keys=True)


def make_spcv2(root: Path, link: Links) -> None:
    """35 words, with the three parts' utterances evenly over them."""
    from aape_bench.tasks.spcv2 import LISTS, WORDS, task

    assert task.part_clips is not None
    for part, total in zip(("train", "valid", "test"), task.part_clips, strict=True):
        lines = []
        for word, count in zip(WORDS, shares(total, len(WORDS)), strict=True):
            for i in range(count):
                lines.append(f"{word}/{name_of(part, i // 3)[:8]}_nohash_{i % 3}.wav\n")
                link(root / lines[-1].strip())
        if part in LISTS:
            (root / LISTS[part]).write_text("".join(lines))


MAKERS: dict[str, Callable[[Path, Links], None]] = {"vc1": make_vc1, "nsynth": make_nsynth, "spcv2": make_spcv2}


def measure(name: str, root: Path) -> dict[str, Any]:
    """Seconds of every step, MiB at most, and number of clips, from planning in a new process."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PLAN, name, str(root)], check=True, stdout=subprocess.PIPE, text=True
    )
    return dict(json.loads(done.stdout))


def main() -> None:
    """Make the folders, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=["vc1", "nsynth"], metavar="TASK", help=", ".join(MAKERS))
    parser.add_argument("--folder", type=Path, help="make them there and keep them; what is there is used again")
    arguments = parser.parse_args()
    if unknown := set(arguments.tasks) - MAKERS.keys():
        parser.error(f"no such task: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        columns = ("import", "read", "check", "look", "rotations", "total")
        print(f"{'task':8}{'clips':>8}" + "".join(f"{column + ' s':>13}" for column in columns) + f"{'peak MiB':>13}")
        for name in arguments.tasks:
            root = folder / name
            if not root.is_dir():
                start = time.perf_counter()
                MAKERS[name](folder / f"{name}.partial", Links(folder / f"{name}.links"))
                (folder / f"{name}.partial").rename(root)
                print(f"({name}: made in {time.perf_counter() - start:.0f} s)", file=sys.stderr)
            found = measure(name, root)
            seconds = "".join(f"{found[column]:13.2f}" for column in columns)
            print(f"{name:8}{found['clips']:8d}{seconds}{found['memory']:13.0f}", flush=True)


if __name__ == "__main__":
    main()
