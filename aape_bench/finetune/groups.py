"""Which parameters are trained, and at which share of the learning rate. (Imports torch.)"""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn

from aape_bench.encoder import Encoder
from aape_bench.errors import ModelError, UsageError
from aape_bench.finetune.recipe import Recipe


def parameter_groups(encoder: Encoder, head: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """The trained parameters for AdamW, each group with its `name` and the `scale` of its learning rate.

    Group i of the encoder's L layer groups (from 0) has layer_decay^(L - i): the last one layer_decay, as if the head
    were layer L. Everything else has 1, but with `stem_decay` the stem layer_decay^(L + 1). An encoder that names no
    groups is one. Vectors (biases, norms) have no weight decay. This is BEiT's rule (Bao et al., ICLR 2022) but for
    the stem, which has the full rate unless asked.

    `freeze`: that many groups and, with them, the stem, whose output they expect, get no gradient any more and are in
    no group, nor is what needs none already. Raises UsageError where there are not so many, ModelError where the
    encoder names parameters that it has not, or one twice.
    """
    named = dict(encoder.named_parameters())
    layers, stem = encoder.layer_groups(), encoder.stem_parameters()
    if layers is None:
        layers, stem = [list(named)], []
    _check_names(named, [*stem, *(name for layer in layers for name in layer)])
    depth = len(layers)
    if recipe.freeze > depth:
        raise UsageError(f"finetune: freeze={recipe.freeze} is more than the encoder's {depth} layer groups.")

    part = dict.fromkeys(named, ("rest", 1.0))
    part |= dict.fromkeys(stem, ("stem", recipe.layer_decay ** (depth + 1) if recipe.stem_decay else 1.0))
    for index, layer in enumerate(layers):
        part |= dict.fromkeys(layer, (f"layer {index}", recipe.layer_decay ** (depth - index)))
    if recipe.freeze:
        for name in [*stem, *(name for layer in layers[: recipe.freeze] for name in layer)]:
            named[name].requires_grad_(False)

    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    everything = [(*part[name], parameter) for name, parameter in named.items()]
    everything += [("head", 1.0, parameter) for parameter in head.parameters()]
    for owner, scale, parameter in everything:
        if parameter.requires_grad:
            decays = parameter.ndim > 1
            weight_decay = recipe.weight_decay if decays else 0.0
            fresh = {"params": [], "name": owner, "scale": scale, "weight_decay": weight_decay}
            groups.setdefault((owner, decays), fresh)["params"].append(parameter)
    return list(groups.values())


def _check_names(named: dict[str, nn.Parameter], listed: list[str]) -> None:
    for name, times in Counter(listed).items():
        if name not in named or times > 1:
            wrong = "which it has not" if name not in named else f"{times} times"
            raise ModelError(
                f'The encoder names the parameter "{name}" {wrong} in layer_groups and stem_parameters. '
                "Mend the encoder's plugin."
            )
