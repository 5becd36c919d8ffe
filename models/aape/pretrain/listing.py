"""Folders of audio and manifests -> lists of files to train on."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aape_bench.errors import DataError, UsageError
from aape_bench.metadata import shown
from aape_bench.models.aape.pretrain.sources import Files, real_places

#: Endings of the kinds that libsndfile reads, as far as they are audio's alone.
ENDINGS = frozenset(
    (
        *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aif", ".aiff", ".aifc", ".au", ".snd"),
        *(".caf", ".w64", ".rf64", ".sph", ".nist", ".voc", ".avr", ".svx", ".8svx", ".ircam", ".sds", ".pvf"),
    )
)
#: Endings of audio that libsndfile does not read.
FOREIGN = frozenset(
    (".m4a", ".mp4", ".aac", ".wma", ".webm", ".mka", ".mkv", ".ape", ".wv", ".amr", ".3gp", ".ac3", ".dts", ".tta")
)

_SHOWN = 5
#: No recording is as long; more would not be a number of samples.
_MOST_SECONDS = 1e9


def read_folder(root: Path) -> Files:
    """Every audio file below a folder, by its ending, sorted by path.

    Hidden files and folders are left out. Links to folders are not followed, links to files only where those lie in
    the folder. Raises DataError where there is no audio or a folder cannot be read.
    """
    names, links, others = [], [], Counter[str]()
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    name = folder + entry.name
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(name + "/")
                    elif (ending := os.path.splitext(entry.name)[1].lower()) not in ENDINGS:  # noqa: PTH122
                        others[ending or "nameless"] += 1
                    elif entry.is_symlink():
                        links.append(name)
                    elif entry.is_file(follow_symlinks=False):
                        names.append(name)
                    else:
                        others["special"] += 1
        except OSError as error:
            raise DataError(f"The folder {root / folder} cannot be read ({error.strerror or error}).") from None
    inside, outside = _linked(root, names, links)
    names = sorted([*names, *inside])
    if not names:
        raise DataError(f"There is no audio in {root}. {_advice(root, others)}")
    return Files(root, names, remarks=tuple(_remarks(root, others, outside)))


def _linked(root: Path, names: list[str], links: list[str]) -> tuple[list[str], int]:
    """Those of the links that lead to other files within the folder, and how many lead out of it."""
    real = root.resolve()
    known = {os.path.realpath(real / name) for name in names} if links else set()
    inside, outside = [], 0
    for name in sorted(links):
        target = Path(os.path.realpath(real / name))
        if not target.is_relative_to(real):
            outside += 1
        elif str(target) not in known and target.is_file():
            known.add(str(target))
            inside.append(name)
    return inside, outside


def _remarks(root: Path, others: Counter[str], outside: int) -> list[str]:
    remarks = []
    if others:
        by_count = sorted(others.items(), key=lambda item: (-item[1], item[0]))
        most = ", ".join(f"{count} {ending}" for ending, count in by_count[:_SHOWN])
        more = ", ..." if len(others) > _SHOWN else ""
        remarks.append(f"In {root}, what is no audio by its ending was passed over ({most}{more}).")
    if foreign := sum(others[ending] for ending in FOREIGN):
        remarks.append(f"In {root}, {foreign} files are of kinds that libsndfile cannot read: convert them first.")
    if outside:
        remarks.append(f"In {root}, {outside} links that lead out of the folder were not followed.")
    return remarks


def _advice(root: Path, others: Counter[str]) -> str:
    if others[".tar"]:
        return f"Its {others['.tar']} tar files are used where they are named: --audio '{root}/*.tar'."
    if foreign := [ending for ending in sorted(FOREIGN) if others[ending]]:
        return f"libsndfile cannot read {', '.join(foreign)}: convert them, to .flac for example."
    return "Name another folder with --audio."


def read_manifest(path: Path) -> Files:
    """Files, or spans of them, from a CSV or Parquet table with a header.

    Columns: `path`, relative to the table's folder or absolute; `start` and `end`, seconds, empty for the file's own;
    `source`, equal for clips of one recording, empty for the file itself. All but the first may be missing, others are
    passed over. Raises DataError naming the row where one is wrong, UsageError where Parquet cannot be read here.
    """
    import pandas as pd

    table = _read_table(path)
    if "path" not in table:
        columns = shown(", ".join(map(str, table.columns)))
        raise DataError(f"The manifest {path} has no column path (it has: {columns}). Add one.")
    if table.empty:
        raise DataError(f"The manifest {path} lists no files.")
    given = _texts(table["path"])
    wrong = (given == "") | given.str.contains("\0", regex=False)
    if wrong.any():
        raise DataError(f"Row {_first(wrong)} of the manifest {path} has no path. Mend the row.")
    files, names = pd.factorize(given)
    real = pd.Series(list(real_places(str(path.parent), names)))
    files, names = pd.factorize(real)[0][files], names[~real.duplicated()]  # ./a.wav is a.wav
    spans = None
    if "start" in table or "end" in table:
        spans = np.stack([_seconds(path, table, column) for column in ("start", "end")], axis=1)
        if (wrong := np.nan_to_num(spans[:, 0]) >= np.nan_to_num(spans[:, 1], nan=np.inf)).any():
            raise DataError(f"Row {_first(wrong)} of the manifest {path} ends before its start. Mend the row.")
    origins = None
    if "source" in table:
        source = _texts(table["source"])
        named = pd.factorize(source)[0]
        keys = np.where(source == "", named.max() + 1 + files, named)  # no source is called as a file is
        origins = np.asarray(pd.factorize(keys)[0], dtype=np.int64)
    own = None if len(names) == len(table) else np.asarray(files, dtype=np.int64)
    return Files(path.parent, list(names), own, spans, origins)


def _read_table(path: Path) -> Any:
    import pandas as pd

    try:
        if path.suffix.lower() == ".csv":
            return pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8-sig")
        return pd.read_parquet(path, engine="pyarrow")
    except ImportError:
        raise UsageError(
            f"The manifest {path} is a Parquet table, which needs pyarrow: pip install pyarrow, or name a CSV."
        ) from None
    except OSError as error:
        raise DataError(f"The manifest {path} cannot be read ({error.strerror or error}).") from None
    except (ValueError, pd.errors.ParserError, RecursionError) as error:  # pyarrow's errors are ValueErrors
        what = shown(str(error).split("\n")[0])
        raise DataError(f"The manifest {path} is no readable table ({what}). Restore or rewrite it.") from None


def _texts(column: Any) -> Any:
    """What a column of any type says, "" where it says nothing."""
    return column.astype(str).mask(column.isna(), "").str.strip()


def _seconds(path: Path, table: Any, column: str) -> npt.NDArray[np.float64]:
    import pandas as pd

    if column not in table:
        return np.full(len(table), np.nan)
    given = table[column]
    seconds: npt.NDArray[np.float64] = pd.to_numeric(given, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    wrong = given.notna().to_numpy() & ~((seconds >= 0) & (seconds < _MOST_SECONDS))
    if wrong.any():
        raise DataError(f"Row {_first(wrong)} of the manifest {path} has no seconds in {column}. Mend the row.")
    return seconds


def _first(wrong: Any) -> int:
    """The first such row as a person counts, without the header."""
    return int(np.flatnonzero(wrong)[0]) + 1
