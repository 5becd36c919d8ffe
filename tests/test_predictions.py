"""The predictions file: everything comes back as it was, damage is told, equal predictions give equal bytes."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from predicted import multiclass, scored

from aape_bench.errors import StorageError
from aape_bench.identity import file_digest
from aape_bench.predictions import Predictions, read, subset, write

TEXT = st.text(max_size=8)
NAMES = st.lists(TEXT, min_size=1, max_size=4, unique=True)
# NumPy's text drops zero characters at the end, which no fold's name has
FOLD = TEXT.filter(lambda text: not text.endswith("\0"))
SECONDS = st.floats(0, 1e6, allow_nan=False)
FLOAT32 = st.floats(width=32, allow_nan=False)


@st.composite
def predictions(draw: st.DrawFn) -> Predictions:
    kind = draw(st.sampled_from(["multiclass", "multilabel", "event"]))
    classes, clips, repeats = draw(NAMES), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    one = st.sampled_from(classes)
    label = {
        "multiclass": one,
        "multilabel": st.lists(one, unique=True).map(sorted).map(tuple),
        "event": st.lists(st.tuples(one, SECONDS, SECONDS), max_size=3).map(tuple),
    }[kind]
    labels = st.lists(label, min_size=clips, max_size=clips)
    cells = repeats * clips * len(classes)
    scores = np.array(draw(st.lists(FLOAT32, min_size=cells, max_size=cells)), np.float32)
    values = draw(st.dictionaries(TEXT, st.lists(st.floats(), min_size=clips, max_size=clips), max_size=2))
    return Predictions(
        kind=kind,
        ids=draw(st.lists(TEXT, min_size=clips, max_size=clips, unique=True)),
        folds=np.array(draw(st.lists(FOLD, min_size=clips, max_size=clips)), dtype=str),
        groups=draw(st.lists(st.none() | TEXT.filter(bool), min_size=clips, max_size=clips)),
        truth=draw(labels),
        classes=classes,
        scores=None if kind == "event" else scores.reshape(repeats, clips, len(classes)),
        decided=[] if kind == "multilabel" else draw(st.lists(labels, min_size=repeats, max_size=repeats)),
        values={name: np.array(column) for name, column in values.items()},
    )


def assert_equal(one: Predictions, other: Predictions) -> None:
    for field in dataclasses.fields(Predictions):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name == "values":
            assert list(a) == list(b)
            for name in a:
                np.testing.assert_array_equal(a[name], b[name])
        elif isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b)
            assert field.name != "scores" or a.dtype == b.dtype == np.float32
        else:
            assert a == b, field.name


@given(predictions())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_everything_comes_back(tmp_path: Path, one: Predictions) -> None:
    path = tmp_path / "p.csv.gz"
    write(path, one)
    first = path.read_bytes()
    assert_equal(read(path, file_digest(path)), one)
    write(path, read(path))
    assert path.read_bytes() == first


def test_names_with_marks_line_breaks_and_undecodable_bytes(tmp_path: Path) -> None:
    names = ['Dog, "barking"', "two\nlines\r\n", "\r", " élan ", "雨\u2028", "a\udcffb", "nan", "", "1e3"]
    one = multiclass(names, [names[::-1]], folds=["fold, 1"] * 9, groups=[*names[:-2], None, "g"])
    one = dataclasses.replace(one, ids=[f"{name}.wav" for name in names])
    write(tmp_path / "p.csv.gz", one)
    assert_equal(read(tmp_path / "p.csv.gz"), one)


def test_pandas_reads_the_file_as_its_columns_say(tmp_path: Path) -> None:
    one = scored(clips=4, classes=2, repeats=2)
    write(tmp_path / "p.csv.gz", dataclasses.replace(one, values={"R@1": np.array([0.1, 0, 1, np.nan])}))
    table = pd.read_csv(tmp_path / "p.csv.gz", dtype={"fold": str})
    assert list(table) == [
        "id", "fold", "group", "repeat", "kind", "truth", "predicted", "value:R@1", "score:c0", "score:c1",
    ]  # fmt: skip
    assert table["id"].tolist() == [*one.ids, *one.ids]
    assert table["repeat"].tolist() == [0] * 4 + [1] * 4
    assert table["score:c1"].to_numpy(np.float32).tolist() == one.scores[:, :, 1].ravel().tolist()


def test_events_of_a_long_clip(tmp_path: Path) -> None:
    many = tuple(("note", at / 7, at / 7 + 0.1) for at in range(10_000))  # more than the CSV module's 128 kB
    one = Predictions("event", ["x"], np.array(["test"]), [None], [many], ["note", "rest"], None, [[many[::2]]])
    write(tmp_path / "p.csv.gz", one)
    assert_equal(read(tmp_path / "p.csv.gz"), one)


@pytest.mark.parametrize("kind", ["cut", "flipped", "empty", "text", "other", "missing"])
def test_a_damaged_file_is_told(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "p.csv.gz"
    write(path, scored())
    digest, whole = file_digest(path), path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    damaged = {"cut": whole[:middle], "flipped": flipped, "empty": b"", "text": b"id,fold\n", "missing": None}
    damaged["other"] = gzip.compress(b"id,fold\na,1\n")
    path.unlink() if damaged[kind] is None else path.write_bytes(damaged[kind])
    with pytest.raises(StorageError, match=r"p\.csv\.gz .*Run the command that made them again"):
        read(path)
    with pytest.raises(StorageError, match="missing or not as they were written"):
        read(path, digest)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("clip 3,1", "clip 3,2"),  # a repeat that tells another fold
        ("\nclip 5,", "\nclip 4,"),
        (",0,multilabel", ",7,multilabel"),
        (",1,multilabel", ",-1,multilabel"),
        (",multilabel,", ",regression,"),
        ('"[""c', '"[[""c'),
        ("score:c1", "scores"),
        (",repeat,", ",fold,"),
        ("\nclip 5,", "\nclip 5,,"),
        ("0.25", "O.25"),
        ("0.25,", '"0.25,0.5"'),  # two scores in one cell
    ],
)
def test_rows_that_do_not_fit_are_told(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "p.csv.gz"
    write(path, scored(clips=8, repeats=2))
    text = gzip.decompress(path.read_bytes()).decode()
    assert old in text
    path.write_bytes(gzip.compress(text.replace(old, new, 1).encode()))
    with pytest.raises(StorageError, match="cannot be read"):
        read(path)


def test_another_program_s_line_ends_and_quotes_are_read(tmp_path: Path) -> None:
    path, one = tmp_path / "p.csv.gz", scored(clips=8, repeats=2)
    write(path, one)
    rows = list(csv.reader(gzip.decompress(path.read_bytes()).decode().splitlines()))
    with gzip.open(path, "wt", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows(rows)
    assert_equal(read(path), one)


@pytest.mark.parametrize("more", [",", ",1", '"x'])
def test_a_cell_too_many_is_told_where_there_are_no_scores(tmp_path: Path, more: str) -> None:
    path, event = tmp_path / "p.csv.gz", (("a", 0.0, 1.0),)
    write(path, Predictions("event", ["x"], np.array(["test"]), [None], [event], [], None, [[event]]))
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).rstrip() + more.encode() + b"\n"))
    with pytest.raises(StorageError, match="cannot be read"):
        read(path)


def test_a_quote_that_never_ends_costs_no_more_than_its_file(tmp_path: Path) -> None:
    path = tmp_path / "p.csv.gz"
    write(path, scored(clips=100))
    text = gzip.decompress(path.read_bytes()).decode()
    head, rows = text.split("\n", 1)
    path.write_bytes(gzip.compress(f'{head}\n"{rows * 2000}'.encode()))  # hours, were lines joined one by one
    with pytest.raises(StorageError, match="cannot be read"):
        read(path)


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    broken = dataclasses.replace(scored(), truth=[("c0",)] * 119 + [None])
    with pytest.raises(TypeError):
        write(tmp_path / "p.csv.gz", broken)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write(tmp_path / "file" / "p.csv.gz", scored())


def test_equal_predictions_give_equal_bytes_whenever_written(tmp_path: Path) -> None:
    write(tmp_path / "a.gz", scored())
    time.sleep(1.1)  # gzip's clock counts seconds
    write(tmp_path / "b.gz", scored())
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert gzip.GzipFile(fileobj=io.BytesIO((tmp_path / "a.gz").read_bytes())).read().startswith(b"id,fold,group,")


def test_a_subset_keeps_everything_of_its_clips() -> None:
    one = dataclasses.replace(scored(exclusive=True, repeats=2), values={"R@1": np.arange(120.0)})
    some = subset(one, np.array([5, 2]))
    assert list(some.ids) == ["clip 5", "clip 2"]
    assert some.truth == [one.truth[5], one.truth[2]]
    assert some.decided == [[of[5], of[2]] for of in one.decided]
    assert (some.scores == one.scores[:, [5, 2]]).all()
    assert some.values["R@1"].tolist() == [5, 2]


@pytest.mark.slow
def test_a_large_result_is_written_and_read_in_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [f"c{at}" for at in range(1251)]
    scores = rng.standard_normal((1, 8251, 1251)).astype(np.float32)
    decided = [names[at] for at in scores[0].argmax(axis=1)]
    one = Predictions(
        "multiclass",
        [str(at) for at in range(8251)],
        np.array(["test"] * 8251),
        [None] * 8251,
        decided,
        names,
        scores,
        [decided],
    )
    started = time.process_time()
    write(tmp_path / "p.csv.gz", one)
    back = read(tmp_path / "p.csv.gz")
    assert time.process_time() - started < 30
    assert_equal(back, one)
