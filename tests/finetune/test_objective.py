"""The head, its targets and its losses against PyTorch's own and against formulas written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aape_bench.errors import UsageError
from aape_bench.finetune.objective import Head, loss_kind, loss_of, targets_of
from aape_bench.finetune.recipe import Recipe
from aape_bench.randomness import torch_stream
from aape_bench.settings import make_config


def logits(n: int = 6, classes: int = 5) -> torch.Tensor:
    return 3 * torch.randn(n, classes, generator=torch_stream(0, "logits"))


LABELS = torch.tensor([0, 4, 2, 2, 1, 3])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_is_pytorchs(smoothing: float) -> None:
    expected = nn.functional.cross_entropy(logits(), LABELS, label_smoothing=smoothing)
    found = loss_of(logits(), targets_of(LABELS, 5, smoothing), "ce")
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_written_out(smoothing: float) -> None:
    several = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    targets = targets_of(several, 5, smoothing)
    assert targets[0].tolist() == pytest.approx([1 - 0.8 * smoothing, smoothing / 5] * 2 + [smoothing / 5])
    probability = logits(2).sigmoid()
    expected = -(targets * probability.log() + (1 - targets) * (1 - probability).log())
    assert float(loss_of(logits(2), targets, "bce")) == pytest.approx(float(expected.sum() / 10), rel=1e-5)


def test_targets_of_one_class_sum_to_one() -> None:
    assert torch.allclose(targets_of(LABELS, 5, 0.1).sum(dim=1), torch.ones(6))
    assert torch.equal(targets_of(LABELS, 5, 0.0).argmax(dim=1), LABELS)


@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_the_loss_of_mixed_targets_is_the_mixture_of_losses(kind: str) -> None:
    one, other = targets_of(LABELS, 5, 0.1), targets_of(LABELS.flip(0), 5, 0.1)
    share = 0.3
    expected = share * loss_of(logits(), one, kind) + (1 - share) * loss_of(logits(), other, kind)  # type: ignore[arg-type]
    mixed = loss_of(logits(), share * one + (1 - share) * other, kind)  # type: ignore[arg-type]
    assert float(mixed) == pytest.approx(float(expected), rel=1e-6)
    sharp = share * targets_of(LABELS, 5, 0.0) + (1 - share) * targets_of(LABELS.flip(0), 5, 0.0)
    torch.testing.assert_close(sharp * 0.9 + 0.1 / 5, share * one + (1 - share) * other)


def test_losses_are_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        for kind in ("ce", "bce"):
            half = loss_of(logits().bfloat16(), targets_of(LABELS, 5, 0.0), kind)  # type: ignore[arg-type]
            assert half.dtype == torch.float32
            full = loss_of(logits().bfloat16().float(), targets_of(LABELS, 5, 0.0), kind)  # type: ignore[arg-type]
            assert torch.equal(half, full)


@pytest.mark.parametrize(
    ("preset", "exclusive", "expected"),
    [("esc50", True, "ce"), ("as20k", False, "bce"), ("spcv2", True, "bce"), ("other", False, "bce")],
)
def test_the_loss_fits_the_labels(preset: str, exclusive: bool, expected: str) -> None:
    assert loss_kind(make_config(Recipe, {"preset": preset}, "finetune"), exclusive) == expected


def test_cross_entropy_of_many_classes_at_once_is_refused() -> None:
    with pytest.raises(UsageError, match="loss=ce"):
        loss_kind(make_config(Recipe, {"loss": "ce"}, "finetune"), exclusive=False)


def test_head_is_a_norm_and_a_linear_layer_from_its_own_seed() -> None:
    before = torch.get_rng_state()
    head, again, other = Head(400, 30, 0), Head(400, 30, 0), Head(400, 30, 1)
    assert torch.equal(torch.get_rng_state(), before)
    weight = head.linear.weight.detach()
    assert torch.equal(weight, again.linear.weight)
    assert not torch.equal(weight, other.linear.weight)
    assert (head.linear.bias == 0).all()
    assert float(weight.abs().max()) <= 0.04
    assert float(weight.std()) == pytest.approx(0.02 * 0.8796, rel=0.02)  # of a normal cut off at two deviations
    embeddings = 5 + 3 * torch.randn(2, 400, generator=torch_stream(0, "embeddings"))
    scaled = (embeddings - embeddings.mean(1, keepdim=True)) / embeddings.std(1, keepdim=True, correction=0)
    torch.testing.assert_close(head(embeddings), scaled @ weight.T, atol=1e-5, rtol=0)
    assert set(head.state_dict()) == {"norm.weight", "norm.bias", "linear.weight", "linear.bias"}
