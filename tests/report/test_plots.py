"""The pictures of the leaderboard, read back from the SVG as a reader would see them."""

from __future__ import annotations

import itertools
import json
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pandas as pd
import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from aape_bench.errors import StorageError
from aape_bench.published import published
from aape_bench.report.plots import plot_scores

SVG = "{http://www.w3.org/2000/svg}"
LONG = "aape[window=gaussian,stem=lambda_only]@1a2b3c4d"


def entry(model: str, score: float | None, **changed: Any) -> dict[str, Any]:
    given = score is not None
    return {
        "model": model, "task": "esc50", "protocol": "linear", "metric": "accuracy", "score": score,
        "ci_low": score - 0.02 if given else None, "ci_high": score + 0.02 if given else None,
        "n_test": 2000, "folds": 5, "partial": "", "weights": "module", "pretrain_overlap": "none",
        "seeds": 1, "parameters": 1, "dimension": 8, "seconds": 1.0, "date": "2026-01-01", "record": "r.json",
        "chance": 0.02, "data": "ab12cd34", "source": "measured",
    } | changed  # fmt: skip


def draw(rows: list[dict[str, Any]], out: Path, **more: Any) -> list[Path]:
    return plot_scores(pd.DataFrame(rows), out, **more)


def texts(path: Path) -> list[ElementTree.Element]:
    return list(ElementTree.parse(path).getroot().iter(f"{SVG}text"))


def words(path: Path) -> list[str]:
    return [text.text or "" for text in texts(path)]


def markers(path: Path, edge: str, faces: str) -> list[tuple[float, float]]:
    """Points of the panels with that edge and face colour, in drawing order (the legend's come last)."""
    style = f"fill: {faces}; stroke: {edge}; stroke-width: 1.4"
    uses = [u for u in ElementTree.parse(path).getroot().iter(f"{SVG}use") if u.get("style", "").startswith(style)]
    return [(float(u.attrib["x"]), float(u.attrib["y"])) for u in uses][:-1]


def test_png_and_svg_are_valid_and_named_after_their_task(tmp_path: Path) -> None:
    paths = draw([entry("logmel", 0.4), entry("logmel", 0.6, task="tremolo")], tmp_path / "new" / "folder")
    names = ["scores-esc50", "scores-tremolo", "scores"]
    assert [path.name for path in paths] == [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(p.name for p in paths)
    for path in paths:
        if path.suffix == ".png":
            assert_valid_png(path.read_bytes())
        else:
            assert ElementTree.parse(path).getroot().tag == f"{SVG}svg"


def test_one_panel_needs_no_overview_and_an_empty_board_no_picture(tmp_path: Path) -> None:
    assert [path.name for path in draw([entry("vit", 0.5)], tmp_path)] == [
        "scores-esc50.png",
        "scores-esc50.svg",
    ]
    assert plot_scores(pd.DataFrame([entry("vit", 0.5)]).iloc[:0], tmp_path / "none") == []


def test_points_stand_where_their_scores_are_and_best_is_first(tmp_path: Path) -> None:
    scores = {"low": 0.3, "high": 0.7, "middle": 0.4}
    path = draw([entry(name, score) for name, score in scores.items()], tmp_path)[1]
    points = markers(path, "#0072b2", "#0072b2")
    assert [name for name in words(path) if name in scores] == ["high", "middle", "low"]
    (x_high, y_high), (x_middle, y_middle), (x_low, y_low) = points
    assert y_high < y_middle < y_low
    assert (x_middle - x_low) / (x_high - x_low) == pytest.approx((0.4 - 0.3) / (0.7 - 0.3), abs=1e-4)


def test_rows_that_cannot_be_ranked_are_hollow_apart_and_said(tmp_path: Path) -> None:
    rows = [
        entry("clean", 0.3),
        entry("untrained", 0.9, weights="random"),
        entry("seen", 0.8, pretrain_overlap="test"),
        entry("unknown", 0.2, pretrain_overlap="unknown"),
    ]
    path = draw(rows, tmp_path)[1]
    said = words(path)
    labels = [word for word in said if word in {"clean", "untrained", "seen", "unknown", "not ranked"}]
    assert labels == ["clean", "unknown", "not ranked", "untrained", "seen"]
    assert len(markers(path, "#0072b2", "#0072b2")) == 2
    assert len(markers(path, "#d55e00", "#ffffff")) == 2 + 1  # two rows and one of the two legend entries
    assert "esc50 · linear · accuracy — random weights in 1 of 4 rows" in said
    assert said.count("random weights") == 2  # beside the row, in the legend
    assert "pre-training overlap: test" in said


def test_partial_data_are_said_in_title_row_and_legend(tmp_path: Path) -> None:
    rows = [entry("vit", 0.5), entry("vit", 0.6, partial="100 of 2000", data="ffff0000", n_test=100)]
    paths = draw(rows, tmp_path)
    said = words(paths[1])
    assert "esc50 · linear · accuracy · data ab12cd34" in said
    assert "esc50 · linear · accuracy · data ffff0000 — partial data: 100 of 2000 clips" in said
    assert "partial data: 100 of 2000" in said
    assert "partial data" in said
    assert any("partial data: 100 of 2000 clips" in word for word in words(paths[-1]))


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_a_missing_score_or_interval_is_undefined(tmp_path: Path, nothing: float | None) -> None:
    rows = [
        entry("good", 0.5),
        entry("no interval", 0.4, ci_low=nothing, ci_high=nothing),
        entry("no score", nothing, ci_low=nothing, ci_high=nothing, chance=nothing),
    ]
    path = draw(rows, tmp_path)[1]
    said = words(path)
    assert said.index("0.400  interval undefined") > said.index("no interval")
    assert said[said.index("no score") + 1] == "undefined"
    assert len(markers(path, "#0072b2", "#0072b2")) == 2


def test_published_figures_stand_below_ours_with_their_protocol(tmp_path: Path) -> None:
    rows = [entry("vit", 0.5), entry("vit", 0.6, protocol="finetune")]
    paths = draw(rows, tmp_path, published=published())
    said = words(paths[1])
    start, second = (
        said.index("published by others, not measured here"),
        said.index("vit", said.index("vit") + 1),
    )
    frozen, tuned = said[start:second], said[second:]
    assert said.index("vit") < start
    table = published("esc50")
    best = table[table["protocol"].isin(["linear", "evar", "unstated"])]["value"].nlargest(10)
    shown = [float(word.split(" ±")[0]) for word in frozen if re.match(r"0\.\d{3}", word)]
    assert shown == [round(value, 3) for value in best]
    assert {"CLAP 2023 · evar", "PaSST · linear", "AaPE · protocol unstated"} <= set(frozen)
    assert {"BEATs iter3+ · finetune", "AaPE · protocol unstated"} <= set(tuned)
    assert not any(word.endswith("· finetune") for word in frozen)
    assert not any("· evar" in word for word in tuned)
    assert "best epoch picked on the test data" in tuned
    assert len(markers(paths[1], "#8c8c8c", "#8c8c8c")) == 20
    assert not any("published" in word for word in words(paths[-1]))  # the overview shows ours alone


def test_conflicting_published_figures_are_told_apart_by_their_source(tmp_path: Path) -> None:
    table = published("as20k")
    table = table[(table["model"] == "BEATs") & (table["variant"] == "iter3+")]
    row = entry("vit", 0.3, task="as20k", metric="mAP", protocol="finetune")
    said = words(draw([row], tmp_path, published=table)[1])
    beats = [word for word in said if word.startswith("BEATs iter3+ · finetune, ")]
    assert len(beats) == 2
    assert len(set(beats)) == 2


@pytest.mark.parametrize("count", [1, 30])
def test_labels_do_not_overlap_or_leave_the_picture(tmp_path: Path, count: int) -> None:
    rows = [entry(f"{LONG[:-2]}{i:02}", 0.9 - 0.02 * i, weights="random" if i % 3 else "none") for i in range(count)]
    rows.append(entry("aape[" + ",".join(f"setting_{i}={i}" for i in range(12)) + "]", 0.5))
    path = draw(rows, tmp_path, published=published())[1]
    width = float(ElementTree.parse(path).getroot().attrib["width"].removesuffix("pt"))
    labels = [text for text in texts(path) if "text-anchor: end" in text.get("style", "")]
    heights = sorted(float(label.attrib["y"]) for label in labels)
    assert len(labels) > count
    assert min(after - before for before, after in itertools.pairwise(heights)) > 9  # points, one line
    for text in texts(path):
        style, x = text.get("style", ""), float(text.attrib["x"])
        size = float(re.search(r"([\d.]+)px", style).group(1))  # type: ignore[union-attr]
        font = FontProperties(size=size, weight="bold" if "700" in style else "normal")
        length = TextPath((0, 0), text.text or "", prop=font).get_extents().width
        start = x - length * {"end": 1.0, "middle": 0.5}.get(re.findall(r"anchor: (\w+)|$", style)[0], 0.0)
        assert start > 0
        assert start + length < width


def test_labels_are_text_not_formulas(tmp_path: Path) -> None:
    odd = "model<a&b> $x_1$ and $y$"
    assert odd in words(draw([entry(odd, 0.5)], tmp_path)[1])


def test_task_names_that_are_not_file_names_stay_apart(tmp_path: Path) -> None:
    paths = draw([entry("vit", 0.5, task="hear:a/b"), entry("vit", 0.5, task="hear:a_b")], tmp_path)
    assert len({path.name for path in paths}) == 6
    assert all(path.parent == tmp_path and path.is_file() for path in paths)


def test_equal_boards_give_equal_bytes_whatever_the_users_style(tmp_path: Path) -> None:
    rows = [entry("vit", 0.5), entry("logmel", 0.4, weights="none"), entry("vit", 0.6, task="tremolo")]
    first = draw(rows, tmp_path / "a", published=published())
    with matplotlib.rc_context(
        {"axes.linewidth": 5, "font.weight": "bold", "svg.hashsalt": "other", "svg.fonttype": "path"}
    ):
        before = dict(matplotlib.rcParams)
        second = draw(rows, tmp_path / "b", published=published())
        assert dict(matplotlib.rcParams) == before
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_folder_that_cannot_be_written_is_named_and_left_alone(tmp_path: Path) -> None:
    in_the_way = tmp_path / "plots"
    in_the_way.write_text("a file")
    with pytest.raises(StorageError, match="plots"):
        draw([entry("vit", 0.5)], in_the_way)
    assert in_the_way.read_text() == "a file"
    assert list(tmp_path.iterdir()) == [in_the_way]


def test_a_disk_that_fills_up_leaves_old_pictures_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = {path.name: path.read_bytes() for path in draw([entry("vit", 0.5)], tmp_path)}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="full"):
        draw([entry("vit", 0.9)], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_importing_the_report_imports_neither_matplotlib_nor_pandas() -> None:
    code = "import json, sys, aape_bench.report; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert "aape_bench.report.plots" in loaded
    assert {"matplotlib", "pandas", "torch"}.isdisjoint(loaded)


def test_drawing_does_not_touch_pyplot(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, pandas as pd, json; from aape_bench.report import plot_scores;"
        "plot_scores(pd.DataFrame(json.loads(sys.argv[1])), pathlib.Path(sys.argv[2]));"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    rows = json.dumps([entry("vit", 0.5)])
    subprocess.run([sys.executable, "-c", code, rows, str(tmp_path)], check=True)
    assert (tmp_path / "scores-esc50.svg").is_file()


def assert_valid_png(data: bytes) -> None:
    """Walk the chunks: signature, checksums, and as many pixels as the header promises."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    place, pixels, width, height = 8, b"", 0, 0
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        assert struct.unpack(">I", data[place + 8 + length : place + 12 + length])[0] == zlib.crc32(kind + body)
        if kind == b"IHDR":
            width, height = struct.unpack(">II", body[:8])
        pixels += body if kind == b"IDAT" else b""
        place += 12 + length
    assert width > 500
    assert height > 150
    assert len(zlib.decompress(pixels)) == height * (1 + 4 * width)
