"""Products and steps of Adam for protocols that write out their gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


#: Products of fewer multiplications are sooner done than oneDNN begins.
_SMALL = 2**21


class Adam:
    """Fused torch.optim.Adam for gradients at hand. PyTorch's own class imports a compiler, which takes a second."""

    def __init__(self, parameters: Sequence[torch.Tensor], learning_rate: float, weight_decay: float = 0.0) -> None:
        import torch

        self._learning_rate, self._weight_decay = learning_rate, weight_decay
        self._means = [torch.zeros_like(parameter) for parameter in parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in parameters]
        self._counts = [torch.zeros(()) for _ in parameters]

    def step(self, parameters: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]) -> None:
        """Change the parameters in place."""
        from torch.optim.adam import adam

        adam(
            list(parameters), list(gradients), self._means, self._squares, [], self._counts, fused=True,
            lr=self._learning_rate, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=self._weight_decay,
            amsgrad=False, maximize=False,
        )  # fmt: skip

    def keep(self, rows: Sequence[int]) -> None:
        """Of parameters that hold several models in their first dimension, go on with some of these."""
        self._means = [mean[rows] for mean in self._means]
        self._squares = [square[rows] for square in self._squares]


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Of two float32 matrices. By oneDNN where PyTorch has it: on AMD's processors twice as fast as MKL."""
    multiply = _onednn()
    if multiply is None or left.numel() * right.shape[1] < _SMALL:
        return left @ right
    # it copies a first factor that is transposed, so that this had better be the smaller one
    if left.is_contiguous() or left.shape[0] < right.shape[1]:
        return multiply(left, right.T, None, "none", [], "")
    return multiply(right.T, left, None, "none", [], "").T


@functools.cache
def _onednn() -> Callable[..., torch.Tensor] | None:
    import torch

    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)
