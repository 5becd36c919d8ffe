"""What the report draws of AaPE's trainings, against the trainings' own files and independent formulas."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aape_bench.errors import DataError
from aape_bench.models.aape.pretrain import ablation_curves
from aape_bench.models.aape.pretrain.ablation import AapeTraining
from aape_bench.models.aape.pretrain.ablation_curves import beta_gradient, beta_gradients
from aape_bench.progress import Silent
from aape_bench.training import Curves, Run, Setup, Variant

TRAINING = AapeTraining()
STEPS = 3


def finished(out: Path, seed: int = 0, **settings: Any) -> Run:
    setup = Setup({"batch": 4, **settings}, "smoke", STEPS, 1e-3, ("generated:modulation:12",))
    return Run(Variant(out.name, settings), seed, setup, out, TRAINING.train(setup, seed, out, "cpu", Silent()))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    return [finished(folder / "full"), finished(folder / "no_sblu", seed=1, **{"model.stem": "plain"})]


def named(runs: list[Run], name: str) -> Curves:
    (found,) = [curves for curves in TRAINING.curves(runs) if curves.name == name]
    return found


def test_losses_are_those_of_the_log(runs: list[Run]) -> None:
    table = named(runs, "training").table
    assert list(table.columns) == ["panel", "variant", "seed", "x", "y"]
    for run in runs:
        log = pd.read_csv(run.out / "log.csv")
        assert len(log) == STEPS
        for column in ("masked", "utterance", "contrastive"):
            line = table[(table["variant"] == run.variant.name) & table["panel"].str.startswith(column)]
            assert line["x"].tolist() == [1, 2, 3]
            assert line["y"].tolist() == log[column].tolist()
            assert set(line["seed"]) == {run.seed}


def test_drift_begins_where_the_modes_begin_and_only_stems_with_modes_have_one(runs: list[Run]) -> None:
    for name, start in (("alpha_drift", math.sqrt(0.1)), ("beta_drift", math.sqrt(3.125 * 50))):
        table = named(runs, name).table
        assert set(table["variant"]) == {"full"}
        median = table[table["panel"] == "median"]
        assert median["x"].tolist() == [0, 1, 2, 3]
        assert median["y"].iloc[0] == pytest.approx(start, rel=0.03)
        assert median["y"].to_numpy() == pytest.approx(start, rel=0.1)  # three steps do not go far
        low, high = (table[table["panel"] == panel]["y"].to_numpy() for panel in ("10th percentile", "90th percentile"))
        assert (low <= median["y"].to_numpy()).all()
        assert (median["y"].to_numpy() <= high).all()


def test_drift_follows_the_histograms(runs: list[Run], tmp_path: Path) -> None:
    """Beta at the lowest end in all subbands but one, which holds a quarter of the modes at the highest."""
    run = runs[0]
    counts = np.zeros((8, 48), int)
    counts[:7, 0] = 3
    counts[7, -1] = 7
    parts = [f"part_{number + 1}" for number in range(48)]
    table = pd.DataFrame(counts, columns=parts)
    table.insert(0, "subband", range(8))
    table.insert(0, "quantity", "beta")
    table.insert(0, "step", 5)
    table.to_csv(tmp_path / "modes.csv", index=False)
    (tmp_path / "log.csv").write_bytes((run.out / "log.csv").read_bytes())
    drift = named([Run(run.variant, 0, run.setup, tmp_path, run.trained)], "beta_drift").table
    last = drift[drift["x"] == 5].set_index("panel")["y"]
    edges = np.geomspace(3.125, 50, 49)
    assert edges[0] < last["10th percentile"] < last["median"] < edges[1]
    assert edges[-2] < last["90th percentile"] < edges[-1]


def window(name: str, lag: np.ndarray) -> np.ndarray:
    """By its formula, 1 at its centre, of the -3 dB bandwidth of exp(-0.2 |t|)."""
    bandwidth = 0.2 * math.sqrt(math.sqrt(2) - 1)
    sigma = math.sqrt(math.log(2)) / bandwidth
    exponent = {
        "bilateral": 0.2 * np.abs(lag),
        "gaussian": 0.5 * (lag / sigma) ** 2,
        "one_sided": bandwidth * np.abs(lag),
    }
    return np.asarray(np.exp(-exponent[name]))


@pytest.mark.parametrize("frames", [16, 33, 129])
@pytest.mark.parametrize("name", ["bilateral", "gaussian", "one_sided"])
def test_the_gradient_is_the_slope_of_the_response(name: Any, frames: int) -> None:
    lag = np.arange(frames) - (frames - 1 if name == "one_sided" else (frames - 1) / 2)
    weight = window(name, lag)
    weight = weight / np.sqrt(np.sum(weight**2))

    def response(beta: float) -> float:
        return float(abs(np.sum(weight * np.exp(1j * (2 * math.pi * 0.1 - beta) * lag))))

    for beta in (0.25, 0.5, 0.9, 1.2):
        slope = (response(beta + 1e-5) - response(beta - 1e-5)) / 2e-5
        assert beta_gradient(name, frames, np.array([beta]))[0] == pytest.approx(abs(slope), rel=1e-5, abs=1e-9)


def test_the_window_argument_as_the_project_states_it() -> None:
    """Its numbers are for kernels of 1 at the centre, at 45 Hz; ours are of unit norm."""
    beta = np.array([2 * math.pi * 0.45])

    def stated(name: Any, frames: int) -> float:
        norm = np.linalg.norm(window(name, np.arange(frames) - (frames - 1) / 2))
        return float(norm * beta_gradient(name, frames, beta)[0])

    assert stated("bilateral", 129) == pytest.approx(6.3e-2, rel=0.02)
    assert stated("gaussian", 129) < 2e-10
    assert stated("bilateral", 16) == pytest.approx(0.44, rel=0.02)
    assert stated("gaussian", 16) > stated("bilateral", 16)  # truncation hides it


def test_gradients_are_shown_at_the_kernels_in_use_and_at_a_long_one(runs: list[Run]) -> None:
    table = named(runs, "beta_gradient").table
    assert list(dict.fromkeys(table["panel"])) == ["K = 16, in use", "K = 129, next to nothing cut off"]
    assert set(table["variant"]) == {"bilateral", "gaussian", "one_sided"}
    assert table["x"].min() == pytest.approx(3.125)
    assert table["x"].max() == pytest.approx(50)
    far = table[(table["x"] > 35) & table["panel"].str.startswith("K = 129")]
    assert set(far["variant"]) == {"bilateral", "one_sided"}  # the Gaussian's has vanished
    panels = beta_gradients([16, 33]).table["panel"]
    assert panels.nunique() == 3
    without_kernels = TRAINING.curves(runs[1:])
    assert [curves.name for curves in without_kernels] == ["training"]


@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_a_log_that_is_lost_is_said(damage: str, tmp_path: Path) -> None:
    if damage == "empty":
        (tmp_path / "log.csv").write_text("")
    with pytest.raises(DataError, match=r"log\.csv cannot be read .*Delete the folder"):
        ablation_curves.read_log(tmp_path)
