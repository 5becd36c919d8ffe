"""Which clips of an update a process takes, where longer ones are cut, whom they are mixed with. (Imports torch.)

All is a function of (seed, update): batches are drawn ahead, and a training that goes on meets what it would have met.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aape_bench.finetune import augment, sampler
from aape_bench.finetune.recipe import Recipe
from aape_bench.finetune.waveforms import Draw

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """What one process takes of an update.

    rows: of the clip table, of every clip of the update. places: among them, the process's own first, then those that
    are only mixed into its own. clips: what is there, as places among the training rows. own: how many are its own.
    mixing: partners among `places` and own shares, (own,) each; None: nothing is mixed.
    """

    rows: list[int]
    places: list[int]
    clips: Rows
    own: int
    mixing: tuple[Tensor, Tensor] | None


class Shares:
    """The shares of the process with this rank among `world`.

    train_rows: of the clip table. labels: of these, (n,) classes or (n, classes) bool. recipe: planned.
    """

    def __init__(
        self, train_rows: Rows, labels: npt.NDArray[Any], recipe: Recipe, seed: int, rank: int, world: int
    ) -> None:
        self._train_rows, self._labels, self._recipe = train_rows, labels, recipe
        self._seed, self._rank, self._world = seed, rank, world
        self._orders: dict[int, Rows] = {}  # epoch -> its clips

    def draws(self, first: int) -> Iterator[Draw]:
        """Clips and cuts of every update from `first` on."""
        for number in range(first, self._recipe.updates or 0):
            share = self.of(number)
            streams = augment.clip_streams(self._seed, "crop", number, share.rows, share.places)
            yield Draw([share.rows[at] for at in share.places], [float(stream.random()) for stream in streams])

    def of(self, number: int) -> Share:
        """The share of the update with this number, from 0."""
        recipe = self._recipe
        clips = sampler.batch_of(number, recipe.batch, len(self._train_rows), self._order)
        rows = self._train_rows[clips].tolist()
        own = list(range(self._rank, len(rows), self._world))
        if not recipe.mixup:
            return Share(rows, own, clips[own], len(own), None)
        streams = augment.clip_streams(self._seed, "mixup", number, rows)
        partner, share = augment.mixing(streams, strength=recipe.mixup, probability=recipe.mixup_probability)
        theirs = dict.fromkeys(partner[own].tolist())
        places = [*own, *(at for at in theirs if at % self._world != self._rank)]
        where = {at: index for index, at in enumerate(places)}
        partners = torch.tensor([where[at] for at in partner[own].tolist()])
        return Share(rows, places, clips[places], len(own), (partners, share[own]))

    def _order(self, epoch: int) -> Rows:
        if epoch not in self._orders:
            # the draws run a few batches ahead of the updates
            self._orders = {at: order for at, order in self._orders.items() if at >= epoch - 1}
            self._orders[epoch] = self._new_order(epoch)
        return self._orders[epoch]

    def _new_order(self, epoch: int) -> Rows:
        if not self._recipe.balanced:
            return sampler.shuffled(len(self._train_rows), self._seed, epoch)
        classes = int(self._labels.max()) + 1 if self._labels.ndim == 1 else 0
        truth = self._labels if self._labels.ndim == 2 else np.eye(classes, dtype=bool)[self._labels]
        return sampler.balanced(truth, self._seed, epoch)
