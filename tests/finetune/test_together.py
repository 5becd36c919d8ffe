"""`--devices 2`: two processes that train together come to what one comes to; a share of an update is a share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from toys import Cli, rows, run

from aape_bench.finetune.recipe import Recipe
from aape_bench.finetune.shares import Shares

VIT = "vit{blocks=2;width=48;heads=2}"
#: Seven clips over two processes; some are mixed with clips of the other process.
SETTINGS = "batch=7;updates=6;validate_every=2;learning_rate=0.001;mixup=0.8;loss=bce;accumulate=2;probe_updates=2"
GIVEN = ("--protocol", "finetune", "--no-references", "--protocol-set", SETTINGS, "--allow-partial")


def choices(results: Path) -> list[dict[str, Any]]:
    (row,) = rows(results)
    return list(json.loads((results / row["record"]).read_text())["protocol"]["choices"])


def probabilities(results: Path) -> np.ndarray:
    (path,) = (results / "predictions").rglob("*.csv.gz")
    return pd.read_csv(path).select_dtypes("number").to_numpy()


def test_two_processes_train_as_one_does(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    assert run(cli, small_esc50, *GIVEN, "--results-dir", tmp_path / "one", model=VIT)[0] == 0
    folders = ("--data-dir", small_esc50, "--cache-dir", tmp_path / "cache", "--results-dir", tmp_path / "two")
    command = [sys.executable, "-P", "-m", "aape_bench", "run", "--model", VIT, "--task", "esc50", *GIVEN, *folders]
    # the second process is started without -P, so in a folder that hides nothing
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONSAFEPATH": "1"}
    words = [*map(str, command), "--devices", "2"]
    done = subprocess.run(words, env=alone, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "1 result computed" in done.stdout
    assert done.stdout.count("result computed") == 1  # the second process says nothing
    for one, two in zip(choices(tmp_path / "one"), choices(tmp_path / "two"), strict=True):
        losses = [[point["loss"] for point in found["curve"]] for found in (one, two)]
        assert losses[0] == pytest.approx(losses[1], rel=2e-3)
        assert one["curve"][-1]["update"] == two["curve"][-1]["update"] == 6
    difference = np.nanmax(np.abs(probabilities(tmp_path / "one") - probabilities(tmp_path / "two")))
    assert difference < 0.02


def test_options_that_do_not_fit_each_other_are_refused(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    results = ("--results-dir", tmp_path / "r")
    status, _, err = run(cli, small_esc50, *GIVEN, *results, "--devices", 2, "--executor", "local:2", model=VIT)
    assert status == 2
    assert "Leave one of them out" in err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("mixup", [0.0, 0.8])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_shares_of_an_update_are_the_update(world: int, mixup: float) -> None:
    recipe = Recipe(preset="other", updates=3, batch=7, mixup=mixup).resolved().planned(5)
    train, labels = np.arange(100, 105), np.array([0, 1, 0, 1, 2])
    alone = Shares(train, labels, recipe, 0, 0, 1)
    for number in range(3):
        whole = alone.of(number)
        seen: dict[int, tuple[int, float]] = {}
        for rank in range(world):
            share = Shares(train, labels, recipe, 0, rank, world).of(number)
            assert share.rows == whole.rows
            assert [train[clip] for clip in share.clips] == [share.rows[at] for at in share.places]
            assert (share.mixing is None) == (mixup == 0)
            partner, own = share.mixing or (torch.arange(share.own), torch.ones(share.own))
            assert len(partner) == len(own) == share.own
            for at, other, part in zip(share.places, partner.tolist(), own.tolist(), strict=False):
                assert at not in seen
                seen[at] = (share.places[other], part)
        partner, own = whole.mixing or (torch.arange(7), torch.ones(7))
        assert seen == {at: (partner[at].item(), own[at].item()) for at in range(7)}


def test_each_process_reads_what_it_needs() -> None:
    recipe = Recipe(preset="other", updates=2, batch=8).resolved().planned(8)
    shares = [Shares(np.arange(8), np.zeros(8, np.int64), recipe, 0, rank, 2) for rank in range(2)]
    drawn = [[draw.rows for draw in share.draws(0)] for share in shares]
    for number in range(2):
        assert sorted(drawn[0][number] + drawn[1][number]) == list(range(8))
    assert [draw.rows for draw in shares[0].draws(1)] == drawn[0][1:]
