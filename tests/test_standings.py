"""Ranks, real differences, ties and means over tasks."""

from __future__ import annotations

import dataclasses
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from predicted import right_and_wrong, scored
from record_factory import Model, small, write_records

from aape_bench import metrics
from aape_bench.compare import compare
from aape_bench.errors import UsageError
from aape_bench.leaderboard import leaderboard
from aape_bench.records import predictions_of, read_all, write_record
from aape_bench.resampling import DRAWS
from aape_bench.standings.differences import Sample, letters, pairs_of, places_of
from aape_bench.standings.friedman import friedman_of
from aape_bench.standings.overall import Overall, overall
from aape_bench.standings.tables import Chosen, Table, tables_of

MODELS = [Model("strong", 2.2), Model("fair@1a2b", 1.25), Model("fairer@1a2b", 1.3), Model("weak", 0.2)]
TASKS = [small("esc50", 90, 6), small("gtzan", 80, 5), small("as20k", 60, 4)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clean models on three tasks; beside them random weights, one that saw gtzan, and a task on partial data."""
    folder = tmp_path_factory.mktemp("results")
    apart = [Model("drawn", 0.1, weights="random"), Model("saw", 2.5, overlap={"gtzan": "test"})]
    write_records(folder, [*MODELS, *apart], TASKS)
    write_records(folder, [Model("strong", 2.2), Model("weak", 0.2)], [small("us8k", 70, 4)], missing=10)
    return folder


def table_of(tables: list[Table], task: str, marks: tuple[str, ...] = ()) -> Table:
    (found,) = [table for table in tables if (table.task, table.marks) == (task, marks)]
    return found


def test_pairs_are_those_of_compare(results: Path) -> None:
    """Interval and p to the last digit, whichever metric."""
    predicted = {
        (record.model["label"], record.task["name"]): predictions_of(results, record)
        for _, record in read_all(results)[0]
    }
    tables, _ = tables_of(results)
    for task, metric in (("esc50", "accuracy"), ("as20k", "mAP")):
        pairs = table_of(tables, task).pairs
        assert len(pairs) == 10  # strong, fair, fairer, weak, saw
        for pair in pairs:
            found = compare(predicted[pair.ahead, task], predicted[pair.behind, task], metric, task, 0)
            assert (pair.low, pair.high, pair.p) == (found.low, found.high, found.p)
            assert pair.difference == found.difference


def test_scores_and_intervals_are_those_of_the_leaderboard(results: Path) -> None:
    board, _ = leaderboard(results)
    ours = {(r["model"], r["task"]): (r["ci_low"], r["ci_high"], r["rank"]) for r in board.to_dict("records")}
    for table in tables_of(results)[0]:
        for row in table.rows:
            low, high, rank = ours[row.place.model, table.task]
            assert (row.low, row.high) == (low, high)
            assert table.marks or row.place.place == rank


def test_rows_of_different_classes_share_no_table(results: Path) -> None:
    tables, _ = tables_of(results)
    models = {(table.task, table.marks): {row.place.model for row in table.rows} for table in tables}
    clean = {model.label for model in MODELS}
    assert models["esc50", ()] == clean | {"saw"}
    assert models["gtzan", ()] == clean
    assert models["gtzan", ("overlap",)] == {"saw"}
    assert models["esc50", ("random",)] == {"drawn"}
    assert models["us8k", ("partial",)] == {"strong", "weak"}
    assert [table.marks for table in tables] == sorted((table.marks for table in tables), key=lambda of: (len(of), of))


def test_means_are_over_tasks_that_all_have_and_of_one_class(results: Path) -> None:
    (clean,) = overall(tables_of(results)[0])
    assert (clean.marks, set(clean.tasks)) == ((), {"esc50", "as20k"})  # "saw" has no clean gtzan
    assert any("left out, as not every model has them: gtzan" in remark for remark in clean.remarks)
    chosen = Chosen(models=[model.label for model in MODELS])
    (every,) = overall(tables_of(results, chosen)[0])
    assert set(every.tasks) == {"esc50", "gtzan", "as20k"}
    tables = {table.task: table for table in tables_of(results, chosen)[0] if not table.marks}
    for row in every.rows:
        scores, ranks = [], []
        for table in tables.values():
            mine = next(one for one in table.rows if one.place.model == row.place.model)
            scores.append(100 * (mine.score - table.chance) / (1 - table.chance))
            ranks.append(mine.place.place)
        assert row.normalised == pytest.approx(np.mean(scores))
        assert row.mean_rank == pytest.approx(np.mean(ranks), abs=0.5)
        assert row.low < row.normalised < row.high
        assert 1 <= row.rank_low <= row.mean_rank <= row.rank_high <= 4
    assert every.rows[0].place.model == "strong"


def test_the_strong_and_the_weak_are_told_apart_and_the_fair_are_not(results: Path) -> None:
    table = table_of(tables_of(results, Chosen(models=[model.label for model in MODELS]))[0], "esc50")
    places = {row.place.model: row.place for row in table.rows}
    assert (places["strong"].best, places["strong"].worst) == (1, 1)
    assert (places["weak"].best, places["weak"].worst) == (4, 4)
    fair = places["fair@1a2b"], places["fairer@1a2b"]
    assert {(place.best, place.worst) for place in fair} == {(2, 3)}
    assert fair[0].group == fair[1].group
    assert len({places[name].group for name in ("strong", "fair@1a2b", "weak")}) == 3


def uncertain(seed: int, gains: list[float], units: int = 150) -> tuple[list[float], np.ndarray]:
    """Accuracies of models that are right with probability 0.5 + gain, and their draws."""
    rng = np.random.default_rng(seed)
    predicted = [right_and_wrong(rng.random(units) < 0.5 + gain) for gain in gains]
    draws = metrics.draws_of_each("accuracy", predicted, "toy", seed)
    return [metrics.score("accuracy", one) for one in predicted], draws


def test_equal_models_are_rarely_told_apart_in_a_table_of_many() -> None:
    """The chance of one wrong word about any of 28 pairs stays near 5 %; without Holm it is most likely."""
    names = [f"m{at}" for at in range(8)]
    wrong = unadjusted = 0
    for seed in range(60):
        merits, draws = uncertain(seed, [0.0] * 8)
        pairs = pairs_of(names, merits, draws, Sample(150, 150, 1, False))
        wrong += any(pair.distinct for pair in pairs)
        unadjusted += any(pair.p <= 0.05 for pair in pairs)
    assert wrong <= 7
    assert unadjusted >= 25


def test_real_differences_are_found_among_twenty_models() -> None:
    """190 pairs: the bootstrap's own p of 2/1001 would adjust to 0.38."""
    merits, draws = uncertain(0, [0.4] * 2 + [0.0] * 18)
    pairs = pairs_of([f"m{at:02d}" for at in range(20)], merits, draws, Sample(150, 150, 1, False))
    real = [pair for pair in pairs if pair.ahead in ("m00", "m01") and pair.behind not in ("m00", "m01")]
    assert len(real) == 36
    assert all(pair.distinct for pair in real)
    assert min(pair.p for pair in pairs) == pytest.approx(2 / (DRAWS + 1))


def test_as_many_clips_as_said_tell_a_pair_apart_four_times_in_five() -> None:
    merits, draws = uncertain(5, [0.12, 0.0], units=100)
    (pair,) = pairs_of(["a", "b"], merits, draws, Sample(200, 100, 1, True))
    assert pair.units == pytest.approx(100 * (2.8016 * pair.error / pair.difference) ** 2, abs=1.5)
    assert pair.clips == 2 * pair.units
    rng = np.random.default_rng(0)
    first = rng.random((300, pair.units)) < 0.5 + pair.difference
    second = rng.random((300, pair.units)) < 0.5
    apart = [scipy.stats.ttest_rel(a.astype(float), b).pvalue < 0.05 for a, b in zip(first, second, strict=True)]
    assert 0.68 <= np.mean(apart) <= 0.92


def test_few_groups_need_students_t() -> None:
    """Three speakers that agree are no proof: with three, t has two degrees of freedom."""
    draws = np.random.default_rng(0).normal([[0.7], [0.5]], 0.05, (2, DRAWS))
    three = pairs_of(["a", "b"], [0.7, 0.5], draws, Sample(30, 3, 1, True))[0]
    many = pairs_of(["a", "b"], [0.7, 0.5], draws, Sample(300, 300, 1, True))[0]
    assert many.distinct
    assert not three.distinct
    assert three.units > 3


@pytest.mark.parametrize("seed", range(20))
def test_letters_are_shared_exactly_by_those_that_are_not_told_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"m{at}" for at in range(7)]
    distinct = {pair for pair in combinations(names, 2) if rng.random() < 0.5}
    found = letters(names, distinct)
    for pair in combinations(names, 2):
        assert bool(set(found[pair[0]]) & set(found[pair[1]])) == (pair not in distinct)
    columns = {letter: {name for name in names if letter in found[name]} for letter in "".join(found.values())}
    assert not any(one < other for one in columns.values() for other in columns.values())  # none is idle


def test_equal_scores_share_their_place_whatever_their_last_digit() -> None:
    names, merits = ["b", "c", "a"], [0.67, 0.6699999999999999, 0.5]
    places = places_of(names, merits, pairs_of(names, merits, None, Sample(9, 9, 1, False)))
    assert [(place.model, place.place, place.best, place.worst) for place in places] == [
        ("b", 1, 1, 3), ("c", 1, 1, 3), ("a", 3, 1, 3),
    ]  # fmt: skip


def test_where_nothing_can_be_resampled_nothing_is_told_apart() -> None:
    (pair,) = pairs_of(["a", "b"], [0.9, 0.1], None, Sample(50, 1, 1, True))
    assert (pair.difference, pair.p, pair.p_holm, pair.distinct, pair.clips) == (0.8, None, None, False, None)
    assert "single group" in pair.reason


def test_friedmans_test_is_scipys_and_the_critical_difference_demsars() -> None:
    rng = np.random.default_rng(0)
    merits = rng.random((14, 4)) + np.arange(4) * 0.3
    merits[3, 1] = merits[3, 2]  # a tie
    ranks = scipy.stats.rankdata(-merits, axis=1)
    found, said = friedman_of(["a", "b", "c", "d"], ranks)
    theirs = scipy.stats.friedmanchisquare(*merits.T)
    assert (found.chi2, found.p) == pytest.approx((theirs.statistic, theirs.pvalue))
    assert found.critical == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), rel=1e-3)  # Demšar's table 5a, 4 models
    assert said == []
    mean = dict(zip("abcd", ranks.mean(axis=0), strict=True))
    for one, other in combinations("abcd", 2):
        together = any({one, other} <= set(clique) for clique in found.cliques)
        assert together == (abs(mean[one] - mean[other]) <= found.critical)


def test_too_few_tasks_are_said() -> None:
    ranks = np.array([[1.0, 2, 3, 4, 5]] * 3)
    found, said = friedman_of(list("abcde"), ranks)
    assert any("3 tasks are few" in text for text in said)
    assert found.critical < 4
    found, said = friedman_of(list("abcde"), ranks[:2])
    assert any("no two of 5 models could be told apart" in text for text in said)
    none, said = friedman_of(["a", "b"], ranks[:, :2])
    assert none is None
    assert "too few" in said[0]


def test_seeds_are_averaged_on_the_same_resamples(tmp_path: Path) -> None:
    write_records(tmp_path, [Model("m", 1.0, weights="random", seed=seed) for seed in (0, 1)], TASKS[:1])
    (table,) = tables_of(tmp_path)[0]
    (row,) = table.rows
    board, _ = leaderboard(tmp_path)
    assert row.seeds == 2
    assert (row.low, row.high) == (board["ci_low"][0], board["ci_high"][0])
    assert row.score == pytest.approx(board["score"][0])


def test_missing_predictions_take_a_model_out_and_say_so(tmp_path: Path) -> None:
    write_records(tmp_path, MODELS, TASKS[:1])
    next(tmp_path.rglob("strong-*.csv.gz")).unlink()
    (table,), remarks = tables_of(tmp_path)
    assert {row.place.model for row in table.rows} == {model.label for model in MODELS[1:]}
    assert any("strong has no place" in remark and "missing" in remark for remark in remarks)


def test_unknown_names_are_refused(results: Path) -> None:
    with pytest.raises(UsageError, match='Did you mean "esc50"'):
        tables_of(results, Chosen(tasks=["esc5"]))
    with pytest.raises(UsageError, match="No result is of all that was named"):
        tables_of(results, Chosen(tasks=["us8k"], models=["drawn"]))


def test_error_rates_rank_the_other_way_and_are_not_normalised(tmp_path: Path) -> None:
    """Records whose metric is an error rate, by its name alone: d' stands for a metric without a best."""
    write_records(tmp_path, MODELS, TASKS[:2])
    for _, record in read_all(tmp_path)[0]:
        if record.task["name"] == "gtzan":
            task, chance = {**record.task, "metric": "d_prime"}, {**record.scores, "chance": 0.0}
            write_record(tmp_path, dataclasses.replace(record, task=task, scores=chance))
    (mean,) = overall(tables_of(tmp_path)[0])
    assert isinstance(mean, Overall)
    assert mean.normalised == ("esc50",)
    assert any("no 1 to reach: gtzan" in remark for remark in mean.remarks)


def test_draws_of_several_are_those_of_each() -> None:
    first = scored(0, exclusive=True)
    second = dataclasses.replace(first, scores=first.scores[:, :, ::-1].copy())
    for metric in ("accuracy", "mAP"):
        both = metrics.draws_of_each(metric, [first, second], "toy", 3)
        for one, drawn in zip((first, second), both, strict=True):
            np.testing.assert_array_equal(metrics.draws(metric, one, "toy", 3), drawn)
