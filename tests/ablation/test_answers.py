"""Which word a question gets, and what its sentence says."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import pytest
from ablation_scores import LOSS, MODULATION, REAL, STEM, WINDOW, row, scores

from aape_bench.ablation.answers import Answer, answer_all
from aape_bench.ablation.statistics import Scores
from aape_bench.randomness import numpy_stream
from aape_bench.training import Question

WIGGLE = (0.0, 0.004, -0.003, 0.002, -0.001)
PLAIN = Question("plain", "The stem helps", "full", ("plain",))


def around(level: float, seeds: int = 5, sign: int = 1) -> list[float]:
    return [level + sign * wiggle for wiggle in WIGGLE[:seeds]]


def ask(
    table: pd.DataFrame,
    question: Question,
    modulation: Sequence[str] = MODULATION,
    real: Sequence[str] = REAL,
) -> Answer:
    (found,) = answer_all(Scores(table), [question], {"modulation": modulation, "real": real}, "linear")
    assert found.sentence.startswith(f"{question.claim}: {found.verdict}")
    return found


@pytest.mark.parametrize(
    ("seeds", "verdict"),
    [*((few, "undecided at this scale") for few in (1, 2)), (3, "suggestive"), (4, "suggestive"), (5, "supported")],
)
def test_a_clear_gain_is_worth_as_much_as_its_seeds(seeds: int, verdict: str) -> None:
    found = ask(scores({"full": around(0.6, seeds), "plain": around(0.4, seeds, -1)}), PLAIN)
    assert found.verdict == verdict
    assert found.direction == ("" if verdict.startswith("undecided") else "for")


@pytest.mark.parametrize(("seeds", "verdict"), [(3, "suggestive"), (5, "not supported")])
def test_a_clear_loss_speaks_against_the_claim(seeds: int, verdict: str) -> None:
    found = ask(scores({"full": around(0.4, seeds), "plain": around(0.6, seeds, -1)}), PLAIN)
    assert (found.verdict, found.direction) == (verdict, "against")
    assert "full is behind plain" in found.sentence
    assert ("suggestive that it does not hold" in found.sentence) == (seeds == 3)


def test_a_gain_below_a_point_is_excluded_by_a_narrow_interval_and_not_by_a_wide_one() -> None:
    narrow = [0.5 + wiggle / 10 for wiggle in WIGGLE]
    assert ask(scores({"full": narrow, "plain": [0.5] * 5}), PLAIN).verdict == "not supported"
    wide = [0.5 + 10 * wiggle for wiggle in WIGGLE]
    found = ask(scores({"full": wide, "plain": [0.5] * 5}), PLAIN)
    assert found.verdict == "undecided at this scale"
    assert "neither no gain nor one of 0.01 is excluded" in found.sentence


def test_a_small_but_sure_gain_is_a_gain() -> None:
    full = [0.505 + wiggle / 10 for wiggle in WIGGLE]
    assert ask(scores({"full": full, "plain": [0.5] * 5}), PLAIN).verdict == "supported"


def test_the_same_function_gains_nothing() -> None:
    found = ask(scores({"full": around(0.5), "plain": around(0.5)}), PLAIN)
    assert found.verdict == "not supported"
    assert "exactly 0 in every seed" in found.sentence
    assert "full and plain score the same" in found.sentence


def test_a_claim_needs_every_pair() -> None:
    levels = {"full": around(0.6), "plain": around(0.4, sign=-1)}
    assert ask(scores({**levels, "wide": around(0.5, sign=-1)}), STEM).verdict == "supported"
    assert ask(scores({**levels, "wide": around(0.7, sign=-1)}), STEM).verdict == "not supported"
    unsure = [0.6 + 10 * wiggle for wiggle in WIGGLE]
    assert ask(scores({**levels, "wide": unsure}), STEM).verdict == "undecided at this scale"
    lacking = ask(scores(levels), STEM)
    assert lacking.verdict == "undecided at this scale"
    assert "There is no result of full − wide" in lacking.sentence


def test_a_further_pair_counts_where_it_was_trained_and_is_missed_where_not() -> None:
    levels = {"full": around(0.6), "gaussian": around(0.4, sign=-1)}
    missing = ask(scores(levels), WINDOW)
    assert missing.verdict == "suggestive"
    assert "no result of full33 − gaussian33" in missing.sentence
    further = {"full33": around(0.6), "gaussian33": around(0.4, sign=-1)}
    assert ask(scores({**levels, **further}), WINDOW).verdict == "supported"
    against = {"full33": around(0.4), "gaussian33": around(0.6, sign=-1)}
    assert ask(scores({**levels, **against}), WINDOW).verdict == "not supported"


def test_audio_of_the_same_generator_decides_nothing_alone() -> None:
    levels = {"full": around(0.6), "plain": around(0.4, sign=-1)}
    found = ask(scores(levels, overlap="same-generator"), PLAIN)
    assert found.verdict == "suggestive"
    assert "all these tasks share a generator with the audio of pre-training" in found.sentence
    backwards = {"full": around(0.4), "plain": around(0.6, sign=-1)}
    assert ask(scores(backwards, overlap="same-generator"), PLAIN).verdict == "suggestive"


@pytest.mark.parametrize("overlap", ["same-generator", "test", "train"])
def test_beside_tasks_that_pre_training_did_not_hear_it_may(overlap: str) -> None:
    levels = {"full": around(0.6), "plain": around(0.4, sign=-1)}
    heard = scores(levels, ("tremolo",), overlap=overlap)
    agreeing = ask(pd.concat([heard, scores(levels, ("clicks",))]), PLAIN)
    assert agreeing.verdict == "supported"
    assert "Caveat: " in agreeing.sentence
    assert "tremolo" in agreeing.sentence.partition("Caveat: ")[2]
    unsure = {"full": [0.5 + 10 * wiggle for wiggle in WIGGLE], "plain": [0.5] * 5}
    found = ask(pd.concat([heard, scores(unsure, ("clicks",))]), PLAIN)
    assert found.verdict == "suggestive"
    assert "do not say the same" in found.sentence


def test_unknown_training_audio_is_no_known_overlap() -> None:
    levels = {"full": around(0.6), "plain": around(0.4, sign=-1)}
    assert ask(scores(levels, overlap="unknown"), PLAIN).verdict == "supported"


def test_each_question_looks_at_its_own_endpoint_only() -> None:
    better = {"full": around(0.6), "plain": around(0.4, sign=-1)}
    worse = {"full": around(0.4), "plain": around(0.6, sign=-1)}
    table = pd.concat([scores(better, REAL), scores(worse, MODULATION)])
    assert ask(table, LOSS).verdict == "supported"
    assert ask(table, PLAIN).verdict == "not supported"
    control = pd.concat([scores(better, ("tremolo",)), scores(worse, ("pitch",))])
    assert ask(control, PLAIN, modulation=("tremolo",)).verdict == "supported"


def test_an_endpoint_without_tasks_decides_nothing() -> None:
    found = ask(scores({"full": around(0.6), "plain": around(0.4)}), LOSS, real=())
    assert found.verdict == "undecided at this scale"
    assert "No task of its endpoint was run." in found.sentence


def test_partial_data_and_lacking_seeds_are_said() -> None:
    levels = {"full": around(0.6), "plain": around(0.4, sign=-1)}
    table = scores(levels, REAL, partial="40 of 2000")
    table = table[~((table["variant"] == "plain") & (table["seed"] == 3) & (table["task"] == "gtzan"))]
    found = ask(table, LOSS)
    assert found.verdict == "suggestive"  # four seeds are left
    assert "esc50 (40 of 2000 clips)" in found.sentence
    assert "full − plain is without seed 3" in found.sentence


def test_a_score_that_is_undefined_is_no_score() -> None:
    table = scores({"full": around(0.6), "plain": around(0.4, sign=-1)}, ("tremolo",))
    bad = pd.concat([table, pd.DataFrame([row("full", 5, "tremolo", None), row("plain", 5, "tremolo", 0.4)])])
    found = ask(bad, PLAIN, modulation=("tremolo",))
    assert found.pairs[0].seeds == (0, 1, 2, 3, 4)
    assert "without seed 5" in found.sentence


def test_the_sentence_has_the_figures() -> None:
    table = scores({"full": [0.52, 0.54, 0.53], "plain": [0.50, 0.50, 0.50]})
    # scipy: ttest_1samp([0.02, 0.04, 0.03], 0).confidence_interval() is 0.00516, 0.05484
    assert "(linear, 3 seeds), full − plain is +0.030 [+0.005, +0.055]." in ask(table, PLAIN).sentence


def test_where_nothing_differs_a_claim_is_seldom_supported() -> None:
    draw = numpy_stream(0, "test", "level")
    words = []
    for _ in range(400):
        full, plain = draw.normal(0.5, 0.02, (2, 5))
        words.append(ask(scores({"full": full, "plain": plain}, ("tremolo",)), PLAIN, ("tremolo",)).verdict)
    assert words.count("supported") <= 20  # 10 are expected at 2.5 %
