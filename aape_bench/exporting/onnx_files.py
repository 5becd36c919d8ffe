"""Encoder -> ONNX files, each compared with the encoder in ONNX Runtime before it is kept. (Imports torch.)"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aape_bench.encoder import Encoder
from aape_bench.errors import ModelError
from aape_bench.exporting.graphs import Graph, Part
from aape_bench.randomness import torch_stream

#: Largest difference to the encoder that is taken, for embeddings of size 1.
TOLERANCE = 1e-4

_OUTPUTS = {"scene": ["scene"], "timestamps": ["timestamps", "times"]}


def write_onnx(encoder: Encoder, graph: Graph, part: str, path: Path, about: Mapping[str, str]) -> float:
    """Write `scene` or `timestamps` of an encoder as one ONNX file, weights inside.

    Input: `audio` (n, samples) float32, both dynamic. Outputs: `scene` (n, d), or `timestamps` (n, t, d) and `times`
    (n, t) in ms. about: goes into the file's metadata. Returns the largest difference found to the encoder. Raises
    ModelError where the graph cannot be exported, or differs from the encoder by more than `TOLERANCE`.
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
    return check_onnx(encoder, part, path, graph.tried)


def _describe(path: Path, about: Mapping[str, str]) -> None:
    import onnx

    network = onnx.load(path)
    onnx.helper.set_model_props(network, dict(about))
    network.producer_name = "aape-bench"
    onnx.checker.check_model(network)
    onnx.save(network, path)


def check_onnx(encoder: Encoder, part: str, path: Path, lengths: Sequence[int]) -> float:
    """The largest difference between an ONNX file and its encoder, over clips of these lengths, one and three at once.

    Relative to the largest value where that is above 1. Raises ModelError where it is above `TOLERANCE`.
    """
    session = open_session(path)
    worst = 0.0
    for samples in lengths:
        audio = _noise(3, samples)
        for clips in (audio, audio[1:2]):
            with torch.inference_mode():
                wanted = _answers(encoder, part, clips)
            found = session.run(None, {"audio": clips.numpy()})
            for one, other in zip(wanted, found, strict=True):
                if one.shape != other.shape:
                    raise ModelError(
                        f"The ONNX file's {part} of {len(clips)} clips of {samples} samples are of shape "
                        f"{other.shape}, the encoder's of {one.shape}. Nothing was kept."
                    )
                worst = max(worst, float(np.abs(one - other).max() / max(1.0, np.abs(one).max())))
    if not worst <= TOLERANCE:
        raise ModelError(
            f"The ONNX file's {part} differ from the encoder's by {worst:.1e}, more than {TOLERANCE:g}. Nothing was "
            "kept."
        )
    return worst


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
