"""What to do (plan) and doing it: models x tasks x protocols -> records, each computed once.

Planning reads metadata and stats files, nothing else: it imports neither torch nor scikit-learn, so a run with
nothing left to do ends at once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aape_bench import environment, metrics, records
from aape_bench.audio import TREATMENT
from aape_bench.cache import EmbeddingEntry, Treatment
from aape_bench.errors import BenchError, BrokenAudio, DataError, StorageError
from aape_bench.progress import Progress, Silent
from aape_bench.protocols import Outcome, protocol
from aape_bench.selection import ModelChoice
from aape_bench.settings import label_of, make_config
from aape_bench.storage import check_writable
from aape_bench.task import Task

if TYPE_CHECKING:
    import pandas as pd

    from aape_bench.clips import ClipReader
    from aape_bench.contents import ContentMemory
    from aape_bench.encoder import Encoder

Action = Literal["done", "fit", "embed", "read files"]


@dataclass(frozen=True)
class Options:
    """How to run. device: "cpu" or "cuda"; batch_size: clips given to the encoder at once."""

    data_dir: Path
    cache_dir: Path
    results_dir: Path
    allow_partial: bool = False
    skip_broken: bool = False
    device: str = "cpu"
    batch_size: int = 32


@dataclass(frozen=True)
class ProtocolChoice:
    """A protocol with its resolved settings; `label` carries what is not default."""

    name: str
    label: str
    settings: Any
    version: int

    @property
    def description(self) -> dict[str, Any]:
        """What of the protocol decides a result."""
        return {"name": self.name, "version": self.version, "settings": asdict(self.settings)}


@dataclass(frozen=True)
class TaskData:
    """A task's clip table as it will be evaluated. `memory` and `stats` are None for generated tasks."""

    task: Task
    root: Path
    table: pd.DataFrame
    stats: list[tuple[int, int, int]] | None
    memory: ContentMemory | None

    def unread(self) -> int:
        """Files whose content is not known yet (new or changed since they were hashed)."""
        if self.memory is None or self.stats is None:
            return 0
        return self.memory.known(list(self.table["path"]), self.stats).count(None)

    def fingerprint(self, advance: Any = lambda _: None) -> str:
        """The data fingerprint; files not known yet are read."""
        from aape_bench.contents import data_fingerprint

        if self.memory is None or self.stats is None:
            return data_fingerprint(self.task, self.table, None)
        hashes = self.memory.hashes(list(self.table["path"]), self.stats, advance)
        return data_fingerprint(self.task, self.table, hashes)


@dataclass(frozen=True)
class Job:
    """One result to be there in the end. `action` is what it takes; "read files": not known before files are hashed."""

    model: ModelChoice
    data: TaskData
    protocol: ProtocolChoice
    action: Action


@dataclass(frozen=True)
class Report:
    """What a run did: the records' paths (absolute), how many of them it computed."""

    paths: list[Path]
    computed: int


def choose_protocols(names: Sequence[str], settings: Mapping[str, str]) -> list[ProtocolChoice]:
    """Protocols by name; `settings` go to each of them."""
    chosen = []
    for name in dict.fromkeys(names):
        module = protocol(name)
        config = make_config(module.Settings, settings, f'The protocol "{name}"')
        chosen.append(ProtocolChoice(name, label_of(name, config), config, module.VERSION))
    return chosen


def plan(
    models: Sequence[ModelChoice], tasks: Sequence[Task], protocols: Sequence[ProtocolChoice], options: Options
) -> list[Job]:
    """Every job, with what it takes. Raises BenchError where data or a model cannot be used."""
    loaded = [load_task(task, options) for task in tasks]
    jobs = []
    for model in models:
        _ = model.identity  # a model that cannot be identified is refused here, before anything is read or computed
        for data in loaded:
            fingerprint = None if data.unread() else data.fingerprint()
            for chosen in protocols:
                jobs.append(Job(model, data, chosen, _action(model, data, chosen, fingerprint, options)))
    return jobs


def load_task(task: Task, options: Options) -> TaskData:
    """Read and check a task's metadata and see which clips are there."""
    from aape_bench import clip_table
    from aape_bench.contents import ContentMemory

    if task.generator is not None:
        return TaskData(task, Path(), clip_table.check(task, task.read(Path())), None, None)
    if not options.data_dir.is_dir():
        raise DataError(
            f"The data directory {options.data_dir} does not exist. Name the folder that holds "
            f'"{task.folders[0]}" with --data-dir or AAPE_BENCH_DATA_DIR. {task.by_hand}'.rstrip()
        )
    roots = [options.data_dir / folder for folder in task.folders]
    root = next((folder for folder in roots if folder.is_dir()), None)
    if root is None:
        raise DataError(
            f"{task.name}: there is no folder {' or '.join(task.folders)} in the data directory {options.data_dir}. "
            f"{task.by_hand}".rstrip()
        )
    table = clip_table.check(task, task.read(root))
    present = clip_table.select_present(task, root, table, options.allow_partial)
    clip_table.rotations(task, present.table)
    return TaskData(task, root, present.table, present.stats, ContentMemory(options.cache_dir, root))


def run(jobs: Sequence[Job], options: Options, progress: Progress | None = None) -> Report:
    """Do what is missing. A job whose data or model fails does not stop the others; the failures are raised last."""
    progress = progress or Silent()
    if any(job.action != "done" for job in jobs):
        check_writable(options.results_dir, "--results-dir")
        check_writable(options.cache_dir, "--cache-dir")
    paths: list[Path] = []
    computed = 0
    failures: dict[str, BenchError] = {}
    for job in jobs:
        try:
            path, new = _finish(job, options, progress)
        except StorageError:
            raise
        except BenchError as error:
            failures.setdefault(str(error), error)
            continue
        paths.append(path)
        computed += new
    if len(failures) == 1:
        raise next(iter(failures.values()))
    if failures:
        raise BenchError("\n".join(failures))
    return Report(paths, computed)


def _action(
    model: ModelChoice, data: TaskData, chosen: ProtocolChoice, fingerprint: str | None, options: Options
) -> Action:
    if fingerprint is None:
        return "read files"
    if _existing(model, data, chosen, fingerprint, options) is not None:
        return "done"
    return "embed" if _entry(model, data, fingerprint, options).summary() is None else "fit"


def _finish(job: Job, options: Options, progress: Progress) -> tuple[Path, bool]:
    """The path of the job's record, and whether it had to be computed."""
    model, data, chosen = job.model, job.data, job.protocol
    name = f"{model.label} on {data.task.name}"
    if unread := data.unread():
        with progress.stage(f"{data.task.name}: reading", unread, "files") as advance:
            fingerprint = data.fingerprint(advance)
    else:
        fingerprint = data.fingerprint()
    if (path := _existing(model, data, chosen, fingerprint, options)) is not None:
        return path, False

    entry = _entry(model, data, fingerprint, options)
    summary = entry.summary() or _embed(model, data, entry, options, progress, name)
    broken = entry.broken()
    if broken and not options.skip_broken:
        _refuse_broken(_reader(model, data, None), broken)

    from aape_bench.clip_table import rotations

    kept = [row for row in range(len(data.table)) if row not in broken]
    table = data.table.iloc[kept].reset_index(drop=True)
    rounds = rotations(data.task, table)
    started = time.perf_counter()
    with progress.stage(f"{name}: {chosen.label}", len(rounds), "folds") as advance:
        outcome = protocol(chosen.name).fit_predict(
            entry.read()[kept], list(table["label"]), rounds, chosen.settings, model.seed, advance
        )
    fit = {"seconds": round(time.perf_counter() - started, 3), "peak_memory_mb": environment.peak_memory_mb()}
    stages = {
        "embed": {"seconds": round(entry.seconds(), 3), "peak_memory_mb": summary["peak_memory_mb"]},
        "fit": fit,
    }
    skipped = [{"clip": data.table["id"][row], "reason": reason} for row, reason in sorted(broken.items())]
    return _write(job, options, fingerprint, table, outcome, summary, stages, skipped), True


def _embed(
    model: ModelChoice, data: TaskData, entry: EmbeddingEntry, options: Options, progress: Progress, name: str
) -> dict[str, Any]:
    from aape_bench.embed import embed

    encoder = model.build()
    batch_size = entry.begin(options.batch_size)
    if batch_size != options.batch_size:
        progress.say(f"{name}: continuing with batches of {batch_size}, as they were begun.")
    missing, shards = entry.missing(), entry.shards()
    if 0 < len(missing) < len(shards):
        progress.say(f"{name}: {len(shards) - len(missing)} of {len(shards)} parts are there already.")
    reader = _reader(model, data, encoder)
    with progress.stage(f"{name}: embedding", sum(len(shards[n]) for n in missing), "clips") as advance:
        embed(encoder, reader, entry, batch_size, options.device, options.skip_broken, advance)
    summary = {
        "dimension": encoder.scene_embedding_size,
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "peak_memory_mb": environment.peak_memory_mb(),
    }
    entry.complete(summary)
    return summary


def _reader(model: ModelChoice, data: TaskData, encoder: Encoder | None) -> ClipReader:
    from aape_bench.clips import ClipReader

    full_length = encoder is not None and not encoder.takes_lengths
    return ClipReader(data.task, data.root, data.table, data.stats, model.sample_rate, full_length)


def _refuse_broken(reader: ClipReader, broken: dict[int, str]) -> None:
    """Raise for the first clip that an earlier run was told to skip and this one was not."""
    row, what = min(broken.items())
    raise BrokenAudio(reader.name(row), what)


def _treatment(model: ModelChoice, options: Options) -> Treatment:
    return Treatment(model.sample_rate, TREATMENT, device=options.device)


def _entry(model: ModelChoice, data: TaskData, fingerprint: str, options: Options) -> EmbeddingEntry:
    return EmbeddingEntry(options.cache_dir, model.identity, fingerprint, _treatment(model, options), len(data.table))


def _key(model: ModelChoice, chosen: ProtocolChoice, fingerprint: str, options: Options) -> str:
    return records.result_key(model.identity, fingerprint, _treatment(model, options), chosen.description, model.seed)


def _existing(
    model: ModelChoice, data: TaskData, chosen: ProtocolChoice, fingerprint: str, options: Options
) -> Path | None:
    """The record of this result where it is there with its predictions, and skipped nothing unasked."""
    key = _key(model, chosen, fingerprint, options)
    path, predictions = records.record_paths(data.task.name, chosen.label, model.label, key)
    if not (options.results_dir / path).is_file() or not (options.results_dir / predictions).is_file():
        return None
    if records.read_record(options.results_dir / path).task["skipped"] and not options.skip_broken:
        return None
    return options.results_dir / path


def _write(
    job: Job,
    options: Options,
    fingerprint: str,
    table: pd.DataFrame,
    outcome: Outcome,
    summary: Mapping[str, Any],
    stages: dict[str, Any],
    skipped: list[dict[str, str]],
) -> Path:
    model, task, chosen = job.model, job.data.task, job.protocol
    tested = table.iloc[outcome.test]
    truth = tested["label"].to_numpy(str)
    correct = truth == outcome.predicted
    key = _key(model, chosen, fingerprint, options)
    _, predictions = records.record_paths(task.name, chosen.label, model.label, key)
    records.write_predictions(
        options.results_dir / predictions,
        list(tested["id"]), list(outcome.fold), list(tested["group"]), list(truth), list(outcome.predicted),
        outcome.classes, outcome.scores,
    )  # fmt: skip
    draws = metrics.bootstrap_accuracy(correct, outcome.fold, list(tested["group"]), task.name, model.seed)
    low, high = metrics.interval(draws)
    folds = [choice["fold"] for choice in outcome.choices]
    record = records.Record(
        schema=records.SCHEMA,
        key=key,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=model.seed,
        model={
            "label": model.label,
            "identity": model.identity,
            "settings": model.settings,
            "weights": model.weights,
            "checkpoint": model.checkpoint,
            "parameters": summary["parameters"],
            "dimension": summary["dimension"],
        },
        task={
            "name": task.name,
            "metric": task.metric,
            "fingerprint": fingerprint,
            "clips": len(table),
            "expected": task.clips,
            "partial": "" if len(table) == task.clips else f"{len(table)} of {task.clips}",
            "skipped": skipped,
        },
        treatment=asdict(_treatment(model, options)),
        protocol={"label": chosen.label, **chosen.description, "choices": outcome.choices},
        scores={
            "score": metrics.mean_over_folds(correct, outcome.fold),
            "interval": {"low": low, "high": high, "level": metrics.LEVEL, "method": metrics.INTERVAL_METHOD},
            "folds": [
                {
                    "fold": fold,
                    "score": metrics.accuracy(truth[outcome.fold == fold], outcome.predicted[outcome.fold == fold]),
                    "clips": int((outcome.fold == fold).sum()),
                }
                for fold in folds
            ],
            "test_clips": len(tested),
            "groups": int(tested["group"].nunique()) or None,
            "chance": metrics.chance_accuracy(truth),
        },
        stages=stages,
        versions=environment.versions(),
        # a checkpoint says nothing yet of the clips it was trained on; weights that saw no audio overlap with none
        pretrain_overlap="none" if model.weights in ("none", "random") else "unknown",
        predictions=predictions.as_posix(),
    )
    return records.write_record(options.results_dir, record)
