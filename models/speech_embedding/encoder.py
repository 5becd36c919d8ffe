"""Google's speech embedding in ONNX Runtime. (Imports torch.)

openWakeWord's front end: audio in the range of 16-bit samples, mel spectrogram in dB (its network limits it to 80 dB
below a clip's loudest moment), dB / 10 + 2; then windows of 76 frames, 8 frames apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aape_bench.encoder import Encoder
from aape_bench.errors import ModelError

RATE = 16000
FRAME, HOP = 512, 160  # samples
WINDOW, STEP = 76, 8  # frames: 782 ms every 80 ms
SPAN = (WINDOW - 1) * HOP + FRAME
FULL_SCALE = 32768.0

_WINDOWS_AT_ONCE = 256


class SpeechEmbedding(Encoder):
    """Scenes: the mean of a clip's windows; a last incomplete one is left out, a shorter clip padded with silence."""

    sample_rate = RATE
    scene_embedding_size = timestamp_embedding_size = 96

    def __init__(self) -> None:
        super().__init__()
        self._mel: Any = None
        self._network: Any = None

    @property
    def parameter_count(self) -> int | None:
        """Not known: the networks are ONNX Runtime's."""
        return None

    def load(self, mel: Path, network: Path) -> None:
        """Open the two networks. Raises ModelError where a file is no ONNX network, or another one."""
        self._mel = _session(mel, "input")
        self._network = _session(network, "input_1")

    def scene_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """As `Encoder`: (n, 96)."""
        means = [windows.mean(axis=0) for windows, _ in self._clips(audio, lengths)]
        return torch.from_numpy(np.stack(means)).to(audio.device)

    def timestamp_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One vector every 80 ms at the middle of its window, 391 ms first; a shorter clip has one, at its middle.

        Returns (n, t, 96), 0 past a clip's last window, and times (n, t) in ms.
        """
        clips = self._clips(audio, lengths)
        steps = max(len(windows) for windows, _ in clips)
        moments = torch.zeros(len(clips), steps, self.timestamp_embedding_size)
        times = torch.full((len(clips), steps), torch.nan)
        for row, (windows, samples) in enumerate(clips):
            moments[row, : len(windows)] = torch.from_numpy(windows)
            middle = min(SPAN, samples) / 2
            times[row, : len(windows)] = (middle + STEP * HOP * torch.arange(len(windows))) * (1000 / RATE)
        return moments.to(audio.device), times.to(audio.device)

    def _clips(self, audio: Tensor, lengths: Tensor | None) -> list[tuple[npt.NDArray[np.float32], int]]:
        """Every clip's windows (w, 96), and its samples. One clip at a time: the front end looks at a whole batch."""
        values = audio.detach().to("cpu", torch.float32).numpy() * np.float32(FULL_SCALE)
        counts = [values.shape[1]] * len(values) if lengths is None else [int(length) for length in lengths]
        return [(self._windows(clip[:samples]), samples) for clip, samples in zip(values, counts, strict=True)]

    def _windows(self, clip: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        clip = np.pad(clip, (0, max(0, SPAN - len(clip))))
        decibels = self._mel.run(None, {"input": clip[None]})[0][0, 0]
        frames = decibels / np.float32(10) + np.float32(2)
        windows = np.lib.stride_tricks.sliding_window_view(frames, WINDOW, axis=0)[::STEP]
        parts = []
        for first in range(0, len(windows), _WINDOWS_AT_ONCE):
            part = np.ascontiguousarray(windows[first : first + _WINDOWS_AT_ONCE].transpose(0, 2, 1))[..., None]
            parts.append(self._network.run(None, {"input_1": part})[0][:, 0, 0])
        return np.concatenate(parts)


def _session(path: Path, name: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds have no common base
        what = str(error).strip().partition("\n")[0]
        raise ModelError(f"The network {path.name} cannot be read ({what}). Install the package again.") from None
    if [given.name for given in session.get_inputs()] != [name]:
        raise ModelError(
            f"The network {path.name} is not the one of the version that was tested. Install that version."
        )
    return session
