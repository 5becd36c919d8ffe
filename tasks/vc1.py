"""VoxCeleb1, speaker identification: 153516 utterances of 1251 speakers, official parts.

Reads `iden_split.txt` ("1 id10003/na8-QEFmj44/00003.wav"; 1, 2, 3: training, validation, test) and
`wav/<speaker>/<video>/<utterance>.wav`. A speaker is the label and stands in every part, so it cannot be the group.
That is the video: a speaker's test utterances are from a video of their own (Nagrani et al. 2017). Only test rows carry
it, for the interval: between training and validation nothing is promised. Audio that the list does not name is ignored.
"""

import re
from pathlib import Path

import pandas as pd

from aape_bench.metadata import damaged, read_lines, shown
from aape_bench.task import Task

PARTS = {"1": "train", "2": "valid", "3": "test"}
SPEAKERS = 1251
FIRST_SPEAKER = 10001
LINE = re.compile(r"([123])\s+((id\d{5})/([\w-]+))/(\d{5}\.wav)", re.ASCII)


def read(root: Path) -> pd.DataFrame:
    """The clip table of `iden_split.txt`."""
    path = root / "iden_split.txt"
    rows = []
    for line in read_lines(path):
        found = LINE.fullmatch(line)
        if found is None or not 0 <= int(found[3][2:]) - FIRST_SPEAKER < SPEAKERS:
            damaged(path, f"has the line {shown(line)}, which is no part and utterance of a speaker of VoxCeleb1")
        part = PARTS[found[1]]
        utterance = f"{found[2]}/{found[5]}"
        rows.append((utterance, f"wav/{utterance}", found[3], part, found[2] if part == "test" else None))
    table = pd.DataFrame(rows, columns=["id", "path", "label", "split", "group"])
    if lacking := set(PARTS.values()) - set(table["split"]):
        damaged(path, f"lists no clips of the part {' and '.join(sorted(lacking))}")
    return table


task = Task(
    name="vc1",
    title="VoxCeleb1: speaker identification, 1251 speakers",
    domain="speech",
    kind="multiclass",
    metric="accuracy",
    split_scheme="parts",
    clips=153516,
    classes=SPEAKERS,
    part_clips=(138361, 6904, 8251),
    clip_seconds=8.2,
    recipe="vc1",
    read=read,
    folders=("vc1", "VoxCeleb1", "voxceleb1"),
    by_hand="VoxCeleb1's audio is handed out on request: fill in the form that "
    "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html links to. Join the downloaded parts (cat "
    "vox1_dev_wav_part* > vox1_dev_wav.zip), unpack vox1_dev_wav.zip and vox1_test_wav.zip both into vc1/, so that "
    "wav/id10001/ to wav/id11251/ lie side by side in it, and put "
    "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/iden_split.txt beside wav/.",
    licence="CC BY 4.0 (the audio is its owners')",
    citation="A. Nagrani, J. S. Chung, A. Zisserman, VoxCeleb: a large-scale speaker identification dataset, "
    "Interspeech 2017",
    homepage="https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html",
)
