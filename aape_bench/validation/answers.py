"""What may be said of a model's answers, whatever was asked. (Imports torch.)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from aape_bench.validation.subject import Subject

Verdict = Literal["pass", "warn", "fail", "skip"]

#: Two answers to one question are equal, or nearly so, to these parts of the largest value.
CLOSE, NEAR = 1e-5, 1e-3


@dataclass(frozen=True)
class Outcome:
    """What a check found. "skip": it could not be judged."""

    verdict: Verdict
    reason: str


def shapes_fit(subject: Subject, audio: Tensor, scenes: Any, moments: Any) -> Outcome:
    """Whether answers for audio (n, samples) have the shapes that HEAR and the model's attributes promise."""
    if not isinstance(moments, (tuple, list)) or len(moments) != 2:
        return Outcome("fail", f"timestamps come as a {type(moments).__name__}, not as embeddings and times")
    clips, size = len(audio), subject.model.timestamp_embedding_size
    scene, embeddings, times = (tuple(torch.as_tensor(values).shape) for values in (scenes, *moments))
    if scene != (wanted := (clips, subject.model.scene_embedding_size)):
        return Outcome("fail", f"scene embeddings have shape {scene}, not {wanted}")
    if len(embeddings) != 3 or embeddings[0] != clips or embeddings[2] != size:
        return Outcome("fail", f"timestamp embeddings have shape {embeddings}, not ({clips}, moments, {size})")
    if times != embeddings[:2]:
        return Outcome("fail", f"timestamps have shape {times}, their embeddings {embeddings}")
    if not embeddings[1]:
        return Outcome("fail", f"a clip of {1000 * audio.shape[1] / subject.model.sample_rate:.0f} ms has no moment")
    return Outcome("pass", f"scenes {scene}, moments {embeddings}")


def all_finite(scenes: Any, moments: Any, what: str) -> Outcome:
    """Whether no value is NaN or infinite; what: the audio's name."""
    for name, values in (("scene embeddings", scenes), ("timestamp embeddings", moments[0]), ("times", moments[1])):
        wrong = ~as_tensor(values).isfinite()
        if wrong.any():
            return Outcome("fail", f"{int(wrong.sum())} of {wrong.numel()} {name} of {what} are NaN or infinite")
    return Outcome("pass", f"embeddings of {what} are finite")


def same(what: str, *pairs: tuple[Any, Any]) -> Outcome:
    """Whether what should be equal is, each pair by its largest value."""
    worst = 0.0
    for one, other in ((as_tensor(one), as_tensor(other)) for one, other in pairs):
        if one.shape != other.shape:
            return Outcome("fail", f"{what} give shapes {tuple(one.shape)} and {tuple(other.shape)}")
        if not (one.isfinite().all() and other.isfinite().all()):
            return Outcome("fail", f"{what}: one of them is NaN or infinite")
        scale = float(one.abs().max()) or 1.0
        worst = max(worst, float((one - other).abs().max()) / scale)
    verdict: Verdict = "pass" if worst <= CLOSE else "warn" if worst <= NEAR else "fail"
    return Outcome(verdict, f"{what} differ by {worst:.1e} of the largest value" if worst else f"{what} are equal")


def as_tensor(values: Any) -> Tensor:
    """Any answer as float32 on the CPU."""
    return torch.as_tensor(values).detach().cpu().float()
