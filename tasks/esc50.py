"""ESC-50: environmental sound classification, 2000 clips of 5 s in 50 classes and 5 official folds.

Reads `meta/esc50.csv` and `audio/` as in the official archive. Fragments of one Freesound recording (`src_file`)
share a fold; they are the group. Audio that the metadata does not name is ignored.
"""

from pathlib import Path

import pandas as pd

from aape_bench.metadata import check_known, read_csv
from aape_bench.task import Archive, Task

CLASSES = (
    "airplane", "breathing", "brushing_teeth", "can_opening", "car_horn", "cat", "chainsaw", "chirping_birds",
    "church_bells", "clapping", "clock_alarm", "clock_tick", "coughing", "cow", "crackling_fire", "crickets", "crow",
    "crying_baby", "dog", "door_wood_creaks", "door_wood_knock", "drinking_sipping", "engine", "fireworks", "footsteps",
    "frog", "glass_breaking", "hand_saw", "helicopter", "hen", "insects", "keyboard_typing", "laughing", "mouse_click",
    "pig", "pouring_water", "rain", "rooster", "sea_waves", "sheep", "siren", "sneezing", "snoring", "thunderstorm",
    "toilet_flush", "train", "vacuum_cleaner", "washing_machine", "water_drops", "wind",
)  # fmt: skip


def read(root: Path) -> pd.DataFrame:
    """The clip table of `meta/esc50.csv`."""
    path = root / "meta" / "esc50.csv"
    meta = read_csv(path, ["filename", "fold", "category"])
    check_known(path, "category", meta["category"], CLASSES)
    check_known(path, "fold", meta["fold"], ("1", "2", "3", "4", "5"))
    # the source recording is the second field of the name (fold-source-take-target) where its column is missing
    source = meta["src_file"] if "src_file" in meta else meta["filename"].str.split("-").str[1]
    return pd.DataFrame(
        {
            "id": meta["filename"],
            "path": "audio/" + meta["filename"],
            "label": meta["category"],
            "fold": meta["fold"],
            "group": source,
        }
    )


task = Task(
    name="esc50",
    title="ESC-50: environmental sound, 50 classes",
    domain="sound",
    kind="multiclass",
    metric="accuracy",
    split_scheme="folds",
    clips=2000,
    classes=len(CLASSES),
    clip_seconds=5.0,
    recipe="esc50",
    read=read,
    folders=("esc50", "ESC-50-master", "ESC-50"),
    archives=(
        # no hash: the branch moves, and GitHub packs it anew on request
        Archive("https://github.com/karolpiczak/ESC-50/archive/refs/heads/master.zip", "ESC-50-master.zip", strip=1),
    ),
    by_hand="Download it from https://github.com/karolpiczak/ESC-50 and unpack it there as esc50/ or ESC-50-master/.",
    licence="CC BY-NC 3.0 (the ESC-10 subset: CC BY 3.0)",
    citation="K. J. Piczak, ESC: Dataset for Environmental Sound Classification, ACM Multimedia 2015, pp. 1015-1018",
    homepage="https://github.com/karolpiczak/ESC-50",
)
