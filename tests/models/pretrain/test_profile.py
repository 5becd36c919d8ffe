"""What is measured is what is there: known memory, known time, known FLOPs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pytest
import torch
from pretrain_models import encoder_config, pretrain_config

from aape_bench.models.aape.pretrain.flops import step_flops
from aape_bench.models.aape.pretrain.measuring import Case, compare, peak_megabytes
from aape_bench.models.aape.pretrain.profile import variant
from aape_bench.progress import Silent


def holding(megabytes: int) -> Callable[[], Callable[[], object]]:
    """A case that holds half of it and needs the other half for a moment."""

    def build() -> Callable[[], object]:
        held = torch.ones(megabytes * 2**17)

        def call() -> None:
            del_me = held + 1
            assert del_me[0] == 2

        return call

    return build


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell their peak memory")
def test_peak_memory_is_what_was_held_and_needed() -> None:
    for megabytes in (200, 50, 120):  # a small one after a large one, too
        assert peak_megabytes(Case("", 1, holding(megabytes)), "cpu") == pytest.approx(megabytes, abs=3)


def test_times_are_medians_and_ratios_to_the_first() -> None:
    naps = {"short": 0.05, "long": 0.15}
    calls: list[str] = []

    def case(what: str) -> Case:
        def call() -> None:
            calls.append(what)
            # the first is uncounted, and one slow round does not matter
            time.sleep(0.6 if len(calls) in (1, 5) else naps[what])

        return Case(what, 1, lambda: call)

    short, long = compare([case("short"), case("long")], 3, "cpu", Silent())
    assert calls[:8] == ["short", "long"] * 4
    assert 50 <= short.milliseconds < 100
    assert long.time_ratio == pytest.approx(long.milliseconds / short.milliseconds)
    assert long.time_ratio > 1.5
    assert short.time_ratio == 1


def test_flops_of_a_step_are_those_counted_by_hand() -> None:
    """Plain stem, one block, no predictor, no contrastive loss: every matrix product of the step."""
    encoder = variant(encoder_config(blocks=1), "plain")
    config = pretrain_config(masked_weight=0, contrastive_weight=0, batch=6)
    width, tokens, kept = 32, 64, 13

    def block(count: int) -> int:
        """Forward, per sequence: qkv, projection, the MLP of four times the width, attention's two products."""
        return 2 * count * width * width * (3 + 1 + 8) + 2 * 2 * count * count * width

    stem = 2 * tokens * 256 * width
    student = config.masks * block(kept + 1)
    # the teacher forward; the student forward and, for weights and inputs, backward; the stem has no input's gradient
    by_hand = (stem + block(tokens)) + (2 * stem + 3 * student)
    # the teacher reads no CLS beyond its tokens; count its sequence as the model makes it
    by_hand += block(tokens + 1) - block(tokens)
    assert step_flops(encoder, config) == pytest.approx(config.batch * by_hand, rel=0.01)


def test_variants_keep_the_backbone_and_their_own_settings() -> None:
    own = encoder_config(window="gaussian", norm="post")
    assert variant(own, "sblu recomputed").window == "gaussian"
    plain = variant(own, "plain")
    assert (plain.stem, plain.norm, plain.dim, plain.window) == ("plain", "post", 32, "bilateral")
    assert variant(encoder_config(stem="static"), "sblu").stem == "sblu"
