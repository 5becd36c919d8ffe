"""NSynth: instrument family of single notes of 4 s, 305979 notes, 11 families, official parts.

Reads `nsynth-{train,valid,test}/examples.json` and `audio/` beside each. No training instrument is in validation or
test, but those two share instruments, so a protocol that refits on training + validation has seen some test
instruments. The instrument is the group of test notes, and of training notes
where all of them are there: then none may be in both. `synth_lead` is in training only. Audio that the metadata does
not name is ignored.
"""

import re
from pathlib import Path

import pandas as pd

from aape_bench.metadata import check_known, damaged, read_records, shown
from aape_bench.task import Archive, Task

PARTS = ("train", "valid", "test")
PART_CLIPS = (289205, 12678, 4096)
FAMILIES = ("bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth_lead", "vocal")
NOTE = re.compile(r"[a-z_]+_\d{3}-\d{3}-\d{3}", re.ASCII)


def read(root: Path) -> pd.DataFrame:
    """The clip table of the three parts' `examples.json`."""
    return pd.concat([_part(root / f"nsynth-{part}" / "examples.json", part) for part in PARTS], ignore_index=True)


def _part(path: Path, part: str) -> pd.DataFrame:
    notes = read_records(path, ["instrument_family_str", "instrument_str"])
    for name in notes:
        if NOTE.fullmatch(name) is None:
            damaged(path, f"names {shown(name)}, which is no note (instrument-pitch-velocity)")
    # a subset may be cut otherwise; the official training part shares no instrument with test
    grouped = part == "test" or (part == "train" and len(notes) == PART_CLIPS[0])
    families = [note["instrument_family_str"] for note in notes.values()]
    check_known(path, "instrument family", families, FAMILIES)
    return pd.DataFrame(
        {
            "id": list(notes),
            "path": [f"nsynth-{part}/audio/{name}.wav" for name in notes],
            "label": families,
            "split": part,
            "group": [note["instrument_str"] if grouped else None for note in notes.values()],
        }
    )


# HTTPS to download.magenta.tensorflow.org itself fails: this is its storage.
STORE = "https://storage.googleapis.com/download.magenta.tensorflow.org/datasets/nsynth"
# MD5: hear-preprocess, nsynth_pitch.py, equal to the storage's own entity tags; sizes as public scripts record them.
ARCHIVES = (
    ("train", 23_815_298_079, "md5:fde6665a93865503ba598b9fac388660"),
    ("valid", 1_068_767_009, "md5:87e94a00a19b6dbc99cf6d4c0c0cae87"),
    ("test", 349_501_546, "md5:5e6f8719bf7e16ad0a00d518b78af77d"),
)

task = Task(
    name="nsynth",
    title="NSynth: instrument family of notes, 11 classes",
    domain="music",
    kind="multiclass",
    metric="accuracy",
    split_scheme="parts",
    clips=sum(PART_CLIPS),
    classes=len(FAMILIES),
    part_clips=PART_CLIPS,
    clip_seconds=4.0,
    recipe="nsynth",
    read=read,
    folders=("nsynth", "NSynth"),
    archives=tuple(
        Archive(f"{STORE}/nsynth-{part}.jsonwav.tar.gz", f"nsynth-{part}.jsonwav.tar.gz", size, hash)
        for part, size, hash in ARCHIVES
    ),
    by_hand="Download the three json/wav archives from https://magenta.tensorflow.org/datasets/nsynth#files and unpack "
    "them there into nsynth/, so that nsynth-train/, nsynth-valid/ and nsynth-test/ are in it.",
    licence="CC BY 4.0",
    citation="J. Engel, C. Resnick, A. Roberts, S. Dieleman, D. Eck, K. Simonyan, M. Norouzi, Neural Audio Synthesis "
    "of Musical Notes with WaveNet Autoencoders, ICML 2017",
    homepage="https://magenta.tensorflow.org/datasets/nsynth",
)
