"""Multi-layer perceptrons with HEAR's layers and initial weights, trained side by side on the same batches.

Activations have a row for every hidden unit and a column for every row of the batch. Units of several networks stand
below each other, so that batch norm, dropout and ReLU are one operation for all of them, whatever their widths;
products are each network's own, which keeps its numbers the same whoever stands beside it. Gradients are written out:
autograd costs as much as small networks themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from aape_bench.protocols.numerics import Adam, product

if TYPE_CHECKING:
    import torch

Initialisation = Literal["xavier_uniform", "xavier_normal"]

_MOMENTUM, _EPSILON = 0.1, 1e-5  # of batch norm, PyTorch's defaults


@dataclass
class _Hidden:
    """Linear, batch norm, dropout, ReLU: weight (units, inputs), the others (units,).

    The linear layer's offset has no gradient, as batch norm takes it away again. All it does is to shift the
    running mean that training starts from, so that is where it is.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor


class Perceptron:
    """d inputs -> hidden layers (linear, batch norm, dropout, ReLU) -> linear outputs, and its Adam.

    Initial weights: Xavier with gain 1 for the layer on the embeddings and sqrt(2) behind a ReLU; offsets as
    torch.nn.Linear draws them. Source: hear-eval-kit 2021.1.3; Turian et al. 2022, "HEAR: Holistic Evaluation of
    Audio Representations".

    dropout: share of hidden units that training leaves out, in steps of 1 / 65536. initial, masks: the streams from
    which weights and left-out units are drawn.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        dropout: float,
        initialisation: Initialisation,
        learning_rate: float,
        initial: torch.Generator,
        masks: np.random.Generator,
    ) -> None:
        import torch

        self.left_out = min(round(dropout * 2**16), 2**16 - 1)
        self.masks = masks
        self.hidden: list[_Hidden] = []
        width = inputs
        for number, size in enumerate(hidden):
            weight, offset = _linear(width, size, number > 0, initialisation, initial)
            self.hidden.append(_Hidden(weight, torch.ones(size), torch.zeros(size), -offset, torch.ones(size)))
            width = size
        self.weight, self.offset = _linear(width, outputs, bool(hidden), initialisation, initial)
        self._adam = Adam(self.parameters(), learning_rate)

    def parameters(self) -> list[torch.Tensor]:
        """What is trained: the output layer's first, then hidden layers from the last to the first."""
        layers = [p for layer in reversed(self.hidden) for p in (layer.weight, layer.scale, layer.shift)]
        return [self.weight, self.offset, *layers]

    def state(self) -> list[torch.Tensor]:
        """What the outputs depend on: the parameters and batch norm's running statistics."""
        return [*self.parameters(), *(s for layer in self.hidden for s in (layer.mean, layer.variance))]

    def learn(self, gradients: Sequence[torch.Tensor]) -> None:
        """One step of Adam; gradients in the order of `parameters`."""
        self._adam.step(self.parameters(), gradients)

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits (n, outputs) of rows (n, d): running statistics, no dropout."""
        units = rows.T
        for layer in self.hidden:
            scale = layer.scale * (layer.variance + _EPSILON).rsqrt()
            shift = layer.shift - layer.mean * scale
            units = product(layer.weight, units).mul_(scale[:, None]).add_(shift[:, None]).relu_()
        return (self.weight @ units).T + self.offset


def train(networks: Sequence[Perceptron], rows: torch.Tensor, gradient: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """One step of each network on the same batch, under `torch.no_grad()`.

    networks: of equally many hidden layers and equal dropout. rows: (n, d), n >= 2 where there are hidden layers.
    gradient: of the loss by the logits, both (n, outputs).
    """
    inputs: Sequence[torch.Tensor] = [rows.T] * len(networks)
    steps: list[_Step] = []
    for level in range(len(networks[0].hidden)):
        step = _Step.forwards(networks, level, inputs)
        steps.append(step)
        inputs = step.outputs

    found: list[list[torch.Tensor]] = []
    errors = []
    for network, units in zip(networks, inputs, strict=True):
        error = gradient((network.weight @ units).T + network.offset).T
        found.append([error @ units.T, error.sum(dim=1)])
        errors.append(network.weight.T @ error if steps else error)
    for level in reversed(range(len(steps))):
        errors = steps[level].backwards(errors, found, further=level > 0)
    for network, gradients in zip(networks, found, strict=True):
        network.learn(gradients)


@dataclass(frozen=True)
class _Step:
    """What the way back through one hidden layer of all networks needs.

    inputs: of each network (inputs, n). centred, after: (units of all, n), minus their mean; behind ReLU and dropout.
    scale, inverse: (units of all,), batch norm's factor and one over the deviation in this batch.
    """

    layers: list[_Hidden]
    inputs: Sequence[torch.Tensor]
    centred: torch.Tensor
    after: torch.Tensor
    scale: torch.Tensor
    inverse: torch.Tensor
    strength: float

    @classmethod
    def forwards(cls, networks: Sequence[Perceptron], level: int, inputs: Sequence[torch.Tensor]) -> _Step:
        """The outputs of hidden layer `level` of a batch; moves batch norm's running statistics."""
        import torch

        layers = [network.hidden[level] for network in networks]
        # the units that stay count for more; ReLU lets that factor through, so that batch norm may multiply by it
        strength = 1 / (1 - networks[0].left_out / 2**16)
        scale = _stacked([layer.scale for layer in layers]) * strength
        shift = _stacked([layer.shift for layer in layers]) * strength
        units = _stacked([product(layer.weight, x) for layer, x in zip(layers, inputs, strict=True)])
        count = units.shape[1]
        mean = units.mean(dim=1)
        centred = units.sub_(mean[:, None])
        variance = torch.linalg.vector_norm(centred, dim=1).square_().div_(count)
        inverse = (variance + _EPSILON).rsqrt()
        after = (centred * (scale * inverse)[:, None]).add_(shift[:, None]).relu_()
        if networks[0].left_out:
            drawn = [_drawn(len(layer.scale), count, of.masks) for layer, of in zip(layers, networks, strict=True)]
            after = _where_above(networks[0].left_out - 2**15 - 1, _stacked(drawn).float(), after)
        step = cls(layers, inputs, centred, after, scale, inverse, strength)
        means, variances = step._shares(mean), step._shares(variance * (count / (count - 1)))
        for layer, now, spread in zip(layers, means, variances, strict=True):
            layer.mean.lerp_(now, _MOMENTUM)
            layer.variance.lerp_(spread, _MOMENTUM)
        return step

    @property
    def outputs(self) -> Sequence[torch.Tensor]:
        """Of each network, (units, n)."""
        return self._shares(self.after)

    def backwards(
        self, errors: Sequence[torch.Tensor], found: list[list[torch.Tensor]], further: bool
    ) -> list[torch.Tensor]:
        """Gradients by the outputs of each network -> by its inputs (none unless `further`); by weights: to `found`."""
        import torch

        error, scale, shift = torch.ops.aten.native_batch_norm_backward(
            _where_above(0, self.after, _stacked(errors))[None],
            self.centred[None], self.scale, None, None, torch.zeros_like(self.inverse), self.inverse,
            True, _EPSILON, [True, True, True],
        )  # fmt: skip
        parts = [self._shares(part) for part in (error[0], scale * self.strength, shift * self.strength)]
        passed = []
        for layer, x, own, *(error, scale, shift) in zip(self.layers, self.inputs, found, *parts, strict=True):
            own += [product(error, x.T), scale, shift]
            passed.append(product(layer.weight.T, error) if further else error)
        return passed

    def _shares(self, values: torch.Tensor) -> Sequence[torch.Tensor]:
        """Each network's part of what stands below each other."""
        import torch

        return torch.split(values, [len(layer.scale) for layer in self.layers])


def _stacked(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    import torch

    return parts[0].contiguous() if len(parts) == 1 else torch.cat(list(parts))


def _drawn(rows: int, columns: int, stream: np.random.Generator) -> torch.Tensor:
    """(rows, columns) int16 of which every value is equally likely, four from one draw of the generator."""
    import torch

    draws = stream.bit_generator.random_raw(-(-rows * columns // 4))
    return torch.from_numpy(draws.view(np.int16)[: rows * columns].reshape(rows, columns))


def _where_above(threshold: float, deciding: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """values where `deciding` is above the threshold, else 0: the gradient of a ReLU, and faster than torch.where."""
    import torch

    kept: torch.Tensor = torch.ops.aten.threshold_backward(values, deciding, threshold)
    return kept


def _linear(
    inputs: int, outputs: int, behind_relu: bool, how: Initialisation, stream: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    gain = 2**0.5 if behind_relu else 1.0
    deviation = gain * (2 / (inputs + outputs)) ** 0.5
    weight, offset = torch.empty(outputs, inputs), torch.empty(outputs)
    if how == "xavier_uniform":
        weight.uniform_(-(3**0.5) * deviation, 3**0.5 * deviation, generator=stream)
    else:
        weight.normal_(0, deviation, generator=stream)
    return weight, offset.uniform_(-(inputs**-0.5), inputs**-0.5, generator=stream)
