"""The head that is trained with the encoder, what it is to say, and its loss. (Imports torch.)"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from aape_bench.errors import UsageError
from aape_bench.finetune.recipe import Recipe
from aape_bench.randomness import torch_stream

Kind = Literal["ce", "bce"]


class Head(nn.Module):
    """LayerNorm, then a linear layer: scene embeddings (n, size) -> logits (n, classes).

    Initial weights are drawn from the seed, normal of standard deviation 0.02, cut off at twice that; biases are 0.
    """

    def __init__(self, size: int, classes: int, seed: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size, eps=1e-6)
        # Built without storage first: the constructor would draw from the global generator.
        self.linear = nn.Linear(size, classes, device="meta").to_empty(device="cpu")
        generator = torch_stream(seed, "finetune", "head")
        nn.init.trunc_normal_(self.linear.weight, std=0.02, a=-0.04, b=0.04, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.norm(embeddings))
        return logits


def loss_kind(recipe: Recipe, exclusive: bool) -> Kind:
    """The loss of a resolved recipe for labels of one class each (exclusive) or any number; see `Problem`.

    Raises UsageError for cross-entropy of labels that are not exclusive.
    """
    if recipe.loss == "auto":
        return "ce" if exclusive else "bce"
    if recipe.loss == "ce" and not exclusive:
        raise UsageError("finetune: loss=ce needs clips of exactly one class each. Use loss=bce.")
    return recipe.loss


def targets_of(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """What each output should be: t (1 - smoothing) + smoothing / classes, with t 1 for the clip's classes, else 0.

    (O) For either loss, so that the targets of a clip of one class sum to 1; mixing comes after it or before, alike.
    labels: (n,) int64, the class of each clip, or (n, classes) bool. Returns (n, classes) float32.
    """
    truth = labels.float() if labels.ndim == 2 else nn.functional.one_hot(labels, classes).float()
    return truth * (1 - smoothing) + smoothing / classes


def loss_of(logits: Tensor, targets: Tensor, kind: Kind) -> Tensor:
    """The mean loss in float32: "ce" over clips, "bce" over clips and classes.

    "bce" over classes too as it is published for audio tagging (AST: Gong et al., Interspeech 2021), which keeps
    losses of tasks with few and many classes alike; AdamW's steps do not depend on a factor.
    logits, targets: (n, classes).
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        if kind == "ce":
            return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
        return nn.functional.binary_cross_entropy_with_logits(logits, targets)
