"""Batches of random crops, decoded ahead by threads. (Imports torch.)

The batch of a step is a function of (source, seed, step) alone, and a rank's share of it a slice: the position in the
data is the number of the step, so that a resumed run, or one on another number of ranks, meets the same clips.
"""

from __future__ import annotations

import contextlib
import csv
import io
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aape_bench.errors import BrokenAudio, DataError, UsageError
from aape_bench.models.aape.pretrain.config import PretrainConfig
from aape_bench.models.aape.pretrain.crops import SAMPLE_RATE, Crop
from aape_bench.models.aape.pretrain.sources import Source
from aape_bench.overlap import TrainingAudio
from aape_bench.randomness import numpy_stream
from aape_bench.storage import storage_error

#: So many clips in a row that cannot be used mean that the source is no good.
_MOST_BROKEN_IN_A_ROW = 300
_SHOWN = 5
_BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Batch:
    """Crops of one rank's share of a step.

    audio: (n, samples) float32 at 16 kHz, zero-padded. lengths: (n,) int64, real samples. source: (n,) int64, equal
    for crops of one recording. clip: (n,) int64, index in the source. again: (n,) int64, 0, or a number of its own
    within the step where the step may hold another crop of the clip: from the next epoch, or where it stands in for a
    broken one. broken: clips met so far that cannot be used.
    """

    audio: Tensor
    lengths: Tensor
    source: Tensor
    clip: Tensor
    again: Tensor
    broken: int


@dataclass(frozen=True)
class _Fetched:
    """A crop, which clip it is of, `Batch.again`, and the clips it stands in for, with what is wrong with them."""

    clip: int
    again: int
    crop: Crop
    broken: list[tuple[int, str]]


class Loader:
    """Batches for one rank.

    Every epoch is a permutation of the clips; where they do not fill the last batch, the next epoch's first ones do.
    A clip that cannot be used is replaced by the next one of the epoch that can.

    waited: seconds that `batches` has waited for decoding. trained: the hashes of the audio of all batches given out.
    unsought: files met so far that were decoded up to the crop, or gave their head, since they cannot be sought in.
    """

    def __init__(
        self,
        source: Source,
        config: PretrainConfig,
        seed: int,
        rank: int = 0,
        world: int = 1,
        *,
        broken: BrokenFiles | None = None,
    ) -> None:
        """config: resolved. broken: where clips that cannot be used are noted. Raises UsageError, DataError."""
        if config.batch % world:
            raise UsageError(f"batch={config.batch} cannot be shared evenly by {world} processes. Set another batch.")
        if not len(source):
            raise DataError("There is no audio to train on. Name some with --audio.")
        self.source, self.seed = source, seed
        self.seconds, self.workers = config.clip_seconds, config.workers
        self.samples = round(config.clip_seconds * SAMPLE_RATE)
        self._batch, self._share, self._rank = config.batch, config.batch // world, rank
        self.waited = 0.0
        self.trained = TrainingAudio(source.generators)
        self.broken = BrokenFiles() if broken is None else broken
        self._unsought: set[int] = set()
        self._identified = np.zeros(int(source.files.max()) + 1, bool)
        self._orders: dict[int, npt.NDArray[np.int64]] = {}
        self._lock = threading.Lock()

    @property
    def unsought(self) -> int:
        """See the class."""
        return len(self._unsought)

    def batches(self, first_step: int) -> Generator[Batch, None, None]:
        """This rank's batch of every step from `first_step` on, without end.

        Raises DataError where nothing can be used any more. Closing the iterator ends its threads.
        """
        if self.workers == 0:
            step = first_step
            while True:
                started = time.perf_counter()
                fetched = [self._fetch(position) for position in self._positions(step)]
                self.waited += time.perf_counter() - started
                yield self._assemble(fetched)
                step += 1
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        ahead: deque[list[Future[_Fetched]]] = deque()
        step = first_step
        try:
            while True:
                while len(ahead) < 1 + _BATCHES_AHEAD:
                    ahead.append([pool.submit(self._fetch, position) for position in self._positions(step)])
                    step += 1
                started = time.perf_counter()
                fetched = [future.result() for future in ahead.popleft()]
                self.waited += time.perf_counter() - started
                yield self._assemble(fetched)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def state(self) -> dict[str, Any]:
        """What the batches given out so far were made of, for `restore`; a position is not in it, that is the step."""
        return {
            "hashes": torch.from_numpy(self.trained.hashes.view(np.int64).copy()),
            "identified": torch.from_numpy(np.packbits(self._identified)),
            "generators": list(self.trained.generators),
            "complete": self.trained.complete,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take in the `state` of an earlier part of the run, or of another rank."""
        hashes = state["hashes"].numpy().view(np.uint64)
        self.trained.merge(TrainingAudio(state["generators"], state["complete"], hashes))
        known = np.unpackbits(state["identified"].numpy(), count=len(self._identified)).astype(bool)
        self._identified |= known

    def _positions(self, step: int) -> range:
        first = step * self._batch + self._rank * self._share
        return range(first, first + self._share)

    def _fetch(self, position: int) -> _Fetched:
        """The crop at a position of the endless row of epochs."""
        epoch, place = divmod(position, len(self.source))
        order = self._order(epoch)
        row = position % self._batch
        broken: list[tuple[int, str]] = []
        for step in range(min(len(order), _MOST_BROKEN_IN_A_ROW)):
            clip = int(order[(place + step) % len(order)])
            # a stand-in has a place of its own, or the clip's own turn would bring the same crop
            instead = (int(order[place]),) if step else ()
            draw = numpy_stream(self.seed, "crop", epoch, clip, *instead)
            try:
                identify = not self._identified[self.source.files[clip]]
                crop = self.source.read(clip, self.seconds, draw, identify)
                again = 1 + row if instead or row > place else 0  # row > place: the step began in the epoch before
                return _Fetched(clip, again, crop, broken)
            except BrokenAudio as error:
                broken.append((clip, error.what))
        raise DataError(_no_use(self.source, broken))

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        with self._lock:
            if epoch not in self._orders:
                self._orders = {e: order for e, order in self._orders.items() if abs(e - epoch) <= 1}
                shuffle = numpy_stream(self.seed, "epoch", epoch)
                self._orders[epoch] = shuffle.permutation(len(self.source))
            return self._orders[epoch]

    def _assemble(self, fetched: list[_Fetched]) -> Batch:
        audio = torch.zeros(len(fetched), self.samples)
        for row, one in zip(audio.numpy(), fetched, strict=True):
            row[: len(one.crop.audio)] = one.crop.audio
            if one.crop.hashes:
                self.trained.add(one.crop.hashes)
                self._identified[self.source.files[one.clip]] = True
            if not one.crop.sought:
                self._unsought.add(int(self.source.files[one.clip]))
            for clip, what in one.broken:
                self.broken.note(self.source.name(clip), what)
        clips = np.array([one.clip for one in fetched], np.int64)
        return Batch(
            audio,
            torch.tensor([len(one.crop.audio) for one in fetched]),
            torch.from_numpy(self.source.origins[clips]),
            torch.from_numpy(clips),
            torch.tensor([one.again for one in fetched]),
            len(self.broken),
        )


class BrokenFiles:
    """Clips that cannot be used, each named once: the first few on screen, all of them in a CSV (file, reason).

    path: the CSV, which is continued where it is there; None: they are counted only. say: shows a line.
    """

    def __init__(self, path: Path | None = None, say: Callable[[str], None] = lambda _: None) -> None:
        self._path, self._say = path, say
        self._names: set[str] = set()
        self._shown = 0
        self._torn = False
        if path is not None and path.is_file():
            text = path.read_bytes().decode("utf-8", "replace")
            whole = text[: text.rfind("\n") + 1]  # a crash may have cut the last line
            with contextlib.suppress(csv.Error):  # not as it is written here: what follows is named again
                for row in csv.reader(io.StringIO(whole, newline="\n")):
                    self._names |= {row[0]} if len(row) == 2 else set()
            self._names.discard("file")
            self._torn = len(whole) < len(text)

    def __len__(self) -> int:
        return len(self._names)

    def note(self, name: str, what: str) -> None:
        """Take in one, if it is new. Raises StorageError where the CSV cannot be written."""
        name, what = (text.encode("utf-8", "backslashreplace").decode() for text in (name, what))
        if name in self._names:
            return
        self._names.add(name)
        self._write(name, what)
        if self._shown < _SHOWN:
            self._say(f"Left out: {name} {what}.")
        elif self._shown == _SHOWN:
            where = f" (see {self._path})" if self._path else ""
            self._say(f"More files cannot be used; they are left out without a line here{where}.")
        self._shown += 1

    def _write(self, name: str, what: str) -> None:
        if self._path is None:
            return
        text = io.StringIO()
        try:
            new = not self._path.exists()
            if self._torn:
                text.write("\n")
            rows = [*([("file", "reason")] if new else []), (name, what)]
            if "\r" in name + what:  # is not quoted of itself
                csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(rows)
            else:
                csv.writer(text, lineterminator="\n").writerows(rows)
            with self._path.open("ab") as handle:
                handle.write(text.getvalue().encode())
            self._torn = False
        except OSError as error:
            raise storage_error(self._path, error) from error


def _no_use(source: Source, broken: list[tuple[int, str]]) -> str:
    all_of_it = len(broken) == len(source)
    which = "No clip of the audio can be used" if all_of_it else f"{len(broken)} clips in a row cannot be used"
    clip, what = broken[0]
    return f"{which}: {source.name(clip)} {what}, for example. Mend the audio, or name other audio with --audio."
