"""`aape_bench.stability`: encoders whose stability is known, what is found done, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from stability_toys import TAGS, TASK, Chaos, Constant, Level, Still, Toy, Unpadded, choice, make_clip, read
from toys import contents

from aape_bench.errors import DataError, StorageError, UsageError
from aape_bench.planning import Options
from aape_bench.stability import Settings, StabilityResult, read_result, stability
from aape_bench.stability.embedding import Moments, _apart_aligned
from aape_bench.stability.perturbations import window_of
from aape_bench.stability.statistics import Resamples
from aape_bench.task import Generator, Task
from aape_bench.task_data import TaskData, load_task

SETTINGS = Settings(clips=30, shifts=(20, 80, 160), stretches=(-5, 5), jitters=(10,))


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(tmp_path / "data", tmp_path / "cache", tmp_path / "results", batch_size=7)


def data_of(task: Task, options: Options) -> TaskData:
    return load_task(task, options.data_dir, options.cache_dir, options.allow_partial)


def measure(kind: type[Toy], options: Options, task: Task = TASK, settings: Settings = SETTINGS) -> StabilityResult:
    return stability(choice(kind), data_of(task, options), settings, options)


def figures(result: StabilityResult) -> dict[str, list[list[float]]]:
    return {name: np.nan_to_num([c.value, c.low, c.high], nan=-1).tolist() for name, c in result.curves.items()}


def test_what_no_shift_changes_scores_zero(options: Options) -> None:
    result = measure(Still, options)
    assert result.clips["tested"] in range(26, 31)  # a few are too short
    for name in ("scene", "tokens", "aligned", "scene_cosine", "tokens_cosine", "aligned_cosine", "flips"):
        assert np.array_equal(result.curves[name].value, np.zeros(7)), name
        if name != "flips":
            assert np.array_equal(result.curves[name].high, np.zeros(7)), name
    # that none of some 28 clips flipped does not say that none ever would
    flips = result.curves["flips"]
    assert flips.high[0] == 0
    assert ((flips.high[1:] > 0.09) & (flips.high[1:] < 0.15)).all()
    assert (flips.low == 0).all()
    assert result.curves["accuracy"].value == pytest.approx(1)


def test_what_hardly_hears_shifts_scores_near_zero(options: Options) -> None:
    result = measure(Level, options)
    assert 0 < result.curves["scene"].value[1:].max() < 0.05
    assert result.curves["flips"].value.max() < 0.1
    assert result.curves["accuracy"].value.min() > 0.85


def test_chaos_scores_one(options: Options) -> None:
    result = measure(Chaos, options, settings=replace(SETTINGS, clips=90))
    for name in ("scene", "tokens", "aligned", "scene_cosine"):
        curve = result.curves[name]
        assert curve.value[0] == curve.low[0] == curve.high[0] == 0
        assert curve.value[1:] == pytest.approx(1.1, abs=0.35), name  # the mean over the median of one distribution
        assert (curve.low[1:] < curve.value[1:]).all()
        assert (curve.value[1:] < curve.high[1:]).all()
    assert 0.3 < result.curves["flips"].value[1:].mean() < 0.8
    assert result.curves["accuracy"].value[0] < 0.7


def test_an_encoder_that_hears_nothing_has_no_relative_distance(options: Options) -> None:
    result = measure(Constant, options)
    assert np.isnan(result.curves["scene"].value).all()
    assert result.curves["flips"].value.max() == 0
    path = next((options.results_dir / "stability").rglob("*.json"))
    assert json.loads(path.read_text())["curves"]["scene"]["value"][1] is None


def test_clips_too_short_are_left_out_and_said(options: Options) -> None:
    result = measure(Level, options, settings=replace(SETTINGS, clips=90))
    short = [f"toy-{row:02d}" for row in range(90) if row % 20 == 19]
    assert sorted(clip["clip"] for clip in result.clips["left_out"]) == short
    assert result.clips["tested"] == 90 - len(short)
    assert any("left out" in remark for remark in result.remarks)
    all_short = replace(TASK, generator=Generator(lambda row: make_clip(row)[:2400], 8000, ("stability_toys",)))
    with pytest.raises(DataError, match="0 are long enough"):
        measure(Level, options, all_short)


def test_a_second_call_finds_it_done(options: Options, tmp_path: Path) -> None:
    first = measure(Level, options)
    before = contents(tmp_path)
    second = stability(choice(Level), data_of(TASK, options), SETTINGS, options)
    assert Level.given == 0
    assert contents(tmp_path) == before
    assert figures(second) == figures(first)
    assert second == replace(first, curves=second.curves)  # everything else word for word


def test_equal_commands_make_equal_figures_and_another_seed_others(tmp_path: Path) -> None:
    def run(folder: str, seed: int = 0) -> tuple[StabilityResult, bytes]:
        options = Options(tmp_path, tmp_path / folder / "cache", tmp_path / folder / "results")
        result = stability(choice(Chaos, seed), data_of(TASK, options), SETTINGS, options)
        tables = [path.read_bytes() for path in sorted((tmp_path / folder / "results").rglob("*.csv*"))]
        return result, b"".join(tables)

    (one, bytes_one), (two, bytes_two), (other, _) = run("one"), run("two"), run("other", seed=1)
    assert one.key == two.key
    assert bytes_one == bytes_two
    assert other.key != one.key
    assert figures(other) != figures(one)


def test_an_interrupted_run_leaves_no_result_and_goes_on(options: Options, tmp_path: Path) -> None:
    settings = replace(SETTINGS, clips=60)
    whole = measure(Chaos, replace(options, cache_dir=tmp_path / "b", results_dir=tmp_path / "r"), settings=settings)
    given = Chaos.given
    interrupted = choice(Chaos)
    Chaos.fails_after = given // 2
    with pytest.raises(KeyboardInterrupt):
        stability(interrupted, data_of(TASK, options), settings, options)
    assert not contents(options.results_dir)
    assert not list(options.cache_dir.rglob("*.tmp"))
    resumed = measure(Chaos, options, settings=settings)
    assert 0 < Chaos.given < given  # the first part of the clips was there
    assert figures(resumed) == figures(whole)


def test_the_result_does_not_hang_on_the_batch_size(options: Options) -> None:
    one = measure(Level, options)
    other = measure(
        Level, replace(options, batch_size=64, cache_dir=options.cache_dir / "b", results_dir=options.cache_dir / "r")
    )
    assert one.curves["scene"].value == pytest.approx(other.curves["scene"].value, abs=1e-5)


def test_damage_is_noticed_and_mended(options: Options) -> None:
    first = measure(Level, options)
    path, table = (next((options.results_dir / "stability").rglob(f"*.{kind}")) for kind in ("json", "csv"))
    assert figures(read_result(path)) == figures(first)
    for damaged in (path, table):
        whole = damaged.read_bytes()
        damaged.write_bytes(whole[:-20])
        with pytest.raises(StorageError, match=path.name.replace("[", r"\[")):
            read_result(path)
        measure(Level, options)
        assert figures(read_result(path)) == figures(first)
    part = next(options.cache_dir.rglob("*.npz"))
    part.write_bytes(part.read_bytes()[:100])
    path.unlink()
    assert figures(measure(Level, options)) == figures(first)


def test_an_encoder_without_lengths_never_sees_padding(options: Options) -> None:
    one, other = measure(Unpadded, options), measure(Level, options)
    assert np.array_equal(one.curves["scene"].value, other.curves["scene"].value)


def test_the_scale_is_that_of_the_clips_it_names(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """Distances between clips, by hand: every pair is of two groups, and as far apart as these two windows are."""
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    medians = Resamples.medians
    monkeypatch.setattr(Resamples, "medians", lambda self, *given: seen.append(given) or medians(self, *given))
    measure(Level, options)
    pairs, apart = seen[0]
    tested = pd.read_csv(next(options.results_dir.rglob("*-clips.csv.gz")))["id"].drop_duplicates().tolist()
    levels, groups = [], []
    for name in tested:
        row = int(name.removeprefix("toy-"))
        clip = make_clip(row)
        window = window_of(len(clip), 8000, SETTINGS.perturbations)
        assert window is not None
        levels.append(10 * np.log10(np.square(clip[window.start :][: window.length]).mean()))
        groups.append(read(None)["group"][row])
    for (i, j), distance in zip(pairs, apart, strict=True):
        assert groups[i] != groups[j]
        assert distance == pytest.approx(abs(levels[i] - levels[j]), abs=1e-3)


def test_moments_of_the_same_sound_are_compared() -> None:
    base = Moments(np.arange(8, dtype=np.float32)[:, None], np.arange(0, 320, 40.0))
    moved = Moments(base.vectors[:6] + 2, base.times[:6])
    assert _apart_aligned(base, moved, moved.times + 80)[0] == 0
    assert _apart_aligned(base, moved, moved.times + 95)[0] == 0  # still the nearest
    assert _apart_aligned(base, moved, moved.times + 105)[0] == pytest.approx(1)
    assert _apart_aligned(base, moved, moved.times + 9000)[0] > 0  # none is left in the window


def test_other_tasks_get_distances_only(options: Options) -> None:
    result = measure(Level, options, TAGS)
    assert set(result.curves) == {f"{name}{measure}" for name in ("scene", "tokens", "aligned")
                                  for measure in ("", "_cosine")}  # fmt: skip
    assert result.clips["trained"] == 0
    assert 0 < result.curves["scene"].value[1] < 0.05


def test_the_probe_may_get_a_part_of_the_training_clips(options: Options) -> None:
    result = measure(Level, options, settings=replace(SETTINGS, train_clips=30))
    assert result.clips["trained"] in range(24, 31)
    assert result.clips["training_clips"] == 90
    assert len(result.probe) == 3


def test_the_tables_say_what_the_json_says(options: Options) -> None:
    result = measure(Level, options)
    curves = pd.read_csv(next((options.results_dir / "stability").rglob(f"*{result.key}.csv")))
    scene = curves[(curves["quantity"] == "scene") & (curves["perturbation"] == "shift")]
    assert list(scene["amount"]) == [0, 20, 80, 160]
    assert scene["value"].to_numpy() == pytest.approx(result.curves["scene"].value[:4])
    clips = pd.read_csv(next((options.results_dir / "stability").rglob("*-clips.csv.gz")))
    assert len(clips) == 7 * result.clips["tested"]
    by_fold = clips[clips["amount"] == 80].groupby("fold")["scene"].mean()
    assert by_fold.mean() == pytest.approx(result.curves["scene"].value[2])
    base, shifted = (clips[clips["amount"] == amount].reset_index() for amount in (0, 80))
    flips = (base["predicted"] != shifted["predicted"]).groupby(base["fold"]).mean()
    assert flips.mean() == pytest.approx(result.curves["flips"].value[2])


@pytest.mark.parametrize(
    "wrong",
    [
        {"clips": 1},
        {"shifts": (0, 10)},
        {"shifts": (10, 10)},
        {"shifts": (250,)},
        {"stretches": (0,)},
        {"stretches": (50,)},
        {"jitters": (15,)},
        {"shifts": (), "stretches": (), "jitters": ()},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(UsageError):
        Settings(**wrong)  # type: ignore[arg-type]
