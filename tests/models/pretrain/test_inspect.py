"""Figures' numbers against the SBLU itself and against a by-hand count."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pretrain_models import encoder_config
from pretrain_runs import write_audio

from aape_bench.errors import DataError, UsageError
from aape_bench.models.aape.encoder import AapeEncoder
from aape_bench.models.aape.lambda_encoder import initial_modes
from aape_bench.models.aape.pretrain import diagnostics
from aape_bench.models.aape.pretrain.inspect import Inspection, log_beside, measure, write
from aape_bench.models.aape.pretrain.log import COLUMNS
from aape_bench.models.aape.sblu import kernels, respond
from aape_bench.progress import Silent


def inspected(**settings: object) -> Inspection:
    encoder = AapeEncoder(encoder_config(**settings), 0)
    return measure(encoder, None, 10, 0, "cpu", Silent())


@pytest.mark.parametrize("window", ["bilateral", "gaussian", "one_sided"])
def test_gain_is_what_a_sinusoid_comes_out_with(window: str) -> None:
    """Against the SBLU's own filtering of a long sinusoid, over a whole number of periods."""
    found = inspected(window=window)
    alpha, beta = torch.from_numpy(found.kernel_alpha), torch.from_numpy(found.kernel_beta)
    kernel = kernels(alpha, beta, 16, found.config.window)
    hertz, gain = found.responses()
    for at in (0, 120, 313):  # 0, 12 and 31.3 Hz
        frames = torch.arange(1000 + 15, dtype=torch.float64)
        turn = 2 * math.pi * hertz[at] / 100
        answers = []
        for direction in (1, -1):
            signal = torch.stack([torch.cos(turn * frames), direction * torch.sin(turn * frames)])
            real, imaginary = (respond(part[None].expand(len(alpha), -1), kernel) for part in signal)
            answer = torch.complex(real[:, 0] - imaginary[:, 1], real[:, 1] + imaginary[:, 0])
            answers.append(answer.abs().mean(dim=1).numpy())
        assert np.maximum(*answers) == pytest.approx(gain[:, at], rel=1e-6)
    peaks = hertz[gain.argmax(axis=1)]
    inner = slice(6, 15)  # where the window's other side does not reach
    assert peaks[inner] == pytest.approx(found.kernel_beta[inner] * 100 / (2 * math.pi), abs=1.5)


def test_without_audio_alpha_and_beta_are_the_initial_ones_of_an_untrained_encoder() -> None:
    found = inspected()
    alpha, beta = initial_modes(found.config)
    assert found.kernel_alpha == pytest.approx(alpha.numpy())
    assert found.kernel_beta == pytest.approx(beta.numpy())
    assert found.clips == 0


def test_on_audio_each_crop_counts_with_its_whole_patches(tmp_path: Path) -> None:
    audio = write_audio(tmp_path / "audio", 3)
    encoder = AapeEncoder(encoder_config(clip_frames=64), 0)
    found = measure(encoder, [str(audio)], 5, 0, "cpu", Silent())
    assert found.clips == 5
    assert found.alpha.shape == (5 * 3, 8, 16)  # 0.64 s has 62 whole frames, three whole patches
    again = measure(encoder, [str(audio)], 5, 0, "cpu", Silent())
    assert np.array_equal(found.alpha, again.alpha)
    assert not np.array_equal(found.alpha, measure(encoder, [str(audio)], 5, 1, "cpu", Silent()).alpha)


def test_saturation_in_the_table_is_the_share_at_each_end(tmp_path: Path) -> None:
    config = encoder_config()
    alpha = np.full((10, 8, 16), 0.3)
    alpha[:2, 1, 3], alpha[2:5, 1, 3] = 0.1001, 0.999
    beta = np.full((10, 8, 16), 1.0)
    write(Inspection(config, alpha, beta, 10), tmp_path)
    with (tmp_path / "distributions.csv").open(newline="") as handle:
        table = list(csv.DictReader(handle))
    (row,) = (r for r in table if r["quantity"].startswith("alpha") and (r["subband"], r["mode"]) == ("1", "3"))
    assert (float(row["low end"]), float(row["high end"]), float(row["median"])) == (0.2, 0.3, 0.3)
    others = [r for r in table if r is not row]
    assert all(float(r["low end"]) == float(r["high end"]) == 0 for r in others)
    assert float(others[-1]["median"]) == pytest.approx(100 / (2 * math.pi), rel=1e-4)
    assert diagnostics.EDGE == 0.02


def test_equal_checkpoints_make_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(inspected(), tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert "responses.svg" in files
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)


def test_a_stem_without_kernels_is_drawn_without_them(tmp_path: Path) -> None:
    written = write(inspected(stem="lambda_only"), tmp_path)
    assert [path.name for path in written] == ["distributions.csv"]
    with pytest.raises(UsageError, match="stem=lowpass has no alpha and beta"):
        inspected(stem="lowpass")


def log_of(folder: Path, **cells: str) -> None:
    rows = [{**dict.fromkeys(COLUMNS, "0.5"), "step": str(step), "loss_scale": "", **cells} for step in (10, 20)]
    lines = [",".join(COLUMNS), *(",".join(row.values()) for row in rows)]
    (folder / "log.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_training_is_drawn_where_its_log_lies_beside_the_checkpoint(tmp_path: Path) -> None:
    assert log_beside(tmp_path / "teacher-20.safetensors") is None
    log_of(tmp_path, lambda_gradient_norm="")
    log = log_beside(tmp_path / "teacher-20.safetensors")
    assert log is not None
    assert log["step"].tolist() == [10, 20]
    assert np.isnan(log["lambda_gradient_norm"]).all()
    with_modes = write(inspected(), tmp_path / "with", log)
    without = write(None, tmp_path / "without", log)
    assert {path.name for path in without} == {"training.png", "training.svg"}
    assert {path.name for path in with_modes} >= {"training.svg", "kernels.svg", "distributions.csv"}
    text = (tmp_path / "without" / "training.svg").read_text(encoding="utf-8")
    assert "head of α and β" not in text  # a stem without them has no such curve
    assert "contrastive" in text


def test_log_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    log_of(tmp_path, loss="high")
    with pytest.raises(DataError, match=r"log\.csv has a 'loss' that is no number"):
        log_beside(tmp_path / "teacher-20.safetensors")
