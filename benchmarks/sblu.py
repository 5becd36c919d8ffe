"""What the aliasing-aware stem costs: the encoder with it and with a plain patch embedding, and the stem's parts.

    python benchmarks/sblu.py [--quick]

Presets tiny and base, one clip of 5.12 s and four of 10.24 s, CPU; no gradient as in evaluation, and forward with
backward as in training. Whole encoders are compared in turns: `ours` with the stem, `theirs` with the plain patch
embedding (a Conv2d). Of the stem and its parts, computed alone, the share of the whole encoder's time is stated. Peaks
are of one call, beyond what was there before it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from common import Cost, Row, alternating, compared, in_process, table
from torch import Tensor

from aape_bench.models.aape import AapeConfig
from aape_bench.models.aape.encoder import AapeEncoder
from aape_bench.models.aape.pretrain.measuring import Case, peak_megabytes
from aape_bench.models.aape.stem import AddingStem, SbluUnit
from aape_bench.randomness import torch_stream
from aape_bench.settings import make_config

FRAMES = {512: "5.12 s", 1024: "10.24 s"}
#: Preset, frames, clips at once.
CASES = (("tiny", 512, 1), ("tiny", 1024, 4), ("base", 512, 1), ("base", 1024, 4))


def measure(quick: bool) -> list[Row]:
    """The suite's rows."""
    cases = CASES[:1] if quick else CASES
    return [row for case in cases for row in _rows(*case, runs=1 if quick else 5)]


def _rows(preset: str, frames: int, batch: int, runs: int) -> Iterator[Row]:
    settings = {"preset": preset}
    ours = AapeEncoder(make_config(AapeConfig, settings, "aape"), 0)
    plain = AapeEncoder(make_config(AapeConfig, {**settings, "stem": "plain"}, "aape"), 0)
    log_mel = torch.randn(batch, 1, frames, ours.config.n_mels, generator=torch_stream(0, "sblu benchmark")) / 2
    for way, called in (("forward", _forward), ("forward and backward", _backward)):
        what = f"{preset}, {FRAMES[frames]} x {batch}, {way}"
        sides: dict[str, Callable[[], object]] = {
            "encoder": called(lambda: ours.encode(log_mel)[0]),
            "plain": called(lambda: plain.encode(log_mel)[0]),
            **{name: called(part) for name, part in _parts(ours, log_mel).items()},
        }
        costs = dict(zip(sides, alternating(runs, *(_timed(side) for side in sides.values())), strict=True))
        whole = [cost.wall for cost in costs["encoder"]]
        notes = "theirs: with Conv2d alone"
        yield compared("sblu", f"encoder: {what}", whole, [cost.wall for cost in costs["plain"]], "s", notes)
        peaks = [_peak(sides["encoder"])], [_peak(sides["plain"])]
        yield compared("sblu", f"encoder: {what}", *peaks, "MB peak", notes)
        for name in [name for name in sides if name not in ("encoder", "plain")]:
            share = 100 * statistics.median(cost.wall for cost in costs[name]) / statistics.median(whole)
            yield Row("sblu", f"{name}: {what}", share, None, "% of the encoder's time", None, runs)


def _parts(encoder: AapeEncoder, log_mel: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The stem, and what it consists of, each given what it gets there."""
    stem = encoder.stem
    assert isinstance(stem, AddingStem)
    unit = stem.unit
    assert isinstance(unit, SbluUnit)
    steps, rows, size = log_mel.shape[2] // stem.patch_frames, stem.rows, stem.patch_mels
    patches = log_mel.reshape(-1, steps, stem.patch_frames, rows, size).transpose(2, 3).flatten(0, 1)
    with torch.no_grad():
        alpha, beta = unit.modes(patches)
        features = unit.sblu.features(patches, alpha, beta)
    for one in (alpha, beta, features):
        one.requires_grad_()
    return {
        "stem": lambda: stem(log_mel),
        "Conv2d": lambda: stem.conv_token(log_mel),
        "Lambda Encoder": lambda: torch.cat(unit.modes(patches)),
        "SBLU": lambda: unit.sblu.features(patches, alpha, beta),
        "fusion": lambda: stem.fusion(features),
    }


def _forward(call: Callable[[], Tensor]) -> Callable[[], object]:
    def forward() -> None:
        with torch.inference_mode():
            call()

    return forward


def _backward(call: Callable[[], Tensor]) -> Callable[[], object]:
    return lambda: call().square().mean().backward()  # type: ignore[no-untyped-call]


def _timed(call: Callable[[], object]) -> Callable[[], Cost]:
    return lambda: in_process(call)


def _peak(call: Callable[[], Any]) -> float:
    return peak_megabytes(Case("", 1, lambda: call), "cpu") or float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a try")
    print(table(measure(parser.parse_args().quick)).to_string(index=False))


if __name__ == "__main__":
    main()
