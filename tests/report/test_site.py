"""The static site: its pages by themselves."""

from __future__ import annotations

import copy
import errno
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_site import MODELS
from record_factory import Model, predict, small, write_records, write_result_of

from aape_bench import registry
from aape_bench.errors import StorageError, UsageError
from aape_bench.identity import digest
from aape_bench.progress import Silent
from aape_bench.records import read_record
from aape_bench.report.site import Audio, build
from aape_bench.report.site.charts import Line, lines
from aape_bench.report.site.hardest import hardest
from aape_bench.report.site.names import page_name
from aape_bench.report.site.on_the_way import rates

PLAN = {
    "model": "m", "preset": "p", "device": "cpu", "reference": "r",
    "variants": [{"name": "r", "title": "as it is", "settings": {"a": 1}}],
}  # fmt: skip


class Links(HTMLParser):
    """Every address that a page names, and every text and attribute of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts: list[str] = []
        self.ids: set[str] = set()
        self.unclosed: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.found += [str(given[name]) for name in ("href", "src") if given.get(name)]
        if "id" in given:
            assert given["id"] not in self.ids, "an id twice"
            self.ids.add(str(given["id"]))
        if tag == "script":
            self.scripts.append(str(given.get("src")))
        if tag not in ("meta", "link", "img", "input", "br"):
            self.unclosed.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed.pop() == tag


def pages(site: Path) -> dict[str, Links]:
    return {path.relative_to(site).as_posix(): Links(path.read_text("utf-8")) for path in site.rglob("*.html")}


def test_every_link_leads_to_a_file_and_nothing_needs_the_network(site: Path) -> None:
    found = pages(site)
    assert len(found) == 4 + len(MODELS) + 3
    for name, page in found.items():
        assert page.unclosed == []
        assert [Path(one).name for one in page.scripts] == ["site.js"]
        for link in page.found:
            if link.startswith(("https://", "data:,")):
                assert not link.endswith((".js", ".css", ".png", ".svg"))
                continue
            path, _, anchor = link.partition("#")
            target = (site / name).parent / path if path else site / name
            assert target.is_file(), f"{name} -> {link}"
            if anchor and target.suffix == ".html":
                assert anchor in found[target.resolve().relative_to(site.resolve()).as_posix()].ids


def test_text_of_others_is_text(site: Path) -> None:
    for path in site.rglob("*.html"):
        assert "<script>alert" not in path.read_text("utf-8")
    assert "evil&#34;&gt;&lt;script&gt;" in (site / "index.html").read_text("utf-8")


def test_a_label_does_not_turn_the_text_around_it(tmp_path: Path) -> None:
    write_records(tmp_path / "results", [Model("\u202eyako\u2066")], [small("esc50", 20, 4)])
    build(tmp_path / "results", tmp_path / "site", Silent())
    for path in (tmp_path / "site").rglob("*.html"):
        assert not re.search("[\u202a-\u202e\u2066-\u2069]", path.read_text("utf-8"))
    assert "<h1>\ufffdyako\ufffd</h1>" in next((tmp_path / "site" / "models").iterdir()).read_text("utf-8")


def test_a_site_does_not_say_where_it_was_made(made_up: Path, site: Path) -> None:
    for path in site.rglob("*"):
        if path.is_file():
            assert str(made_up).encode() not in path.read_bytes()


def test_marked_rows_have_no_rank_and_say_why(site: Path) -> None:
    text = (site / "index.html").read_text("utf-8")
    rows = [row for row in re.findall(r"<tr data-model.*?</tr>", text, re.DOTALL) if 'class="theirs"' not in row]
    assert len(rows) == len(MODELS) * 6
    for row in rows:
        state = re.search(r'data-state="([^"]*)"', row)
        rank = re.search(r"<td>(\d*)</td>", row)
        assert state is not None
        assert rank is not None
        assert bool(rank[1]) == (state[1] == "clean")
    assert sum('data-state="random"' in row for row in rows) == 6
    assert sum('data-state="overlap"' in row for row in rows) == 2


def test_scores_are_those_of_the_records(made_up: Path, site: Path) -> None:
    record = read_record(next((made_up / "records" / "esc50" / "linear").glob("good-*.json")))
    low, high = (record.scores["interval"][end] for end in ("low", "high"))
    text = (site / "tasks" / "esc50.html").read_text("utf-8")
    assert f"{record.scores['score']:.3f}</td><td>[{low:.3f}, {high:.3f}]" in text


def test_equal_records_give_equal_bytes_and_what_is_gone_is_deleted(made_up: Path, site: Path, tmp_path: Path) -> None:
    less = tmp_path / "results"
    shutil.copytree(made_up, less)
    out = tmp_path / "site"
    build(less, out, Silent())
    for path in site.rglob("*"):
        if path.is_file():
            assert (out / path.relative_to(site)).read_bytes() == path.read_bytes()
    shutil.rmtree(less / "records" / "cremad")
    build(less, out, Silent())
    assert not (out / "tasks" / "cremad.html").exists()
    assert (out / "tasks" / "esc50.html").exists()


def test_other_folders_are_left_alone(made_up: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.html").write_text("years of work")
    with pytest.raises(UsageError, match="other things than a report"):
        build(made_up, tmp_path / "mine", Silent())
    (tmp_path / "mine" / "site.json").write_text(json.dumps(["../thesis.html"]))
    with pytest.raises(StorageError, match=re.escape("does not list a report's files")):
        build(made_up, tmp_path / "mine", Silent())
    assert [path.name for path in sorted((tmp_path / "mine").iterdir())] == ["site.json", "thesis.html"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        build(made_up, tmp_path / "file", Silent())


def test_a_lost_prediction_costs_a_matrix_and_not_the_site(made_up: Path, tmp_path: Path) -> None:
    shutil.copytree(made_up, tmp_path / "results")
    for file in (tmp_path / "results" / "predictions" / "esc50" / "linear").glob("good-*"):
        file.write_bytes(b"damaged")
    build(tmp_path / "results", tmp_path / "site", Silent())
    text = (tmp_path / "site" / "tasks" / "esc50.html").read_text("utf-8")
    assert "Mistakes of good on esc50, knn" in text
    assert "Mistakes of good on esc50, linear" not in text


def test_an_interrupted_report_can_be_made_again(
    made_up: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> Path:
        if target.name == "runs.html":
            raise OSError(errno.ENOSPC, "full")
        return rename(self, target)

    rename = Path.replace
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(StorageError, match="disk is full"):
            build(made_up, tmp_path / "site", Silent())
    assert (tmp_path / "site" / "index.html").is_file()
    build(made_up, tmp_path / "site", Silent())
    there = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.*")}
    assert there == {*json.loads((tmp_path / "site" / "site.json").read_text()), "site.json"}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("plan.json", "{}"),
        ("plan.json", json.dumps({**PLAN, "variants": [1]})),
        ("plan.json", "[" * 100_000),
        ("answers.csv", "claim\nx\n"),
        ("ablation.csv", ""),
    ],
)
def test_a_damaged_ablation_is_left_out_and_said(tmp_path: Path, file: str, content: str) -> None:
    write_records(tmp_path / "results", MODELS[:1], [small("esc50", 20, 4)])
    folder = tmp_path / "results" / "ablation" / "one"
    (folder / "folder.svg").mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps(PLAN))
    build(tmp_path / "results", tmp_path / "site", Silent())
    assert (tmp_path / "site" / "ablations" / "one.html").is_file()
    (folder / file).write_text(content)
    build(tmp_path / "results", tmp_path / "site", Silent())
    assert not (tmp_path / "site" / "ablations" / "one.html").exists()
    assert "The ablation ablation/one is left out" in (tmp_path / "site" / "index.html").read_text("utf-8")


def test_no_two_names_share_a_page_on_a_disk_that_ignores_case() -> None:
    names = ["encoder", "Encoder", "a/b", "a b", "a-b", page_name("a/b"), "..", "???", "", "x" * 90, "x" * 91]
    assert page_name("encoder") == "encoder"
    assert len({page_name(name).lower() for name in names}) == len(names)
    assert all(re.fullmatch("[A-Za-z0-9_-]+", page_name(name)) for name in names)


def edited(results: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Every record as if it had been written so."""
    for path in results.glob("records/*/*/*.json"):
        record = json.loads(path.read_text())
        del record["seal"]
        change(record)
        path.write_text(json.dumps({**record, "seal": digest(record)}))


@pytest.mark.parametrize(
    "choices", [[{"fold": "1", "curve": [1, {"update": 1, "validation": 1e20}, {"update": 2, "validation": 1e20}]}],
                [{"fold": "1", "tried": 5}]],
)  # fmt: skip
def test_odd_choices_cost_a_curve_at_most(tmp_path: Path, choices: list[Any]) -> None:
    write_records(tmp_path / "results", MODELS[:1], [small("esc50", 20, 4)])
    edited(tmp_path / "results", lambda record: record["protocol"].update(choices=choices))
    assert build(tmp_path / "results", tmp_path / "site", Silent()).is_file()


def test_a_metric_of_another_version_has_no_place_and_is_said(tmp_path: Path) -> None:
    write_records(tmp_path / "results", MODELS[:2], [small("esc50", 20, 4)])
    edited(tmp_path / "results", lambda record: record["task"].update(metric="new"))
    build(tmp_path / "results", tmp_path / "site", Silent())
    assert "no table could be made" in (tmp_path / "site" / "index.html").read_text("utf-8")


def test_rates_are_means_of_seeds_and_a_rate_without_clips_is_left_out(tmp_path: Path) -> None:
    one = read_record(write_records(tmp_path, [Model("m")], [small("esc50", 20, 3)])[0])
    other = copy.deepcopy(one)
    for record, shares in ((one, (0.25, None, 1.0)), (other, (0.75, None, 0.5))):
        for of, rate, share in zip(record.scores["per_class"], ("10 Hz", "2.5 Hz", "5 Hz"), shares, strict=True):
            of.update(name=rate, accuracy=share, clips=0 if share is None else 4)
    assert rates([one, other]) == [(5.0, 0.75, 4), (10.0, 0.5, 4)]
    one.scores["per_class"][0]["name"] = "dog"
    assert rates([one]) == []


def test_a_shade_says_nothing_of_a_metric_without_a_best_score(tmp_path: Path) -> None:
    write_records(tmp_path / "results", MODELS[:1], [small("esc50", 40, 4)])
    edited(tmp_path / "results", lambda record: record["task"].update(metric="d_prime"))
    edited(tmp_path / "results", lambda record: record["scores"].update(chance=0.0, score=0.9))
    build(tmp_path / "results", tmp_path / "site", Silent())
    assert re.findall(r"--heat:([\d.]+)", (tmp_path / "site" / "index.html").read_text("utf-8")) == ["0.0"]


def test_clips_are_shown_where_the_data_are(real_data: Path, cli: Any, tmp_path: Path) -> None:
    status, _, err = cli(
        "run", "--model", "logmel", "--task", "cremad", "--data-dir", real_data, "--cache-dir", tmp_path / "cache",
        "--results-dir", tmp_path / "results", "--allow-partial",
    )  # fmt: skip
    assert status == 0, err
    build(tmp_path / "results", tmp_path / "site", Silent(), audio=Audio(real_data, tmp_path / "cache"))
    import soundfile
    from matplotlib.image import imread

    sounds = sorted((tmp_path / "site" / "clips").glob("*.ogg"))
    assert 0 < len(sounds) <= 5
    for sound in sounds:
        assert soundfile.info(sound).samplerate == 16000
        picture = imread(sound.with_suffix(".png"))
        assert picture.std() > 0.05
    assert "https://" not in (tmp_path / "site" / "clips").name
    build(tmp_path / "results", tmp_path / "site", Silent())
    assert not list((tmp_path / "site").rglob("*.ogg"))


def test_generated_clips_are_shown_only_where_clips_are_wanted(tmp_path: Path) -> None:
    task = small("tremolo", 60)
    shown = predict(MODELS[2], task, "linear")
    ids = registry.task("tremolo").read(Path())["id"].tolist()[: len(shown.ids)]
    write_result_of(tmp_path / "results", MODELS[2], task, replace(shown, ids=ids))
    for audio, there in ((None, False), (Audio(tmp_path, tmp_path), True)):
        build(tmp_path / "results", tmp_path / "site", Silent(), audio=audio)
        assert bool(list((tmp_path / "site").rglob("*.ogg"))) == there


def test_the_hardest_clip_is_the_one_whose_class_stands_lowest() -> None:
    from aape_bench.predictions import Predictions

    scores = np.array([[[9, 1, 0], [3, 2, 1], [5, 7, 6]]], np.float32)
    one = Predictions("multiclass", ["a", "b", "c"], np.array(["1"] * 3), [None] * 3, ["x", "z", "x"], ["x", "y", "z"],
                      scores, [["x", "x", "y"]])  # fmt: skip
    found = hardest([("m", one), ("n", one)], 5)
    assert [(clip.id, clip.truth, clip.place) for clip in found] == [("b", "z", 3.0), ("c", "x", 3.0)]
    assert found[0].taken_for == (("m", "x"), ("n", "x"))


def test_a_line_stands_where_its_numbers_are() -> None:
    drawn = str(lines("t", [Line("a & b", [(1.0, 0.2), (100.0, 0.8)])], "rate", "accuracy", 0.5))
    (points,) = re.findall(r'points="([^"]*)"', drawn)
    (left, low), (right, high) = [tuple(map(float, one.split(","))) for one in points.split()]
    assert left < right
    assert low > high
    assert "a &amp; b" in drawn
    level = float(re.findall(r'y1="([\d.]+)"[^>]*class="level"', drawn)[0])
    assert level == pytest.approx((low + high) / 2, abs=0.2)
