"""Inverse-block masks: how many patches, in what shapes, drawn from what."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from pretrain_models import global_generators, pretrain_config
from torch import Tensor

from aape_bench.models.aape.pretrain.masks import batch_masks, block_side, keep_indices
from aape_bench.randomness import numpy_stream

PAPER = {"masks": 16, "steps": 64, "rows": 8, "keep": 0.2}
LAPTOP = {"masks": 16, "steps": 16, "rows": 8, "keep": 0.2}


def clips(count: int) -> Tensor:
    return torch.arange(count)


def grids(kept: Tensor, steps: int, rows: int) -> np.ndarray:
    """(views, steps, rows) bool of (n, M, k) positions."""
    flat = np.zeros((kept.shape[0] * kept.shape[1], steps * rows), dtype=bool)
    np.put_along_axis(flat, kept.flatten(0, 1).numpy(), True, axis=1)
    return flat.reshape(-1, steps, rows)


def in_whole_blocks(grid: np.ndarray, side: int) -> np.ndarray:
    """Per view, the share of kept cells that lie in a side x side square of kept cells."""
    covered = np.zeros_like(grid)
    for step in range(grid.shape[1] - side + 1):
        for row in range(grid.shape[2] - side + 1):
            square = np.s_[:, step : step + side, row : row + side]
            covered[square] |= grid[square].all(axis=(1, 2), keepdims=True)
    return np.asarray(covered.sum(axis=(1, 2)) / grid.sum(axis=(1, 2)))


def test_exactly_102_of_512_are_kept_in_ascending_order() -> None:
    kept = keep_indices(0, 0, clips(32), **PAPER)
    assert kept.shape == (32, 16, 102)
    assert kept.dtype == torch.int64
    assert bool((kept.diff(dim=2) > 0).all())
    assert 0 <= int(kept.min()) <= int(kept.max()) < 512


@pytest.mark.parametrize(("steps", "rows", "keep"), [(16, 8, 0.2), (8, 8, 0.5), (3, 2, 0.2), (64, 8, 0.97)])
@pytest.mark.parametrize("block", [None, 1])
def test_the_count_is_the_rounded_share_on_every_grid(steps: int, rows: int, keep: float, block: int | None) -> None:
    kept = keep_indices(3, 7, clips(5), 3, steps, rows, keep, block)
    assert kept.shape == (5, 3, round(keep * steps * rows))
    assert bool((kept.diff(dim=2) > 0).all())


@pytest.mark.parametrize(
    ("grid", "side"), [((64, 8), 5), ((16, 8), 2), ((32, 8), 4), ((8, 8), 2), ((2, 2), 1), ((4, 1), 1)]
)
def test_the_side_of_a_block_leaves_about_five_blocks(grid: tuple[int, int], side: int) -> None:
    assert block_side(*grid, keep=0.2, excess=0.07, fewest=4) == side


@pytest.mark.parametrize(("grid", "side"), [(PAPER, 5), (LAPTOP, 2)])
def test_kept_patches_stand_in_blocks_far_more_than_by_chance(grid: dict[str, float], side: int) -> None:
    steps, rows = int(grid["steps"]), int(grid["rows"])
    kept = keep_indices(0, 0, clips(20), 16, steps, rows, 0.2)
    scattered = keep_indices(0, 0, clips(20), 16, steps, rows, 0.2, block=1)
    neighbours = {}
    for name, indices in (("blocks", kept), ("chance", scattered)):
        grid_ = grids(indices, steps, rows)
        beside = (grid_[:, 1:] & grid_[:, :-1]).sum() / grid_[:, 1:].sum()
        neighbours[name] = beside
        # A 2 x 2 square is whole by chance with 0.2 ** 3; removed cells break larger ones.
        whole = in_whole_blocks(grid_, 2).mean()
        assert whole > 0.75 if name == "blocks" else whole < 0.15
    assert neighbours["chance"] == pytest.approx(0.2, abs=0.02)
    assert neighbours["blocks"] > 0.45
    if side == 5:
        assert in_whole_blocks(grids(kept, steps, rows), 4).mean() > 0.4


def test_a_mask_is_its_blocks_with_patches_added_or_taken_away() -> None:
    """Against blocks drawn cell by cell from the same stream."""
    added = taken = 0
    for clip in range(20):
        kept = keep_indices(5, 9, torch.tensor([clip]), 8, 64, 8, 0.2)
        draws = numpy_stream(5, "mask", 9, clip).random((8, 5 + 512))
        for number in range(8):
            blocks = set()
            for draw in draws[number, :5]:
                step, row = divmod(int(draw * 512), 8)
                cells = ((step + i, row + j) for i in range(-2, 3) for j in range(-2, 3))
                blocks |= {8 * s + r for s, r in cells if 0 <= s < 64 and 0 <= r < 8}
            mask = set(kept[0, number].tolist())
            assert mask <= blocks if len(blocks) >= 102 else mask > blocks
            added, taken = added + (len(blocks) < 102), taken + (len(blocks) > 102)
    assert min(added, taken) > 20  # both happen


def test_corners_are_kept_half_as_often_as_the_middle() -> None:
    """Fewer blocks reach a corner: 3 x 3 centres in place of 5 x 5. So it is in EAT."""
    share = grids(keep_indices(0, 0, clips(200), **PAPER), 64, 8).mean(axis=0)
    assert share.mean() == pytest.approx(102 / 512)
    assert share[[0, 0, -1, -1], [0, -1, 0, -1]].mean() == pytest.approx(0.1, abs=0.02)
    assert share[2:-2, 2:-2].mean() == pytest.approx(0.24, abs=0.02)


def test_masks_of_a_clip_are_as_unlike_as_masks_of_different_clips() -> None:
    kept = keep_indices(0, 0, clips(60), **PAPER)
    views = grids(kept, 64, 8).reshape(60, 16, 512).astype(int)
    same_clip = [a @ b for clip in views for a, b in combinations(clip, 2)]
    same_number = [a @ b for number in views.transpose(1, 0, 2) for a, b in combinations(number, 2)]
    # Patches at the edges are kept less often, so a little above 102 ** 2 / 512 = 20.3.
    assert np.mean(same_clip) == pytest.approx(np.mean(same_number), abs=0.5)
    assert 20 < np.mean(same_clip) < 23
    assert len({tuple(view) for view in views.reshape(-1, 512)}) == 960


def test_a_mask_depends_on_seed_step_clip_and_number_alone() -> None:
    kept = keep_indices(0, 4, torch.tensor([3, 9, 1000000]), **PAPER)
    other_batch = keep_indices(0, 4, torch.tensor([1000000, 5, 6, 3]), **{**PAPER, "masks": 3})
    assert torch.equal(kept[0, :3], other_batch[3])
    assert torch.equal(kept[2, :3], other_batch[0])
    for changed in (keep_indices(1, 4, torch.tensor([3]), **PAPER), keep_indices(0, 5, torch.tensor([3]), **PAPER)):
        assert not bool((kept[0] == changed[0]).all(dim=1).any())


def test_two_crops_of_a_clip_in_one_step_get_masks_of_their_own() -> None:
    twice = keep_indices(0, 4, torch.tensor([3, 3, 3]), **PAPER, again=torch.tensor([0, 1, 2]))
    assert torch.equal(twice[0], keep_indices(0, 4, torch.tensor([3]), **PAPER)[0])
    assert not bool((twice[0] == twice[1]).all(dim=1).any())
    assert not bool((twice[1] == twice[2]).all(dim=1).any())


def test_the_config_reaches_the_masks() -> None:
    def drawn(**settings: Any) -> Tensor:
        return batch_masks(pretrain_config(masks=4, **settings), 0, 1, clips(2), 16, 8)

    given = {"keep": 0.3, "mask_block": 3, "mask_excess": 0.2}
    assert torch.equal(drawn(**given), keep_indices(0, 1, clips(2), 4, 16, 8, 0.3, 3, excess=0.2))
    assert torch.equal(drawn(mask_fewest=1), keep_indices(0, 1, clips(2), 4, 16, 8, 0.2, fewest=1))
    for other in ({**given, "mask_block": 2}, {**given, "mask_excess": 0.0}):
        assert not torch.equal(drawn(**other), drawn(**given))
    assert not torch.equal(drawn(mask_fewest=1), drawn())


def test_no_global_generator_is_used() -> None:
    before = global_generators()
    keep_indices(0, 0, clips(3), **PAPER)
    assert global_generators() == before
