"""The transformer behind the stem: ViT blocks on patch tokens, a CLS token and fixed 2-D sin-cos positions.

Dosovitskiy et al., ICLR 2021; post-norm order as EAT (Chen et al., arXiv 2401.03497). Imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from aape_bench.models.aape.config import VitConfig
from aape_bench.randomness import torch_stream


def sincos(positions: Tensor, width: int, base: float) -> Tensor:
    """Sines, then cosines, of positions at width / 2 frequencies, geometric from 1 to about 1 / base.

    positions: (n,). Returns (n, width) float32.
    """
    frequencies = base ** -(torch.arange(width // 2, device=positions.device, dtype=torch.float32) / (width // 2))
    angles = positions.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def grid_positions(steps: int, rows: int, width: int, base: float, device: torch.device | str = "cpu") -> Tensor:
    """Fixed 2-D positions: half the width for the time step, half for the row.

    Returns (steps, rows, width) float32; a position's vector is the same in every grid that contains it.
    """
    time = sincos(torch.arange(steps, device=device), width // 2, base)
    row = sincos(torch.arange(rows, device=device), width // 2, base)
    return torch.cat([time[:, None].expand(-1, rows, -1), row[None].expand(steps, -1, -1)], dim=2)


def linear(inputs: int, outputs: int, generator: torch.Generator, bias: bool = True) -> nn.Linear:
    """Linear layer with Xavier-uniform weights from the generator and zero bias."""
    # Built without storage first: the constructor would draw from the global generator.
    layer = nn.Linear(inputs, outputs, bias=bias, device="meta").to_empty(device="cpu")
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class Block(nn.Module):
    """One transformer block: self-attention and an MLP, each with a residual."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, norm: str, norm_eps: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        hidden = round(mlp_ratio * width)
        self.heads = heads
        self.pre_norm = norm == "pre"
        self.norm1 = nn.LayerNorm(width, norm_eps)
        self.qkv = linear(width, 3 * width, generator)
        self.projection = linear(width, width, generator)
        self.norm2 = nn.LayerNorm(width, norm_eps)
        self.mlp = nn.Sequential(linear(width, hidden, generator), nn.GELU(), linear(hidden, width, generator))

    def forward(
        self, tokens: Tensor, real: Tensor | None = None, factors: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(n, t, width) and, for padded batches, (n, t) bool, False where nothing may attend to a token.

        factors: (n, 2), of what attention and MLP add to each sample's tokens, or None: all 1.
        Returns the tokens and the MLP's output before its residual and factor, both (n, t, width).
        """
        attention, feed = (None, None) if factors is None else factors[:, :, None, None].unbind(dim=1)
        if self.pre_norm:
            tokens = tokens + _scaled(self._attend(self.norm1(tokens), real), attention)
            feed_forward = self.mlp(self.norm2(tokens))
            return tokens + _scaled(feed_forward, feed), feed_forward
        tokens = self.norm1(tokens + _scaled(self._attend(tokens, real), attention))
        feed_forward = self.mlp(tokens)
        return self.norm2(tokens + _scaled(feed_forward, feed)), feed_forward

    def _attend(self, tokens: Tensor, real: Tensor | None) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mask = None if real is None else real[:, None, None, :]
        attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.projection(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def _scaled(branch: Tensor, factor: Tensor | None) -> Tensor:
    return branch if factor is None else branch * factor


class Backbone(nn.Module):
    """CLS token, blocks and one LayerNorm: after the blocks if pre-norm, before them if post-norm (as EAT)."""

    def __init__(self, config: VitConfig, seed: int) -> None:
        super().__init__()
        self.position_base = config.position_base
        self.pre_norm = config.norm == "pre"
        self.cls = nn.Parameter(torch.empty(config.dim))
        nn.init.normal_(self.cls, std=config.init_std, generator=torch_stream(seed, "cls"))
        self.blocks = nn.ModuleList(
            Block(
                config.dim,
                config.n_heads,
                config.mlp_ratio,
                config.norm,
                config.norm_eps,
                torch_stream(seed, "block", index),
            )
            for index in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, config.norm_eps)

    def positions(self, steps: int, rows: int) -> Tensor:
        """(steps, rows, width), to be added to the stem's tokens before any are left out."""
        return grid_positions(steps, rows, self.cls.shape[0], self.position_base, self.cls.device)

    def forward(self, tokens: Tensor, real: Tensor | None = None, drop_path: Tensor | None = None) -> Tensor:
        """Run the blocks on CLS and any set of tokens that carry their positions already.

        tokens: (n, t, width). real: (n, t) bool, False where a token is padding, or None. drop_path: (n, blocks, 2),
        factors of every block's two residual branches (see `Encoder.drop_path`), or None.
        Returns (n, 1 + t, width), CLS first.
        """
        tokens = self._entering(tokens)
        if real is not None:
            real = nn.functional.pad(real, (1, 0), value=True)
        for index, block in enumerate(self.blocks):
            tokens, _ = block(tokens, real, None if drop_path is None else drop_path[:, index])
        return self.norm(tokens) if self.pre_norm else tokens

    def feed_forwards(self, tokens: Tensor) -> Iterator[Tensor]:
        """Run the blocks on CLS and tokens as `forward`, one block at a time.

        tokens: (n, t, width). Yields every block's MLP output before its residual, (n, t, width), without CLS.
        """
        tokens = self._entering(tokens)
        for block in self.blocks:
            tokens, feed_forward = block(tokens)
            yield feed_forward[:, 1:]

    def _entering(self, tokens: Tensor) -> Tensor:
        cls = self.cls.expand(tokens.shape[0], 1, -1)
        tokens = torch.cat([cls.to(tokens.dtype), tokens], dim=1)
        return tokens if self.pre_norm else self.norm(tokens)  # type: ignore[no-any-return]
