"""A vision transformer's block as its papers write it down, on weights by timm's names; a reference for encoders."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


class Draws:
    """Weights from one generator."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator) / 5


def norm_weights(draw: Draws, name: str, width: int) -> dict[str, Tensor]:
    """Of a LayerNorm."""
    return {f"{name}.weight": 1 + draw(width), f"{name}.bias": draw(width)}


def linear_weights(draw: Draws, name: str, outputs: int, inputs: int) -> dict[str, Tensor]:
    """Of a linear layer."""
    return {f"{name}.weight": draw(outputs, inputs), f"{name}.bias": draw(outputs)}


def block_weights(draw: Draws, blocks: int, width: int) -> dict[str, Tensor]:
    """Of timm's blocks, `blocks.0.norm1.weight` and so on."""
    found: dict[str, Tensor] = {}
    for name in (f"blocks.{block}" for block in range(blocks)):
        found |= norm_weights(draw, f"{name}.norm1", width) | norm_weights(draw, f"{name}.norm2", width)
        found |= linear_weights(draw, f"{name}.attn.qkv", 3 * width, width)
        found |= linear_weights(draw, f"{name}.attn.proj", width, width)
        found |= linear_weights(draw, f"{name}.mlp.fc1", 4 * width, width)
        found |= linear_weights(draw, f"{name}.mlp.fc2", width, 4 * width)
    return found


def noise(n: int, samples: int) -> Tensor:
    """Clips of white noise, the same at every call."""
    return 0.1 * torch.randn(n, samples, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Plain:
    """The layers of a transformer on tokens (..., t, width)."""

    weights: dict[str, Tensor]
    heads: int
    eps: float = 1e-6

    def linear(self, values: Tensor, name: str) -> Tensor:
        return values @ self.weights[f"{name}.weight"].T + self.weights.get(f"{name}.bias", torch.tensor(0.0))

    def normed(self, values: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(values, weight.shape, weight, bias, self.eps)

    def attention(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | float = 0.0) -> Tensor:
        """Of all heads, side by side; bias (heads, t, t) is added before the softmax."""
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for part in (query, key, value))
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + bias
        return (scores.softmax(dim=-1) @ value).transpose(-2, -3).flatten(-2)

    def attend(self, tokens: Tensor, name: str) -> Tensor:
        parts = self.linear(tokens, f"{name}.qkv").chunk(3, dim=-1)
        return self.linear(self.attention(*parts), f"{name}.proj")

    def feed(self, tokens: Tensor, name: str) -> Tensor:
        return self.linear(F.gelu(self.linear(tokens, f"{name}.fc1")), f"{name}.fc2")

    def pre_norm_block(self, tokens: Tensor, name: str) -> Tensor:
        tokens = tokens + self.attend(self.normed(tokens, f"{name}.norm1"), f"{name}.attn")
        return tokens + self.feed(self.normed(tokens, f"{name}.norm2"), f"{name}.mlp")

    def post_norm_block(self, tokens: Tensor, name: str) -> Tensor:
        tokens = self.normed(tokens + self.attend(tokens, f"{name}.attn"), f"{name}.norm1")
        return self.normed(tokens + self.feed(tokens, f"{name}.mlp"), f"{name}.norm2")
