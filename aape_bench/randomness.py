"""Random numbers by name: every draw comes from (seed, stream name, indices), never from a global generator.

That makes resumed runs, parallel workers and paired variants equal: a stream does not depend on what was
drawn before it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def stream_seed(seed: int, *stream: str | int) -> int:
    """A 63-bit seed for the named stream, equal on every machine and Python version."""
    text = "\x1f".join([str(seed), *map(str, stream)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_stream(seed: int, *stream: str | int) -> np.random.Generator:
    """NumPy generator of the named stream."""
    return np.random.default_rng(stream_seed(seed, *stream))


def torch_stream(seed: int, *stream: str | int) -> torch.Generator:
    """CPU torch generator of the named stream (initial weights are drawn on the CPU on every device)."""
    import torch

    return torch.Generator().manual_seed(stream_seed(seed, *stream))
