"""The checks: each asks the model something and returns pass, warn or fail with the reason. (Imports torch.)

The API is HEAR 2021's (https://hearbenchmark.com/hear-api.html); what a clip's embedding may depend on is this
harness's contract (`aape_bench.encoder`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aape_bench.hear_in import missing_functions
from aape_bench.validation.answers import Outcome, all_finite, as_tensor, same, shapes_fit
from aape_bench.validation.memory import MUCH, growth
from aape_bench.validation.subject import LOUDNESS, Subject

#: Rates that hearvalidator 2021.0.6 allows, Hz.
HEAR_RATES = (16000, 22050, 32000, 44100, 48000)
#: ms: the distance of moments that HEAR advises, and how far they may be from regular.
HEAR_STEP, UNEVEN = 50.0, 1.0


@dataclass(frozen=True)
class Check:
    """A check by name; it is skipped where one of those that it needs did not go well."""

    name: str
    look: Callable[[Subject], Outcome]
    needs: tuple[str, ...] = ()


def functions(subject: Subject) -> Outcome:
    if subject.module is None:
        return Outcome("pass", "an Encoder, asked by its two methods")
    if missing := missing_functions(subject.module):
        if missing == ["load_model"]:  # a file, whose function has any name
            return Outcome("pass", "HEAR's two functions beside the one that loads")
        return Outcome("fail", f"the module has no function {', '.join(missing)}")
    return Outcome("pass", "load_model, get_scene_embeddings, get_timestamp_embeddings")


def attributes(subject: Subject) -> Outcome:
    model = subject.model
    found = {
        name: getattr(model, name, None) for name in ("sample_rate", "scene_embedding_size", "timestamp_embedding_size")
    }
    wrong = [
        f"{name} is {value!r}"
        for name, value in found.items()
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0
    ]
    if wrong:
        return Outcome("fail", f"{', '.join(wrong)}; each must be a positive whole number")
    kinds = {f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in type(model).__mro__}
    if not isinstance(model, torch.nn.Module):
        if "tensorflow.Module" in kinds:
            return Outcome("warn", "the model is a tf.Module: its weights cannot be hashed, moved or trained here")
        return Outcome("fail", f"the model is a {type(model).__name__}, no torch.nn.Module")
    said = ", ".join(f"{name} {value}" for name, value in found.items())
    if found["sample_rate"] not in HEAR_RATES:
        return Outcome("warn", f"{said}; HEAR knows only {', '.join(map(str, HEAR_RATES))} Hz")
    return Outcome("pass", said)


def shapes(subject: Subject) -> Outcome:
    return shapes_fit(subject, subject.batch, subject.batch_scenes, subject.batch_moments)


def dtype(subject: Subject) -> Outcome:
    embeddings, times = subject.batch_moments
    for what, values in (("scene", subject.batch_scenes), ("timestamp", embeddings)):
        if not isinstance(values, Tensor):
            return Outcome("fail", f"{what} embeddings are a {type(values).__name__}, not a torch.Tensor")
        if values.dtype != torch.float32:
            return Outcome("fail", f"{what} embeddings are {values.dtype}, not torch.float32")
    if not isinstance(times, Tensor) or not times.is_floating_point():
        kind = times.dtype if isinstance(times, Tensor) else type(times).__name__
        return Outcome("warn", f"timestamps are {kind}, not a floating-point torch.Tensor")
    return Outcome("pass", "torch.float32")


def finite(subject: Subject) -> Outcome:
    return all_finite(subject.batch_scenes, subject.batch_moments, "noise")


def repeatable(subject: Subject) -> Outcome:
    with torch.inference_mode():
        again, (moments, times) = subject.scenes(subject.batch), subject.moments(subject.batch)
    return same(
        "two equal calls",
        (subject.batch_scenes, again),
        (subject.batch_moments[0], moments),
        (subject.batch_moments[1], times),
    )


def loading(subject: Subject) -> Outcome:
    assert subject.load is not None
    other = subject.load()
    if isinstance(other, torch.nn.Module):
        other.to(subject.device)
    with torch.inference_mode():
        return same(
            "two models loaded with one seed", (subject.batch_scenes, subject.scenes(subject.batch, model=other))
        )


def batch(subject: Subject) -> Outcome:
    """A clip alone as in a batch with others."""
    moments = as_tensor(subject.batch_moments[0])
    with torch.inference_mode():
        alone = torch.cat([as_tensor(subject.scenes(clip[None])) for clip in subject.batch])
        apart = [as_tensor(subject.moments(clip[None])[0]) for clip in subject.batch]
    if any(one.shape != moments[:1].shape for one in apart):
        return Outcome("fail", f"a clip alone has {apart[0].shape[1]} moments, in a batch {moments.shape[1]}")
    return same("a clip alone and in a batch", (subject.batch_scenes, alone), (moments, torch.cat(apart)))


def order(subject: Subject) -> Outcome:
    """A batch in another order."""
    turned = torch.arange(len(subject.batch), device=subject.device).roll(1)
    with torch.inference_mode():
        scenes, (moments, _) = subject.scenes(subject.batch[turned]), subject.moments(subject.batch[turned])
    wanted = as_tensor(subject.batch_scenes)[turned.cpu()], as_tensor(subject.batch_moments[0])[turned.cpu()]
    return same("clips in another order", (wanted[0], scenes), (wanted[1], moments))


def padding(subject: Subject) -> Outcome:
    """A clip alone as zero-padded beside a longer one, where the encoder is told the lengths."""
    if not subject.takes_lengths:
        return Outcome("skip", "it takes no lengths: every clip is given at its task's full length")
    audio = subject.batch
    rate = int(subject.model.sample_rate)
    lengths = torch.tensor([audio.shape[1], rate // 2, 777])
    for row, length in enumerate(lengths):
        audio[row, length:] = 0
    with torch.inference_mode():
        scenes, (moments, times) = (ask(audio, lengths.to(subject.device)) for ask in (subject.scenes, subject.moments))
        clips = [audio[row : row + 1, :length] for row, length in enumerate(lengths)]
        alone = torch.cat([subject.scenes(clip) for clip in clips])
        apart = [as_tensor(subject.moments(clip)[0])[0] for clip in clips]
    times = as_tensor(times)
    if (times > (1000 * lengths / rate)[:, None]).any():
        return Outcome("fail", "moments past a clip's end have times, not NaN")
    kept = [as_tensor(moments)[row][times[row].isfinite()] for row in range(len(clips))]
    both = list(zip(apart, kept, strict=True))
    for length, (one, other) in zip(lengths.tolist(), both, strict=True):
        if abs(len(one) - len(other)) > 1:  # the last may lie partly in the padding
            what = f"a clip of {1000 * length / rate:.0f} ms"
            return Outcome("fail", f"{what} has {len(one)} moments alone and {len(other)} when padded")
    pairs = [(one[: len(other)], other[: len(one)]) for one, other in both if len(one) and len(other)]
    return same("a clip alone and padded beside a longer one", (alone, scenes), *pairs)


def silence(subject: Subject) -> Outcome:
    return _asked(subject, torch.zeros_like(subject.batch), "silence")


def full_scale(subject: Subject) -> Outcome:
    """A square wave, a constant and noise, all of them up to 1."""
    samples = subject.batch.shape[1]
    square = (torch.arange(samples) // 80 % 2 * 2 - 1).float()
    rows = [square, torch.ones(samples), subject.batch[0].cpu() / LOUDNESS]
    return _asked(subject, torch.stack(rows).to(subject.device), "sound of full scale")


def short(subject: Subject) -> Outcome:
    return _asked(subject, subject.noise(1, 0.025), "a clip of 25 ms")


def long(subject: Subject) -> Outcome:
    return _asked(subject, subject.noise(1, 60.0), "a clip of 60 s")


def milliseconds(subject: Subject) -> Outcome:
    """Times of a clip of four seconds: a last one below 8 must be in seconds."""
    last = float(as_tensor(subject.times).max())
    if 0 < last <= 2 * 4.0:
        return Outcome("fail", f"a clip of 4 s ends at {last:.3f}: in seconds, not in milliseconds")
    return Outcome("pass", f"the last moment of 4 s is at {last:.1f} ms")


def increasing(subject: Subject) -> Outcome:
    steps = as_tensor(subject.times).diff(dim=1)
    if (steps <= 0).any():
        return Outcome("fail", f"{int((steps <= 0).sum())} of {steps.numel()} moments are not after the one before")
    return Outcome("pass", f"{steps.shape[1] + 1} moments in 4 s")


def regular(subject: Subject) -> Outcome:
    steps = as_tensor(subject.times).double().diff(dim=1)
    if not steps.numel():
        return Outcome("pass", "a single moment in 4 s")
    uneven = float((steps - steps.mean()).abs().max())
    if uneven > UNEVEN:
        return Outcome("fail", f"steps between moments differ from their mean by up to {uneven:.2f} ms")
    if steps.mean() > HEAR_STEP:
        return Outcome("warn", f"a moment every {steps.mean():.1f} ms; HEAR advises {HEAR_STEP:.0f} ms at most")
    return Outcome("pass", f"a moment every {steps.mean():.3g} ms")


def inside(subject: Subject) -> Outcome:
    times = as_tensor(subject.times)
    first, last = float(times.min()), float(times.max())
    step = max(HEAR_STEP, float(times.diff(dim=1).mean()) if times.shape[1] > 1 else 4000.0)
    if first < 0 or last > 4000:
        return Outcome("fail", f"moments of a clip of 4 s reach from {first:.1f} to {last:.1f} ms")
    if first > step or last < 4000 - step:
        return Outcome("warn", f"moments cover only {first:.1f} to {last:.1f} ms of 4 s")
    return Outcome("pass", f"{first:.1f} to {last:.1f} ms of 4 s")


def unchanged(subject: Subject) -> Outcome:
    audio = subject.batch
    for what, ask in (("scenes", subject.scenes), ("timestamps", subject.moments)):
        with torch.inference_mode():
            ask(audio)
        if not torch.equal(audio, subject.batch):
            return Outcome("fail", f"the audio is another after asking for {what}")
    return Outcome("pass", "the audio is as it was")


def evaluation(subject: Subject) -> Outcome:
    if not isinstance(subject.model, torch.nn.Module):
        return Outcome("skip", "no torch.nn.Module")
    training = {name or "the model": part for name, part in subject.model.named_modules() if part.training}
    harmful = [f"{name} ({type(part).__name__})" for name, part in training.items() if _acts_in_training(part)]
    if harmful:
        return Outcome("fail", f"in training mode: {', '.join(harmful[:3])}{' ...' if len(harmful) > 3 else ''}")
    if training:
        return Outcome("warn", "in training mode, with no layer that is known to act otherwise in it")
    return Outcome("pass", "in evaluation mode")


def generators(subject: Subject) -> Outcome:
    """Global generators of random numbers, which are the caller's."""

    def states() -> tuple[Any, ...]:
        return torch.random.get_rng_state().tolist(), [str(part) for part in np.random.get_state()], random.getstate()  # noqa: NPY002

    before = states()
    with torch.inference_mode():
        subject.scenes(subject.batch[:1])
        subject.moments(subject.batch[:1])
    moved = [
        name for name, one, other in zip(("torch", "numpy", "random"), before, states(), strict=True) if one != other
    ]
    if moved:
        return Outcome("warn", f"a call draws from the global generator of {', '.join(moved)}")
    return Outcome("pass", "no global generator is touched")


def device(subject: Subject) -> Outcome:
    embeddings, times = subject.batch_moments
    wanted = torch.device(subject.device).type
    for what, values in (("scene", subject.batch_scenes), ("timestamp", embeddings)):
        if (found := values.device.type) != wanted:
            return Outcome("fail", f"{what} embeddings of audio on {wanted} are on {found}")
    if isinstance(subject.model, torch.nn.Module):
        parts = [*subject.model.named_parameters(), *subject.model.named_buffers()]
        if left := [name for name, tensor in parts if tensor.device.type != wanted]:
            return Outcome("fail", f"{left[0]} does not follow .to({wanted})")
    if isinstance(times, Tensor) and times.device.type != wanted:
        return Outcome("warn", f"timestamps of audio on {wanted} are on {times.device.type}")
    return Outcome("pass", f"on {wanted}" + ("" if wanted == "cuda" else "; no GPU was tried"))


def memory(subject: Subject) -> Outcome:
    """What repeated calls leave behind."""

    def call(stream: int) -> None:
        audio = subject.noise(1, 0.5, stream)
        with torch.inference_mode():
            subject.scenes(audio)
            subject.moments(audio)

    per_call, where = growth(call, subject.device)
    if where and per_call < MUCH:  # the process's own housekeeping may look like that once; a leak does again
        per_call, where = growth(call, subject.device)
    if not where:
        return Outcome("pass", "calls keep nothing")
    return Outcome("fail" if per_call >= MUCH else "warn", f"every call keeps about {per_call:.0f} bytes, {where}")


def gradient(subject: Subject) -> Outcome:
    model = subject.model
    wanted = [p for p in model.parameters() if p.requires_grad] if isinstance(model, torch.nn.Module) else []
    if not wanted:
        frozen = isinstance(model, torch.nn.Module) and any(True for _ in model.parameters())
        return Outcome("warn" if frozen else "skip", "it has no parameters to train" + " (requires_grad)" * frozen)
    none = "no gradient reaches the weights: the protocol finetune would train its head alone"
    try:
        with torch.enable_grad():
            scenes = subject.scenes(subject.batch)
            if not isinstance(scenes, Tensor) or not scenes.requires_grad:
                return Outcome("warn", none)
            scenes.float().square().sum().backward()  # type: ignore[no-untyped-call]
        reached = [p for p in wanted if p.grad is not None and bool((p.grad != 0).any())]
        if any(not p.grad.isfinite().all() for p in reached if p.grad is not None):
            return Outcome("fail", "gradients of noise are NaN or infinite")
    except RuntimeError as error:
        return Outcome("warn", f"{none} ({error})")
    finally:
        for parameter in wanted:
            parameter.grad = None
    if not reached:
        return Outcome("warn", none)
    return Outcome("pass", f"reaches {len(reached)} of {len(wanted)} parameters")


#: In the order of the table; what needs another check comes after it.
CHECKS = (
    Check("functions", functions),
    Check("attributes", attributes, ("functions",)),
    Check("shapes", shapes, ("attributes",)),
    Check("dtype", dtype, ("shapes",)),
    Check("finite", finite, ("shapes",)),
    Check("two calls equal", repeatable, ("finite",)),
    Check("loaded twice", loading, ("two calls equal",)),
    Check("batch", batch, ("two calls equal",)),
    Check("order", order, ("two calls equal",)),
    Check("padding", padding, ("two calls equal",)),
    Check("silence", silence, ("shapes",)),
    Check("full scale", full_scale, ("shapes",)),
    Check("25 ms", short, ("shapes",)),
    Check("60 s", long, ("shapes",)),
    Check("milliseconds", milliseconds, ("finite",)),
    Check("increasing", increasing, ("finite",)),
    Check("regular", regular, ("increasing", "milliseconds")),
    Check("inside the clip", inside, ("milliseconds",)),
    Check("input unchanged", unchanged, ("shapes",)),
    Check("evaluation mode", evaluation, ("functions",)),
    Check("global generators", generators, ("shapes",)),
    Check("device", device, ("dtype",)),
    Check("memory", memory, ("shapes",)),
    Check("gradient", gradient, ("finite",)),
)


def _asked(subject: Subject, audio: Tensor, what: str) -> Outcome:
    with torch.inference_mode():
        scenes, moments = subject.scenes(audio), subject.moments(audio)
    outcome = shapes_fit(subject, audio, scenes, moments)
    return all_finite(scenes, moments, what) if outcome.verdict == "pass" else outcome


def _acts_in_training(part: torch.nn.Module) -> bool:
    if isinstance(part, torch.nn.modules.dropout._DropoutNd):
        return part.p > 0
    return isinstance(part, torch.nn.modules.batchnorm._NormBase) and bool(part.track_running_stats)
