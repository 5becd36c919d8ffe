"""BEATs' transformer block and what attention knows of distances. (Imports torch.)"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from aape_bench.models.aape.backbone import linear

BUCKETS, MAX_DISTANCE = 320, 800
_GATES, _GATE_PARTS = 2, 4
_EPS = 1e-5


def distance_buckets(tokens: int, device: torch.device | str = "cpu") -> Tensor:
    """Which bias a query (row) adds for a key (column): (tokens, tokens) int64 in 0 .. 319.

    160 buckets for keys before or at the query, 160 for those behind it: of each the first 80 of one distance, the
    rest even in its logarithm up to 800, which the last one holds with all beyond (as T5, arXiv 1910.10683, 2.1).
    """
    place = torch.arange(tokens, device=device)
    distance = place - place[:, None]
    half, exact = BUCKETS // 2, BUCKETS // 4
    far = (distance.abs().clamp(min=1).float() / exact).log() / math.log(MAX_DISTANCE / exact) * (half - exact)
    far = (exact + far.long()).clamp(max=half - 1)
    return torch.where(distance.abs() < exact, distance.abs(), far) + half * (distance > 0)


class Block(nn.Module):
    """Post-norm: the residual weighs `alpha`, and each query gates the bias of its distances.

    The gate of a head is a (b g - 1) + 2 with a and b the sigmoids of two sums over 4 projections of the query each
    (WavLM, arXiv 2110.13900, equation 4), g the head's `gate_scale`.
    """

    def __init__(self, width: int, heads: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        self.heads, self.alpha = heads, alpha
        self.query, self.key, self.value, self.projection = (linear(width, width, generator) for _ in range(4))
        self.gate = linear(width // heads, _GATES * _GATE_PARTS, generator)
        self.gate_scale = nn.Parameter(torch.ones(heads))
        self.norm1 = nn.LayerNorm(width, _EPS)
        self.mlp = nn.Sequential(linear(width, 4 * width, generator), nn.GELU(), linear(4 * width, width, generator))
        self.norm2 = nn.LayerNorm(width, _EPS)

    def forward(
        self, tokens: Tensor, bias: Tensor, seen: Tensor | None = None, factors: Tensor | None = None
    ) -> Tensor:
        """Tokens (n, t, width) -> (n, t, width).

        bias: (heads, t, t) of the distances. seen: (n, t) bool, False where nothing may attend to a token, or None.
        factors: (n, 2), of what attention and MLP add to each clip's tokens, or None: all 1.
        """
        attended, fed = (1, 1) if factors is None else factors[:, :, None, None].unbind(dim=1)
        tokens = self.norm1(self.alpha * tokens + self.attend(tokens, bias, seen) * attended)
        return self.norm2(self.alpha * tokens + self.mlp(tokens) * fed)  # type: ignore[no-any-return]

    def attend(self, tokens: Tensor, bias: Tensor, seen: Tensor | None = None) -> Tensor:
        """Attention alone; arguments as `forward`."""
        query, key, value = (
            part(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        gates = self.gate(query).unflatten(3, (_GATES, _GATE_PARTS)).sum(dim=4).sigmoid()
        gate = gates[..., :1] * (gates[..., 1:] * self.gate_scale[:, None, None] - 1) + 2
        added = (gate * bias).to(query.dtype)
        if seen is not None:
            added = added.masked_fill(~seen[:, None, None, :], -torch.inf)
        attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=added)
        return self.projection(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]
