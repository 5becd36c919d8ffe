"""A run's pieces, done in other processes, here or on other machines; the run then finds them done.

Two rounds: embeddings, some shards at a time, and trainings, a fold at a time; then the probes of the embeddings, some
folds at a time. A piece says in words what it is of, so that it can be sent anywhere that sees the same folders, and
leaves there what it made. What is embedded for several protocols or tasks is embedded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from aape_bench import escapes, planning, selection
from aape_bench.addresses import entry_of
from aape_bench.cache import EmbeddingEntry
from aape_bench.clip_table import rotations
from aape_bench.errors import BenchError, StorageError, raise_all
from aape_bench.executor import Executor, Needs
from aape_bench.passes import in_one_pass
from aape_bench.probes import probe_of
from aape_bench.progress import Progress
from aape_bench.storage import safe_name
from aape_bench.task import Task

_Part = TypeVar("_Part")

#: Pieces of embedding for each process, so that none waits long for the last ones.
_PIECES = 4
#: Of a fit, about, where `linear`'s is rows x dimensions x outputs; and of all other protocols.
_COST, _COSTLY = {"linear": 1.0, "knn": 0.05}, 100.0
#: Values of a piece of probes, at least: some seconds, as a process takes about as long to begin.
_LEAST = 2e8


class Piece(Protocol):
    """Something to be done once."""

    @property
    def needs(self) -> Needs: ...

    def do(self, progress: Progress) -> None: ...


def do(piece: Piece, progress: Progress) -> None:
    """A piece where it was sent to."""
    piece.do(progress)


@dataclass(frozen=True)
class Words:
    """A job, in words. model: arguments of `selection.select_model`. task: as --task takes it."""

    model: tuple[str, dict[str, Any], str, int]
    task: str
    protocol: planning.ProtocolChoice
    options: planning.Options

    def job(self) -> planning.Job:
        """The job, as this process sees it."""
        model = selection.select_model(*self.model)
        options = replace(self.options, references=False)
        (job,), _ = planning.plan([model], selection.select_tasks([self.task]), [self.protocol], options)
        return job


@dataclass(frozen=True)
class Embedding:
    """Some shards of a job's embeddings, and of those that come of the same pass."""

    of: Words
    shards: tuple[int, ...]
    beside: tuple[Words, ...] = ()

    @property
    def needs(self) -> Needs:
        """Room for an encoder, a batch, and the embeddings of a shard."""
        return Needs(gpus=int(self.of.options.device == "cuda"), memory=(2 << 30) + (len(self.beside) << 28))

    def do(self, progress: Progress) -> None:
        """Compute them into the cache. Raises what failed, after the others were done."""
        from aape_bench.frozen import embed_shards

        job = self.of.job()
        others = [replace(words.job(), data=job.data) for words in self.beside]

        def embed(at: int) -> None:  # those that came with an earlier one are passed over
            embed_shards([job, *others][at], self.of.options, progress, self.shards, others[at:])

        _each(embed, range(1 + len(others)))


@dataclass(frozen=True)
class Training:
    """One fold of a job that trains the encoder."""

    of: Words
    fold: str

    @property
    def needs(self) -> Needs:
        """Room for an encoder, its gradients and two moments of these."""
        return Needs(gpus=int(self.of.options.device == "cuda"), memory=4 << 30)

    def do(self, progress: Progress) -> None:
        """Train it into the job's folder."""
        from aape_bench.finetune.forecast import settle
        from aape_bench.finetune.job import train_fold
        from aape_bench.tuned import work_of

        work, _ = work_of(self.of.job(), self.of.options, progress)
        train_fold(settle(work, progress), self.fold, progress)


@dataclass(frozen=True)
class Probing:
    """Some folds of the probes of one job, or of several. embeddings: bytes of the largest."""

    of: tuple[tuple[Words, tuple[str, ...]], ...]
    embeddings: int

    @property
    def needs(self) -> Needs:
        """Room for libraries, the embeddings, and standardised copies in float64."""
        gpus = any(getattr(words.protocol.settings, "device", "cpu") == "cuda" for words, _ in self.of)
        return Needs(gpus=int(gpus), memory=(1 << 30) + 5 * self.embeddings)

    def do(self, progress: Progress) -> None:
        """Fit them into the jobs' folders. Raises what failed, after the others were done."""
        from aape_bench.frozen import fit_folds

        def fit(part: tuple[Words, tuple[str, ...]]) -> None:
            words, folds = part
            fit_folds(words.job(), words.options, progress, folds)

        _each(fit, self.of)


def _each(work: Callable[[_Part], None], parts: Iterable[_Part]) -> None:
    """Do every part; raises what failed after the others were done, at once where the disk fails."""
    failures: dict[str, BenchError] = {}
    for part in parts:
        try:
            work(part)
        except StorageError:
            raise
        except BenchError as error:
            failures.setdefault(str(error), error)
    raise_all(list(failures.values()))


@dataclass(frozen=True)
class _Sent:
    """A piece under way. left: of each job that waits for it, by place, whether something is missing still.

    folders: where it leaves what it makes.
    """

    piece: Piece
    name: str
    left: Mapping[int, Callable[[], bool]]
    folders: Sequence[Path]


def do_apart(
    jobs: Sequence[planning.Job], options: planning.Options, executor: Executor, progress: Progress
) -> dict[int, BenchError]:
    """Do the pieces that are missing; places of the jobs that failed, with the first reason.

    Processes that share a piece get the trainings alone. Raises StorageError; Interrupted.
    """
    failures: dict[int, BenchError] = {}
    open_: dict[int, planning.Job] = {}
    trainings: list[_Sent] = []
    for place, job in enumerate(jobs):
        try:
            if job.action == "done" or planning.existing(job, options, progress) is not None:
                continue
            if job.protocol.trains_encoder:
                trainings += _trainings(place, job, options, progress, executor.threads)
            elif executor.spreads:
                open_[place] = job
        except StorageError:
            raise
        except BenchError as error:
            failures[place] = error
    _round([*trainings, *_embeddings(open_, options, executor)], executor, progress, failures)
    open_ = {place: job for place, job in open_.items() if place not in failures}
    _round(_probes(open_, options), executor, progress, failures)
    return failures


def _round(sent: Sequence[_Sent], executor: Executor, progress: Progress, failures: dict[int, BenchError]) -> None:
    """Do pieces, and note of each job what keeps it from being finished."""
    done = executor.map(do, [one.piece for one in sent], [one.name for one in sent], progress)
    for one, end in zip(sent, done, strict=True):
        for folder in filter(Path.is_dir, one.folders):
            next(folder.iterdir(), None)  # once it is opened, a network file system shows what others have put there
        for place, left in one.left.items():
            if left():
                failures.setdefault(place, end.failure or _lost(one.name))


def _lost(name: str) -> BenchError:
    return BenchError(
        f"{name}: it was done, but what it made is not here. Was code or data changed meanwhile? Of several machines "
        "each needs the same versions, and --data-dir, --cache-dir and --results-dir under the same path, shared."
    )


def _words(job: planning.Job, options: planning.Options) -> Words:
    return Words(job.model.words, _task_text(job.data.task), job.protocol, options)


def _trainings(
    place: int, job: planning.Job, options: planning.Options, progress: Progress, threads: int | None
) -> list[_Sent]:
    """A piece for each fold that is missing; a budget of minutes has then become a number of updates."""
    from aape_bench.finetune.forecast import settle
    from aape_bench.finetune.job import missing_folds
    from aape_bench.tuned import work_of

    work, _ = work_of(job, options, progress)
    missing = missing_folds(work)
    if missing:
        settle(work, progress, threads)

    def sent(fold: str) -> _Sent:
        name, left = f"{job.name}, fold {fold}", {place: lambda: fold in missing_folds(work)}
        return _Sent(Training(_words(job, options), fold), name, left, [work.folder, work.folder / safe_name(fold)])

    return [sent(fold) for fold in missing]


def _embeddings(jobs: Mapping[int, planning.Job], options: planning.Options, executor: Executor) -> list[_Sent]:
    """Pieces of every entry of the cache that is missing, in the jobs' order."""
    entries, waiting = dict[str, EmbeddingEntry](), dict[str, list[int]]()
    for place, job in jobs.items():
        entry = _entry(job, options)
        entries.setdefault(entry.address, entry)
        waiting.setdefault(entry.address, []).append(place)
    missing = {address: shards for address, entry in entries.items() if (shards := entry.missing())}
    # what comes of one pass is done together: the addresses of each
    passes: list[list[str]] = []
    for address in missing:
        taken = {one for together in passes for one in together}
        if address in taken:
            continue
        later = (jobs[waiting[other][0]] for other in missing if other not in taken)
        others = in_one_pass(jobs[waiting[address][0]], later, options)
        passes.append([address, *(_entry(one, options).address for one in others)])
    if not passes:
        return []
    size = math.ceil(sum(len(missing[address]) for address, *_ in passes) / (_PIECES * executor.processes))

    def sent(together: Sequence[str], at: int) -> _Sent:
        shards = missing[together[0]]
        some = tuple(shards[at : at + size])
        number = "" if len(some) == len(shards) else f" {at // size + 1} of {math.ceil(len(shards) / size)}"
        first, *others = (_words(jobs[waiting[address][0]], options) for address in together)

        def left(entry: EmbeddingEntry) -> Callable[[], bool]:
            return lambda: not set(some).isdisjoint(entry.missing())

        waits = {place: left(entries[address]) for address in together for place in waiting[address]}
        more = f" and {len(others)} more layers" * bool(others)
        name = f"{jobs[waiting[together[0]][0]].name}{more}, embedding{number}"
        folders = [entries[address].folder for address in together]
        return _Sent(Embedding(first, some, tuple(others)), name, waits, folders)

    return [sent(one, at) for one in passes for at in range(0, len(missing[one[0]]), size)]


def _entry(job: planning.Job, options: planning.Options) -> EmbeddingEntry:
    return entry_of(job.model, job.data, job.protocol, job.data.fingerprints(), options)


def _probes(jobs: Mapping[int, planning.Job], options: planning.Options) -> list[_Sent]:
    """Every fold that is missing, several in a piece where they are quick; none where all of them are."""
    pieces: list[list[tuple[int, tuple[str, ...], int]]] = []
    values = math.inf
    for place, job in jobs.items():
        folds, each, size = _folds(job, options)
        for some in folds:
            if values >= _LEAST:
                pieces.append([])
                values = 0
            pieces[-1].append((place, some, size))
            values += each * len(some)
    return [_probing(piece, jobs, options) for piece in pieces] if len(pieces) > 1 else []


def _folds(job: planning.Job, options: planning.Options) -> tuple[list[tuple[str, ...]], float, int]:
    """The folds that are missing, those together that need each other; values of one; bytes of the embeddings."""
    task, probe = job.data.task, probe_of(job, options)
    missing = tuple(probe.missing(rotations(task, job.data.table)))
    entry = _entry(job, options)
    size = sum(path.stat().st_size for path in entry.folder.glob("*.npy"))
    values = _COST.get(job.protocol.name, _COSTLY) * size / 4 * task.classes
    return ([(fold,) for fold in missing] if probe.divides else [missing] * bool(missing)), values, size


def _probing(
    piece: Sequence[tuple[int, tuple[str, ...], int]], jobs: Mapping[int, planning.Job], options: planning.Options
) -> _Sent:
    folds: dict[int, tuple[str, ...]] = {}
    for place, some, _ in piece:
        folds[place] = folds.get(place, ()) + some
    of = tuple((_words(jobs[place], options), some) for place, some in folds.items())
    first = jobs[piece[0][0]]
    name = f"{first.name}, {first.protocol.label}, fold {' and '.join(folds[piece[0][0]])}"
    if len(folds) > 1:
        name += f", and {len(folds) - 1} more"
    probes = {place: probe_of(jobs[place], options) for place in folds}

    def left(place: int) -> Callable[[], bool]:
        data, probe = jobs[place].data, probes[place]
        return lambda: not set(folds[place]).isdisjoint(probe.missing(rotations(data.task, data.table)))

    largest = max(size for _, _, size in piece)
    return _Sent(Probing(of, largest), name, {at: left(at) for at in folds}, [one.folder for one in probes.values()])


def _task_text(task: Task) -> str:
    if task.root is None:
        return task.name
    rate = task.name.removeprefix(f"hear:{task.root.resolve().name}")
    return escapes.escaped(f"hear:{task.root}{rate}")
