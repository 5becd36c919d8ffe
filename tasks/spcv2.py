"""Speech Commands v0.02: keyword classification, 105829 utterances of at most 1 s, 35 words.

Reads `<word>/<speaker>_nohash_<take>.wav`, `validation_list.txt` and `testing_list.txt` as in the official archive.
Training is every utterance in neither list, so its completeness shows in the count alone. A speaker's utterances are
in one part; the speaker is the group. `_background_noise_` and other folders that begin with `_` or `.` are no
classes; a folder of another name, and a WAV file of another name in a word's folder, are refused, for by the official
rule they would be training data.
"""

import re
from pathlib import Path

import pandas as pd

from aape_bench.errors import DataError
from aape_bench.metadata import damaged, file_names, read_lines, shown
from aape_bench.task import Archive, Task

#: P. Warden 2018, table 1
WORDS = (
    "backward", "bed", "bird", "cat", "dog", "down", "eight", "five", "follow", "forward", "four", "go", "happy",
    "house", "learn", "left", "marvin", "nine", "no", "off", "on", "one", "right", "seven", "sheila", "six", "stop",
    "three", "tree", "two", "up", "visual", "wow", "yes", "zero",
)  # fmt: skip
LISTS = {"valid": "validation_list.txt", "test": "testing_list.txt"}
UTTERANCE = re.compile(rf"(?:{'|'.join(WORDS)})/(\w+)_nohash_\d+\.wav", re.ASCII)


def read(root: Path) -> pd.DataFrame:
    """The clip table of both lists and the words' folders."""
    for name in file_names(root, required=True):
        if not name.startswith("_") and name not in WORDS and (root / name).is_dir():
            raise DataError(f"The folder {root / name} is none of the {len(WORDS)} words. Move it elsewhere.")
    rows = [(line, part) for part, name in LISTS.items() for line in read_lines(root / name)]
    listed = {line for line, _ in rows}
    found = [f"{word}/{name}" for word in WORDS for name in file_names(root / word) if name.endswith(".wav")]
    rows = [(path, "train") for path in found if path not in listed] + rows
    speakers = []
    for path, part in rows:
        if utterance := UTTERANCE.fullmatch(path):
            speakers.append(utterance[1])
        elif part in LISTS:
            damaged(root / LISTS[part], f"names {shown(path)}, which is no utterance of one of the {len(WORDS)} words")
        else:
            raise DataError(f"The file {shown(path)} in {root} is no utterance of Speech Commands. Move it elsewhere.")
    table = pd.DataFrame(rows, columns=["path", "split"])
    return table.assign(id=table["path"], label=table["path"].str.partition("/")[0], group=speakers)


task = Task(
    name="spcv2",
    title="Speech Commands v0.02: keywords, 35 words",
    domain="speech",
    kind="multiclass",
    metric="accuracy",
    split_scheme="parts",
    clips=105829,
    classes=len(WORDS),
    part_clips=(84843, 9981, 11005),
    clip_seconds=1.0,
    recipe="spcv2",
    read=read,
    folders=("spcv2", "speech_commands_v0.02", "speech_commands"),
    archives=(
        Archive(  # size and SHA-256: TensorFlow Datasets, url_checksums/speech_commands.txt
            url="https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
            file="speech_commands_v0.02.tar.gz",
            size=2_428_923_189,
            hash="sha256:af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
        ),
    ),
    by_hand="Download https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_v0.02.tar.gz and "
    "unpack it there into spcv2/ (the archive has no folder of its own), so that testing_list.txt is in it.",
    licence="CC BY 4.0",
    citation="P. Warden, Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition, arXiv:1804.03209, 2018",
    homepage="https://arxiv.org/abs/1804.03209",
)
