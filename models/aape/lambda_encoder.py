"""Where the modes' decay and frequency come from: a shallow transformer on a patch's own frames, or a table.

Both map logits to ranges by a sigmoid on a log scale, so that neither can leave its range:
beta = beta_min (beta_max / beta_min)^sigmoid(z), alpha alike.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aape_bench.models.aape.backbone import Block, linear, sincos
from aape_bench.models.aape.config import AapeConfig
from aape_bench.randomness import torch_stream


class LambdaEncoder(nn.Module):
    """alpha and beta from the patch: frames as tokens, pre-norm blocks, mean over frames, linear head.

    Shared by the rows, told apart by a row embedding. It never sees another patch, so in masked training
    nothing of a masked patch reaches a visible one.
    """

    frame_positions: Tensor

    def __init__(self, config: AapeConfig, seed: int) -> None:
        super().__init__()
        generator = torch_stream(seed, "lambda_encoder")
        width = config.lambda_dim
        self.config = config
        self.embedding = linear(config.patch_mels, width, generator)
        self.row_embedding = nn.Parameter(torch.empty(config.rows, 1, width))
        nn.init.normal_(self.row_embedding, std=config.init_std, generator=generator)
        frame_positions = sincos(torch.arange(config.patch_frames), width, config.position_base)
        self.register_buffer("frame_positions", frame_positions, persistent=False)
        self.layers = nn.ModuleList(
            Block(width, config.lambda_heads, config.lambda_mlp_ratio, "pre", config.norm_eps, generator)
            for _ in range(config.lambda_depth)
        )
        self.norm = nn.LayerNorm(width, config.norm_eps)
        self.head = linear(width, 2 * config.modes, generator)
        nn.init.normal_(self.head.weight, std=config.lambda_head_std, generator=generator)
        with torch.no_grad():
            self.head.bias.copy_(_initial_logits(config))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The patches (n, rows, frames, mels) without context -> alpha, beta, each (n, rows, modes)."""
        # what is the same for every patch is added up first: the tokens are many times as large
        place = self.embedding.bias + self.row_embedding + self.frame_positions
        tokens = (nn.functional.linear(frames, self.embedding.weight) + place).flatten(0, 1)
        for layer in self.layers:
            tokens, _ = layer(tokens)
        pooled = self.norm(tokens).mean(dim=1).unflatten(0, frames.shape[:2])
        return modes_from_logits(self.head(pooled), self.config)


class StaticLambda(nn.Module):
    """alpha and beta learned per row and mode, the same for every input."""

    def __init__(self, config: AapeConfig) -> None:
        super().__init__()
        self.config = config
        self.logits = nn.Parameter(_initial_logits(config).repeat(config.rows, 1))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Patches as `LambdaEncoder`, of which nothing is used -> alpha, beta, each (1, rows, modes)."""
        del frames
        return modes_from_logits(self.logits[None], self.config)


def modes_from_logits(logits: Tensor, config: AapeConfig) -> tuple[Tensor, Tensor]:
    """(..., 2 modes) -> alpha and beta, each (..., modes) float32, inside their ranges."""
    share_alpha, share_beta = torch.sigmoid(logits.float()).chunk(2, dim=-1)
    alpha = config.alpha_min * (config.alpha_max / config.alpha_min) ** share_alpha
    beta = config.beta_min * (config.beta_max / config.beta_min) ** share_beta
    return alpha, beta


def initial_modes(config: AapeConfig) -> tuple[Tensor, Tensor]:
    """alpha and beta, each (modes,), before the Lambda Encoder adds what the input says."""
    return modes_from_logits(_initial_logits(config), config)


def _initial_logits(config: AapeConfig) -> Tensor:
    """(2 modes,): alpha at `alpha_init`, beta at the interior points (i + 1/2) / N of its log range."""
    alpha = torch.full((config.modes,), config.alpha_init)
    beta = (torch.arange(config.modes) + 0.5) / config.modes
    return torch.logit(torch.cat([alpha, beta]))
