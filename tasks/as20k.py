"""AudioSet-20K: audio tagging, balanced training segments and evaluation segments of 10 s, 527 classes.

Reads `{balanced_train,eval}_segments.csv` (with Google's three comment lines or one plain header line) and
`class_labels_indices.csv`; audio flat in the folder or under `{balanced_train,eval}_segments/`, named `[Y]<id>`,
`[Y]<id>_<start>` or `[Y]<id>_<start>_<end>` and `.wav`, `.flac`, `.ogg` or `.mp3`; times in seconds (30, 30.0, 30.000)
or milliseconds (30000), as common downloaders write them. Two files of one segment are an error, other audio is
ignored. Many videos are gone, so every copy is a partial one. There is no official validation part. The group is the
video.
"""

import csv
import math
import re
from pathlib import Path

import pandas as pd

from aape_bench.errors import DataError
from aape_bench.metadata import damaged, file_names, read_csv, read_lines, shown
from aape_bench.task import Task

NAMES = "class_labels_indices.csv"
PARTS = {"train": "balanced_train_segments", "test": "eval_segments"}
ENDINGS = (".wav", ".flac", ".ogg", ".mp3")
VIDEO = re.compile(r"[\w-]+", re.ASCII)


def read(root: Path) -> pd.DataFrame:
    """The clip table of both segment lists."""
    path = root / NAMES
    index = read_csv(path, ["mid", "display_name"])
    for column in ("mid", "display_name"):
        if index[column].isna().any() or index[column].duplicated().any():
            damaged(path, f"has a class without a {column}, or two with the same")
    names = dict(zip(index["mid"], index["display_name"], strict=True))
    flat = file_names(root)
    return pd.concat([_part(root, part, flat, names) for part in PARTS], ignore_index=True)


def _part(root: Path, part: str, flat: list[str], names: dict[str, str]) -> pd.DataFrame:
    path = root / f"{PARTS[part]}.csv"
    inside = f"{PARTS[part]}/"
    there: dict[str, list[str]] = {}
    for folder, files in (("", flat), (inside, file_names(root / inside))):
        for file in files:
            if file.endswith(ENDINGS):
                there.setdefault(file.rpartition(".")[0], []).append(folder + file)
    usual = inside if (root / inside).is_dir() else ""
    rows = []
    for line in read_lines(path):
        if line.startswith(("#", "YTID,", '"YTID",')):
            continue
        video, start, end, mids = _segment(path, line)
        if unknown := set(mids) - names.keys():
            damaged(path, f"has the label {shown(min(unknown))}, which {NAMES} does not name")
        found = [file for stem in _stems(video, start, end) for file in there.get(stem, ())]
        if len(found) > 1:
            raise DataError(f"The segment {video} has two files in {root}, {found[0]} and {found[1]}. Keep one.")
        file = found[0] if found else f"{usual}Y{video}.wav"
        rows.append((video, file, tuple(sorted({names[mid] for mid in mids})), part, video))
    if not rows:
        damaged(path, "lists no clips")
    return pd.DataFrame(rows, columns=["id", "path", "label", "split", "group"])


def _segment(path: Path, line: str) -> tuple[str, float, float, list[str]]:
    """Video, start and end in seconds, and class ids of a line: `--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/m/05zppz"`."""
    try:
        (video, first, last, mids), *_ = csv.reader([line], skipinitialspace=True, strict=True)
        start, end = float(first), float(last)
    except (csv.Error, ValueError):
        video, start, end, mids = "", 0.0, 0.0, ""
    if not (VIDEO.fullmatch(video) and 0 <= start < end < math.inf):
        damaged(path, f"has the line {shown(line)}, which is no segment (video, start, end, labels)")
    return video, start, end, [mid.strip() for mid in mids.split(",")]


def _stems(video: str, start: float, end: float) -> list[str]:
    """Every name that the segment's file may have, without its ending."""
    spans = zip(_written(start), _written(end), strict=True)
    times = ["", *(text for first, last in spans for text in (f"_{first}", f"_{first}_{last}"))]
    return [f"{prefix}{video}{time}" for time in dict.fromkeys(times) for prefix in ("Y", "")]


def _written(seconds: float) -> tuple[str, str, str, str]:
    return f"{seconds:g}", f"{seconds:.1f}", f"{seconds:.3f}", f"{round(1000 * seconds)}"


task = Task(
    name="as20k",
    title="AudioSet-20K: audio tagging, 527 classes",
    domain="sound",
    kind="multilabel",
    metric="mAP",
    split_scheme="parts",
    clips=42531,
    classes=527,
    part_clips=(22160, 0, 20371),  # as the comment lines of Google's CSVs count them
    clip_seconds=10.0,
    recipe="as20k",
    read=read,
    folders=("as20k", "audioset"),
    by_hand="AudioSet is a list of YouTube segments; its audio must be downloaded from YouTube by each user, as far as "
    "it is still there (yt-dlp, or a downloader built on it). Put balanced_train_segments.csv, eval_segments.csv and "
    "class_labels_indices.csv from https://research.google.com/audioset/download.html into as20k/, and the audio into "
    "as20k/balanced_train_segments/ and as20k/eval_segments/ as Y<id>.wav (or .flac, .ogg, .mp3). Some videos are "
    "always missing: run with --allow-partial.",
    licence="CC BY 4.0 (labels; the audio is its owners')",
    citation="J. F. Gemmeke, D. P. W. Ellis, D. Freedman, A. Jansen, W. Lawrence, R. C. Moore, M. Plakal, M. Ritter, "
    "Audio Set: An ontology and human-labeled dataset for audio events, ICASSP 2017, pp. 776-780",
    homepage="https://research.google.com/audioset/",
)
