"""ESC-50: environmental sound classification, 2000 clips of 5 s in 50 classes and 5 official folds.

Reads `meta/esc50.csv` and `audio/` as in the official archive. Fragments of one Freesound recording (`src_file`)
share a fold; they are the group.
"""

from pathlib import Path

import pandas as pd

from aape_bench.clip_table import read_csv
from aape_bench.task import Task


def read(root: Path) -> pd.DataFrame:
    """The clip table of `meta/esc50.csv`."""
    meta = read_csv(root / "meta" / "esc50.csv", ["filename", "fold", "category"])
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
    classes=50,
    clip_seconds=5.0,
    read=read,
    folders=("esc50", "ESC-50-master", "ESC-50"),
    by_hand="Download it from https://github.com/karolpiczak/ESC-50 and unpack it there as esc50/ or ESC-50-master/.",
    licence="CC BY-NC 3.0 (the ESC-10 subset: CC BY 3.0)",
    citation="K. J. Piczak, ESC: Dataset for Environmental Sound Classification, ACM Multimedia 2015, pp. 1015-1018",
    homepage="https://github.com/karolpiczak/ESC-50",
)
