"""Encoder -> ONNX files, each compared with the encoder in ONNX Runtime before it is kept. (Imports torch.)"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aape_bench.encoder import Encoder
from aape_bench.errors import ModelError
from aape_bench.exporting.graphs import Graph, Part
from aape_bench.randomness import torch_stream

#: Largest difference to the encoder that is taken, relative to the largest value, by kind of clip. In a frame of a tone
#: the quiet mel bins hold the rounding errors of the loud one, in the encoder's float32 as in the graph's, and the
#: logarithm shows them: 1e-3 of `logmel`. A graph in float64 comes no nearer to the encoder (tried).
TOLERANCES = {"noise": 1e-4, "tones": 5e-3}

_KINDS = {"noise": "noise", "tones": "a sine and a chirp"}
_LONG = 10  # s, of a clip that is tried whatever the graph's own lengths

_OUTPUTS = {"scene": ["scene"], "timestamps": ["timestamps", "times"]}


@dataclass(frozen=True)
class Difference:
    """The largest one of a file's embeddings to the encoder's, and the same by their largest value.

    relative: difference / max(1, largest absolute value) of the same clips; that of the times is in it, too.
    seconds: of the shortest and the longest clip that were tried.
    """

    absolute: float
    relative: float
    seconds: tuple[float, float]


def write_onnx(
    encoder: Encoder, graph: Graph, part: str, path: Path, about: Mapping[str, str]
) -> dict[str, Difference]:
    """Write `scene` or `timestamps` of an encoder as one ONNX file, weights inside.

    Input: `audio` (n, samples) float32, both dynamic. Outputs: `scene` (n, d), or `timestamps` (n, t, d) and `times`
    (n, t) in ms. about: goes into the file's metadata. Returns what `check_onnx` does. Raises ModelError where the
    graph cannot be exported, or differs from the encoder by more than `TOLERANCES`.
    """
    example = _noise(2, 2 * graph.shortest + encoder.sample_rate)
    outputs = _OUTPUTS[part]
    moving = {"audio": {0: "n", 1: "samples"}, **{name: {0: "n", 1: "t"} for name in outputs}}
    if part == "scene":
        del moving["scene"][1]
    try:
        with _silence(), torch.no_grad():
            # by tracing: the newer exporter (dynamo) takes what holds for the example's length to hold for all
            torch.onnx.export(
                Part(graph, part).eval(),
                (example,),
                path,
                dynamo=False,
                opset_version=17,
                input_names=["audio"],
                output_names=outputs,
                dynamic_axes=moving,
            )
        _describe(path, about)
    except ModuleNotFoundError as error:
        raise ModelError(f"ONNX files need {error.name}. Install it with: pip install 'aape-bench[onnx]'") from None
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        what = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"PyTorch {torch.__version__} cannot export this encoder to ONNX ({what}).") from error
    return check_onnx(encoder, part, path, sorted({*graph.tried, _LONG * encoder.sample_rate}))


def _describe(path: Path, about: Mapping[str, str]) -> None:
    import onnx

    network = onnx.load(path)
    onnx.helper.set_model_props(network, dict(about))
    network.producer_name = "aape-bench"
    onnx.checker.check_model(network)
    onnx.save(network, path)


def check_onnx(encoder: Encoder, part: str, path: Path, lengths: Sequence[int]) -> dict[str, Difference]:
    """The largest differences between an ONNX file and its encoder by kind of clip, over clips of these lengths.

    Noise: three clips at once and one. Tones: a sine and a chirp at once. Raises ModelError where a shape is another,
    or a relative difference is above `TOLERANCES`.
    """
    session = open_session(path)
    seconds = (min(lengths) / encoder.sample_rate, max(lengths) / encoder.sample_rate)
    found = {}
    for kind, tolerance in TOLERANCES.items():
        pairs = [_compare(encoder, session, part, c) for n in lengths for c in _clips(kind, n, encoder.sample_rate)]
        # numpy's, since a NaN must not be lost
        absolute, relative = (float(worst) for worst in np.max(pairs, axis=0))
        if not relative <= tolerance:
            raise ModelError(
                f"The ONNX file's {part} differ from the encoder's by {relative:.1e} of the largest value on "
                f"{_KINDS[kind]}, more than {tolerance:g}. Nothing was kept."
            )
        found[kind] = Difference(absolute, relative, seconds)
    return found


def _compare(encoder: Encoder, session: Any, part: str, clips: Tensor) -> tuple[float, float]:
    """Absolute difference of the embeddings, and the largest relative one of all outputs."""
    with torch.inference_mode():
        wanted = _answers(encoder, part, clips)
    found = session.run(None, {"audio": clips.numpy()})
    absolute, relative = [], []
    for one, other in zip(wanted, found, strict=True):
        if one.shape != other.shape:
            raise ModelError(
                f"The ONNX file's {part} of {len(clips)} clips of {clips.shape[1]} samples are of shape "
                f"{other.shape}, the encoder's of {one.shape}. Nothing was kept."
            )
        absolute.append(np.abs(one - other).max())
        relative.append(absolute[-1] / max(1.0, np.abs(one).max()))
    return absolute[0], np.max(relative)


def in_words(found: Mapping[str, Difference]) -> str:
    """What was found, and on which clips."""
    said = [f"{one.absolute:.1e} ({one.relative:.1e} of the largest value) on {_KINDS[kind]}"
            for kind, one in found.items()]  # fmt: skip
    shortest, longest = next(iter(found.values())).seconds
    return f"{' and '.join(said)}, in clips of {shortest:.3g} to {longest:.3g} s"


def open_session(path: Path) -> Any:
    """An ONNX Runtime session on the CPU. Raises ModelError where ONNX Runtime is not installed."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise ModelError("ONNX files need onnxruntime. Install it with: pip install 'aape-bench[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _answers(encoder: Encoder, part: str, audio: Tensor) -> list[np.ndarray]:
    if part == "scene":
        return [encoder.scene_embeddings(audio).numpy()]
    moments, times = encoder.timestamp_embeddings(audio)
    return [moments.numpy(), times.numpy()]


def _clips(kind: str, samples: int, rate: int) -> tuple[Tensor, ...]:
    """Batches of one kind."""
    if kind == "noise":
        noise = _noise(3, samples)
        return noise, noise[1:2]
    time = torch.arange(samples, dtype=torch.float64) / rate
    # from 50 Hz up to 7/16 of the rate at the clip's end
    rise = (7 / 16 * rate - 50) * rate / samples
    phase = torch.stack([440 * time, 50 * time + rise * time.square() / 2])
    return (0.5 * torch.sin(2 * math.pi * phase).float(),)


def _noise(n: int, samples: int) -> Tensor:
    """Noise whose level goes up and down."""
    noise = torch.randn(n, samples, generator=torch_stream(0, "export", n, samples))
    return 0.1 * noise * (1 + torch.sin(torch.arange(samples) / 3000))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The exporter's talk of optional packages and of its own future is not for our user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
