"""The pictures of an ablation, read back from the SVG as a reader would see them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from ablation_scores import LOSS, STEM, plan, scores

from aape_bench.report.ablation import plot
from aape_bench.training import Curves, Question

SVG = "{http://www.w3.org/2000/svg}"
FULL, PLAIN = [0.60, 0.64, 0.62], [0.50, 0.52, 0.54]
BLUE = "#0072b2"
ONE = Question("one", "The stem helps", "full", ("plain",))


def table(columns: str, rows: list[tuple[Any, ...]] | None = None) -> pd.DataFrame:
    return pd.DataFrame(rows or [], columns=columns.split())


def stability(rows: list[tuple[Any, ...]] | None = None) -> pd.DataFrame:
    return table("variant seed task kind amount unit quantity value", rows)


def rates(rows: list[tuple[Any, ...]] | None = None) -> pd.DataFrame:
    return table("task variant seed rate accuracy", rows)


def curves(rows: list[tuple[Any, ...]], **more: Any) -> Curves:
    return Curves("training", "Training", "step", "loss", table("panel variant seed x y", rows), **more)


def draw(out: Path, found: pd.DataFrame | None = None, **parts: Any) -> dict[str, Path]:
    found = scores({"full": FULL, "plain": PLAIN}) if found is None else found
    planned = parts.pop("plan", plan(("full", "plain"), (ONE,)))
    given = {"stability": stability(), "rates": rates(), "curves": [], **parts}
    return {path.name: path for path in plot(planned, found, folder=out, **given)}


def words(path: Path) -> list[str]:
    return [text.text or "" for text in ElementTree.parse(path).getroot().iter(f"{SVG}text")]


def lines(path: Path, colour: str, width: str, dashes: bool = False) -> list[list[tuple[float, float]]]:
    """Points of the lines of that colour and width, in drawing order."""
    found = []
    for line in ElementTree.parse(path).getroot().iter(f"{SVG}path"):
        style = line.get("style", "")
        drawn = f"stroke: {colour};" in style and f"stroke-width: {width}" in style
        if not drawn or ("dasharray" in style) != dashes:
            continue
        points = re.findall(r"[ML] (\S+) (\S+)", line.attrib["d"])
        found.append([(float(x), float(y)) for x, y in points])
    return found


def test_only_what_there_is_is_drawn_each_as_png_and_svg(tmp_path: Path) -> None:
    assert set(draw(tmp_path / "a")) == {f"{name}.{kind}" for name in ("answers", "forest") for kind in ("png", "svg")}
    assert draw(tmp_path / "none", scores({"full": [0.5]}).iloc[:0]) == {}
    more = draw(
        tmp_path / "b",
        stability=stability([("full", 0, "tremolo", "shift", 40.0, "ms", "scene", 0.3)]),
        rates=rates([("tremolo", "full", 0, 2.0, 0.5)]),
        curves=[curves([("loss", "full", 0, 1, 2.0)]), Curves("empty", "", "", "", table("panel variant seed x y"))],
    )
    names = ("answers", "forest", "rates", "stability", "training")
    assert set(more) == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == sorted(more)
    assert more["rates.png"].read_bytes().startswith(b"\x89PNG")


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    first, second = draw(tmp_path / "a"), draw(tmp_path / "b")
    for name in first:
        assert first[name].read_bytes() == second[name].read_bytes()


def test_an_answer_shows_its_verdict_and_interval(tmp_path: Path) -> None:
    path = draw(tmp_path)["answers.svg"]
    said = words(path)
    assert "The stem helps: suggestive." in said
    assert "full − plain" in said
    # scipy: ttest_1samp([0.10, 0.12, 0.08], 0).confidence_interval() is 0.0503, 0.1497
    assert "+0.100 [+0.050, +0.150]" in said
    ((left, _), (right, _)) = lines(path, BLUE, "1.6")[0]
    (zero, _), _ = lines(path, "#222222", "0.8")[0]
    # the interval's ends lie as far from 0 as their numbers say
    assert (left - zero) / (right - zero) == pytest.approx(0.0503 / 0.1497, abs=0.002)


def test_long_claims_and_many_questions_stay_inside_the_picture(tmp_path: Path) -> None:
    long = Question("long", "The " + "very " * 30 + "long claim holds", "full", ("plain",))
    path = draw(tmp_path, plan=plan(("full", "plain"), (long, STEM, LOSS)))["answers.svg"]
    said = [word for word in words(path) if "very" in word]
    assert len(said) > 1
    assert max(map(len, said)) <= 64


def test_the_forest_has_a_panel_for_every_endpoint_and_task(tmp_path: Path) -> None:
    found = pd.concat(
        [
            scores({"full": FULL, "plain": PLAIN}, ("tremolo", "clicks"), overlap="same-generator"),
            scores({"full": FULL, "plain": PLAIN}, ("esc50",), partial="40 of 2000"),
            scores({"full": FULL, "plain": PLAIN}, ("esc50",), protocol="knn"),
        ]
    )
    moved = [(name, seed, "tremolo", "shift", 40.0, "ms", "scene", 0.1 * (seed + 1) + far)
             for name, far in (("full", 0.0), ("plain", 0.5)) for seed in range(3)]  # fmt: skip
    said = words(draw(tmp_path, found, stability=stability(moved))["forest.svg"])
    panels = ["mean: modulation", "tremolo", "clicks", "esc50", "esc50 (knn)", "shifted tremolo: scene"]
    assert [word for word in said if word in panels] == panels
    assert said.count("same-generator") == 3
    assert said.count("partial data") == 1
    assert "mean: real" not in said  # gtzan is lacking


def test_a_variant_that_is_worse_stands_left_of_the_reference(tmp_path: Path) -> None:
    path = draw(tmp_path, scores({"full": FULL, "plain": PLAIN}, ("tremolo",)))["forest.svg"]
    (zero, _), _ = lines(path, "#222222", "0.8")[0]
    assert all(x < zero for line in lines(path, BLUE, "1.6") for x, _ in line)


def test_a_line_is_the_mean_of_its_seeds_and_a_variant_keeps_its_colour(tmp_path: Path) -> None:
    drawn = draw(
        tmp_path,
        rates=rates([("tremolo", "plain", seed, rate, 0.1 * rate * (seed + 1)) for seed in (0, 1) for rate in (2, 4)]),
        curves=[curves([("loss", "plain", seed, step, step + 2 * seed) for seed in (0, 1) for step in range(20)])],
    )
    for name in ("rates.svg", "training.svg"):
        # plain is the second variant, whether or not the first has a line
        (mean, *_), thin = lines(drawn[name], "#d55e00", "1.5"), lines(drawn[name], "#d55e00", "0.6")
        assert len(thin) == 2
        for (_, y), (_, low), (_, high) in zip(mean, *thin, strict=True):
            assert y == pytest.approx((low + high) / 2, abs=1e-3)
        assert "plain" in words(drawn[name])
        assert "full" not in words(drawn[name])


def test_the_mean_stops_where_a_seed_does(tmp_path: Path) -> None:
    rows = [("loss", "full", seed, step, 1.0 * step) for seed, last in ((0, 20), (1, 30)) for step in range(last)]
    path = draw(tmp_path, curves=[curves(rows)])["training.svg"]
    mean = lines(path, BLUE, "1.5")[0]
    longest = max(lines(path, BLUE, "0.6"), key=lambda line: line[-1][0])
    assert mean[0][0] == pytest.approx(longest[0][0])
    assert (mean[-1][0] - mean[0][0]) / (longest[-1][0] - longest[0][0]) == pytest.approx(19 / 29, abs=1e-3)


def test_lines_of_no_seed_and_logarithmic_axes(tmp_path: Path) -> None:
    rows = [("K = 129", name, None, x, x**power) for name, power in (("full", -1), ("plain", -3)) for x in (1, 10, 100)]
    path = draw(tmp_path, curves=[curves(rows, log_x=True, log_y=True)])["training.svg"]
    (first,) = lines(path, BLUE, "1.5")[:1]
    (x0, y0), (x1, y1), (x2, y2) = first
    assert x1 - x0 == pytest.approx(x2 - x1, abs=1e-3)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=1e-3)
    assert {"K = 129", "1", "10", "100", "0.01"} <= set(words(path))


def test_what_hardly_changes_looks_so_on_a_logarithmic_axis(tmp_path: Path) -> None:
    heights = []
    for name, growth in (("little", 1.01), ("much", 100.0)):
        rows = [("", "full", 0, x, growth ** (x / 19)) for x in range(20)]
        path = draw(tmp_path / name, curves=[curves(rows, log_y=True)])["training.svg"]
        ys = [y for _, y in lines(path, BLUE, "1.5")[0]]
        heights.append(max(ys) - min(ys))
    assert heights[0] < 0.05 * heights[1]


def test_a_plugin_may_draw_other_things_than_variants(tmp_path: Path) -> None:
    rows = [("", name, None, x, x + at) for at, name in enumerate(("two-sided", "full")) for x in range(20)]
    path = draw(tmp_path, curves=[curves(rows)])["training.svg"]
    assert {"two-sided", "full"} <= set(words(path))
    assert len(lines(path, BLUE, "1.5")) == 2  # of full, and its line in the legend
    assert len(lines(path, "#009e73", "1.5")) == 2


def test_more_variants_than_colours_differ_by_their_dashes(tmp_path: Path) -> None:
    names = tuple(f"v{number}" for number in range(10))
    rows = [("loss", name, 0, step, step + number) for number, name in enumerate(names) for step in range(20)]
    drawn = draw(tmp_path, scores({"v0": FULL, "v8": PLAIN}), plan=plan(names, ()), curves=[curves(rows)])
    path = drawn["training.svg"]
    assert set(names) <= set(words(path))
    assert len(lines(path, BLUE, "1.5")) == len(lines(path, BLUE, "1.5", dashes=True)) > 0


@pytest.mark.parametrize("others", [True, False])
def test_stability_has_a_panel_per_quantity_and_names_the_perturbations(tmp_path: Path, others: bool) -> None:
    versions = [("shift", float(ms), "ms") for ms in (0, 40, 80)] + [("stretch", -2.0, "%"), ("jitter", 10.0, "ms")]
    rows = [
        (name, seed, "tremolo", *version, quantity, 0.1 * seed + 0.01 * at)
        for name in ("full", "plain")
        for seed in (0, 1)
        for quantity in ("scene", "accuracy", "scene_cosine")
        for at, version in enumerate(versions if others else versions[:3])
    ]
    path = draw(tmp_path, stability=stability(rows))["stability.svg"]
    said = words(path)
    assert "Stability on tremolo" in said
    assert "probe: accuracy" in said
    assert ("stretch -2 %" in said) == ("jitter 10 ms" in said) == others
    steps = np.diff([x for x, _ in lines(path, BLUE, "1.5")[0]])
    assert steps[0] == pytest.approx(steps[1], abs=1e-3)
