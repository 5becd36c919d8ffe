"""Trains the weights that come with AaPE, from Debian's packages of free speech, music and effects.

    python models/aape/weights/train.py WORK            # on Debian or a relative; an hour or two of one CPU core

The same command goes on where it was stopped. WORK gets

    packages/, audio/    the packages of packages.csv, each of that version and SHA-256, and the audio in them
    audio.csv            the manifest: files of a second and more, each content once, long ones in pieces of ten seconds
    training/            the pre-training: checkpoints, log.csv, modes.csv
    choice.json          the last checkpoints' accuracy on the development tasks, and the best
    aape-tiny.safetensors  the best teacher in float16: copy it beside this file

A quarter of the clips is generated, so scores on the modulation suite are marked "same-generator". Packages that the
small stand-ins of the real data sets are made of are left out. No label of any data set is looked at.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import soundfile

from aape_bench.checkpoint import load_checkpoint, read_header, save_checkpoint
from aape_bench.identity import file_digest
from aape_bench.models.aape.config import AapeConfig
from aape_bench.models.aape.encoder import AapeEncoder
from aape_bench.models.aape.pretrain.ablation import AapeTraining
from aape_bench.models.aape.pretrain.listing import ENDINGS
from aape_bench.planning import Options, choose_protocols, plan
from aape_bench.records import read_record
from aape_bench.runner import run
from aape_bench.selection import select_model
from aape_bench.settings import make_config
from aape_bench.storage import write_json

HERE = Path(__file__).parent
NAME = "aape-tiny.safetensors"
SEED = 0
#: As the preset `laptop`, with more steps and the last checkpoints kept, a tenth of the steps apart.
STEPS, CANDIDATES = 3000, 5
SHORTEST, PIECE = 1.0, 10.0  # seconds
GENERATED = 1 / 3  # generated clips to each recorded one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"in place of {STEPS}")
    options = parser.parse_args()
    work = options.work.resolve()
    manifest = work / "audio.csv"
    if not manifest.exists():
        for row in packages():
            unpack(fetch(row, work / "packages"), work / "audio" / row["package"])
        write_manifest(work / "audio", manifest)
    teachers = pretrain(manifest, work / "training", options.steps)
    best = choose_teacher(teachers, work)
    write_half(best, work / NAME)
    print(f"Wrote {work / NAME}.")


def packages() -> list[dict[str, str]]:
    """The rows of packages.csv."""
    with (HERE / "packages.csv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def fetch(row: dict[str, str], folder: Path) -> Path:
    """The package's file, from the system's package source, once."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = f"{row['package']}={row['version']}"
    path = folder / f"{row['package']}_{row['version'].replace(':', '%3a')}_all.deb"
    if not path.exists():
        subprocess.run(["apt-get", "download", "--quiet", wanted], cwd=folder, check=True)
    if file_digest(path) != row["sha256"]:
        sys.exit(f"{path} is not the package of packages.csv: its SHA-256 differs. Delete it and try again.")
    return path


def unpack(package: Path, folder: Path) -> None:
    """The package's audio, below the folder, by the names that it has there."""
    done = folder / ".done"
    if done.exists():
        return
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        for member in archive:
            if member.isfile() and PurePosixPath(member.name).suffix.lower() in ENDINGS:
                archive.extract(member, folder, filter="data")
    if process.returncode:
        sys.exit(f"dpkg-deb could not read {package}.")
    folder.mkdir(parents=True, exist_ok=True)
    done.touch()


def write_manifest(root: Path, path: Path) -> None:
    """Every file of a second or more, each content once; of long ones, every piece of ten seconds is a clip."""
    hours: dict[str, float] = defaultdict(float)
    with path.with_suffix(".tmp").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["path", "start", "end"])
        for name, seconds in recordings(root):
            hours[PurePosixPath(name).parts[0]] += seconds / 3600
            pieces = max(1, int(seconds // PIECE))
            for piece in range(pieces):
                ends = "" if piece == pieces - 1 else f"{(piece + 1) * PIECE:g}"
                writer.writerow([f"{root.name}/{name}", f"{piece * PIECE:g}" if pieces > 1 else "", ends])
    path.with_suffix(".tmp").replace(path)
    write_json(path.with_name("hours.json"), {"hours": {name: round(hours[name], 3) for name in sorted(hours)}})
    print(f"{sum(hours.values()):.2f} hours of audio from {len(hours)} packages.")


def recordings(root: Path) -> Iterator[tuple[str, float]]:
    """Paths below the root and seconds."""
    known = set()
    for path in sorted(path for path in root.rglob("*") if path.suffix.lower() in ENDINGS):
        try:
            seconds = soundfile.info(path).duration
        except soundfile.LibsndfileError:
            continue
        content = hashlib.sha256(path.read_bytes()).digest()
        if seconds >= SHORTEST and content not in known:
            known.add(content)
            yield path.relative_to(root).as_posix(), seconds


def pretrain(manifest: Path, out: Path, steps: int) -> list[Path]:
    """The teachers of the last checkpoints, oldest first."""
    with manifest.open(encoding="utf-8") as handle:
        generated = round((sum(1 for _ in handle) - 1) * GENERATED)
    command = [
        *(sys.executable, "-m", "aape_bench", "pretrain", "--preset", "laptop", "--seed", str(SEED), "--resume"),
        *("--audio", str(manifest), "--audio", f"generated:modulation:{generated}", "--out", str(out)),
        *("--steps", str(steps), "--set", f"checkpoint_every={max(1, steps // 10)}"),
        *("--set", f"keep_checkpoints={CANDIDATES}", "--device", "cpu"),
    ]
    # from elsewhere: the checkout's bare folders would hide the installed package
    subprocess.run(command, cwd=manifest.parent, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return sorted(out.glob("teacher-*.safetensors"), key=lambda path: int(path.stem.rpartition("-")[2]))


def choose_teacher(teachers: list[Path], work: Path) -> Path:
    """That of the best mean accuracy on the development tasks."""
    options = Options(work / "data", work / "cache", work / "development", references=False)
    means = {}
    for teacher in teachers:
        choice = select_model("aape", {}, str(teacher), SEED)
        jobs, failures = plan([choice], AapeTraining().development_tasks(), choose_protocols(["linear"], {}), options)
        done = run(jobs, options)
        if failures or done.failures:
            raise (failures or done.failures)[0]
        records = [read_record(path) for path in done.paths]
        means[teacher] = sum(record.scores["score"] for record in records) / len(records)
        print(f"{teacher.name}: {means[teacher]:.4f} on the development tasks")
    best = max(teachers, key=lambda teacher: means[teacher])
    write_json(work / "choice.json", {"means": {t.name: m for t, m in means.items()}, "chosen": best.name})
    return best


def write_half(teacher: Path, path: Path) -> None:
    """The teacher's weights in float16 with its config and card, and the packages added to the card."""
    header = read_header(teacher)
    encoder = AapeEncoder(make_config(AapeConfig, header.config, str(teacher)), SEED)
    load_checkpoint(encoder, teacher)
    card = {**header.card, "audio": [f"{row['package']} {row['version']}" for row in packages()]}
    save_checkpoint(path, encoder.half(), "aape", header.config, card)
    print(json.dumps({"bytes": path.stat().st_size}))


if __name__ == "__main__":
    main()
