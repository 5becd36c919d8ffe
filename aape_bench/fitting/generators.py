"""The global random generators, which no training may draw from: a resumed run would differ. (Imports torch.)"""

from __future__ import annotations

import random

import torch


def global_generators() -> tuple[bytes, str, int]:
    """Their states, to be compared with later ones."""
    import numpy as np

    numpy_state = repr(np.random.get_state(legacy=False))  # noqa: NPY002
    return bytes(torch.get_rng_state().numpy()), numpy_state, hash(random.getstate())
