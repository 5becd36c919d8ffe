"""What to do (plan) and doing it: models x tasks x protocols -> records, each computed once.

Planning reads metadata and stats files, nothing else: it imports neither torch nor scikit-learn (unless a HEAR
module has to be loaded), so a run with nothing left to do ends at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aape_bench import environment, metrics, records
from aape_bench.audio import TREATMENT
from aape_bench.cache import EmbeddingEntry, Treatment
from aape_bench.errors import BenchError, BrokenAudio, StorageError, UsageError, raise_all
from aape_bench.identity import digest, file_digest, source_digest
from aape_bench.progress import Progress, Silent
from aape_bench.protocols import Input, code_digest, input_of, protocol, settings_of_task, trains_encoder
from aape_bench.selection import ModelChoice, PluginChoice, select_model
from aape_bench.settings import deciding, label_of, make_config
from aape_bench.storage import check_writable
from aape_bench.task import Task
from aape_bench.task_data import TaskData, load_task

if TYPE_CHECKING:
    import pandas as pd

    from aape_bench.clip_table import Rotation
    from aape_bench.clips import ClipReader
    from aape_bench.contents import Fingerprints
    from aape_bench.encoder import Encoder
    from aape_bench.evaluate import Evaluation, Outcome
    from aape_bench.executor import Executor
    from aape_bench.finetune.job import Work

#: Core modules by which audio becomes embeddings.
EMBEDDING = ("audio", "containers", "clips", "embed", "encoder", "randomness")

Action = Literal["done", "fit", "embed", "train", "read files"]


@dataclass(frozen=True)
class Options:
    """How to run. device: "cpu" or "cuda"; batch_size: clips given to the encoder at once.

    references: run the encoders whose rows belong into a task's every table, too. notes: say of each result what its
    record also says to a reader: overlap, repeated clips, remarks.
    """

    data_dir: Path
    cache_dir: Path
    results_dir: Path
    allow_partial: bool = False
    skip_broken: bool = False
    device: str = "cpu"
    batch_size: int = 32
    references: bool = True
    notes: bool = True


@dataclass(frozen=True)
class ProtocolChoice:
    """A protocol with its resolved settings; `label` carries what is not default."""

    name: str
    label: str
    settings: Any

    @property
    def description(self) -> dict[str, Any]:
        """What of the protocol decides a result."""
        return {"name": self.name, "code": code_digest(self.name), "settings": deciding(self.settings)}

    @property
    def trains_encoder(self) -> bool:
        """Whether it gets the encoder instead of its embeddings."""
        return trains_encoder(self.name)

    def of_task(self, task: Task) -> ProtocolChoice:
        """The same with what the task decides filled in; its label stays."""
        return replace(self, settings=settings_of_task(self.name, self.settings, task))

    def input_of(self, task: Task) -> Input:
        """What of the task's audio it is given."""
        return input_of(self.name, self.settings, task)


@dataclass(frozen=True)
class Job:
    """One result to be there in the end. `action` is what it takes; "read files": not known before files are hashed."""

    model: ModelChoice
    data: TaskData
    protocol: ProtocolChoice
    action: Action

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.model.label} on {self.data.task.name}"


@dataclass(frozen=True)
class Finished:
    """What a run did: the records' paths, how many of them it computed, and what failed."""

    paths: list[Path]
    computed: int
    failures: list[BenchError]


def choose_protocols(
    names: Sequence[str], settings: Mapping[str, str], training: Mapping[str, str] = MappingProxyType({})
) -> list[ProtocolChoice]:
    """Protocols by name; `settings` go to each of them, those of `training` to each that trains the encoder."""
    if not names:
        raise UsageError("No protocol is named. Name one with --protocol, or leave the option out.")
    if training and not any(trains_encoder(name) for name in names):
        options = " and ".join(f"--{name}" for name in training)
        raise UsageError(f"{options} is for --protocol finetune, and none of {', '.join(names)} trains the encoder.")
    chosen = []
    for name in dict.fromkeys(names):
        module = protocol(name)
        given = {**settings, **(training if trains_encoder(name) else {})}
        if twice := set(settings) & set(training):
            raise UsageError(f'"{min(twice)}" is set twice: by --{min(twice)} and by --protocol-set.')
        config = make_config(module.Settings, given, f'The protocol "{name}"')
        chosen.append(ProtocolChoice(name, label_of(name, config), config))
    return chosen


def plan(
    models: Sequence[ModelChoice], tasks: Sequence[Task], protocols: Sequence[ProtocolChoice], options: Options
) -> tuple[list[Job], list[BenchError]]:
    """Every job, with what it takes; and the tasks that cannot be run, where others can.

    Raises BenchError where a model cannot be used, a protocol does not fit a task, or no task can be run.
    """
    for model in models:
        _ = model.identity  # a model that cannot be identified is refused here, before anything is read or computed
    for task in tasks:
        metrics.check_metric(task.name, task.metric, task.kind)
        for name in task.metrics:
            metrics.check_metric(task.name, name, task.kind)
    loaded, failures = [], []
    for task in tasks:
        try:
            loaded.append(load_task(task, options.data_dir, options.cache_dir, options.allow_partial))
        except BenchError as error:
            failures.append(error)
    if not loaded:
        raise_all(failures)
    jobs = []
    order: dict[tuple[str, int], int] = {}
    for data in loaded:
        prints = None if data.unread() else data.fingerprints()
        others = references(data.task, models) if options.references else []
        for model in [*models, *others]:
            order.setdefault((model.label, model.seed), len(order))
            for chosen in (one.of_task(data.task) for one in protocols):
                if model in others and chosen.trains_encoder:
                    continue  # they say what random weights reach as they are
                jobs.append(Job(model, data, chosen, _action(model, data, chosen, prints, options)))
    # one model after the other: a plugin's weights are in memory for its own jobs only
    return sorted(jobs, key=lambda job: order[job.model.label, job.model.seed]), failures


def judged_by(task: Task) -> dict[str, Any]:
    """What of a task, besides its data, decides scores: choices on validation are made by its metric."""
    return {"metric": task.metric, "kind": task.kind}


def references(task: Task, models: Sequence[ModelChoice]) -> list[ModelChoice]:
    """The encoders whose rows belong into every table of the task, for every seed; those not named already."""
    named = {(model.label, model.seed) for model in models}
    seeds = dict.fromkeys(model.seed for model in models)
    chosen = [select_model(name, {}, "default", seed) for name in task.references for seed in seeds]
    return [model for model in chosen if (model.label, model.seed) not in named]


def run(
    jobs: Sequence[Job], options: Options, progress: Progress | None = None, executor: Executor | None = None
) -> Finished:
    """Do what is missing. A job whose data or model fails does not stop the others; a disk that fails does.

    executor: several processes train encoders fold by fold; everything else is done here.
    """
    progress = progress or Silent()
    if any(job.action != "done" for job in jobs):
        check_writable(options.results_dir, "--results-dir")
        check_writable(options.cache_dir, "--cache-dir")
    paths: list[Path] = []
    computed = 0
    failures: dict[str, BenchError] = {}
    failed: dict[int, BenchError] = {}
    if executor is not None and executor.processes > 1:
        from aape_bench.apart import train_apart

        failed = train_apart(jobs, options, executor, progress)
    for place, job in enumerate(jobs):
        try:
            if place in failed:
                raise failed[place]
            path, new = _finish(job, options, progress)
        except StorageError:
            raise
        except BenchError as error:
            failures.setdefault(str(error), error)
            continue
        paths.append(path)
        computed += new
    return Finished(paths, computed, list(failures.values()))


def _action(
    model: ModelChoice, data: TaskData, chosen: ProtocolChoice, prints: Fingerprints | None, options: Options
) -> Action:
    if prints is None:
        return "read files"
    if _existing(model, data, chosen, prints, options) is not None:
        return "done"
    if chosen.trains_encoder:
        return "train"
    return "embed" if _entry(model, data, chosen, prints, options).summary() is None else "fit"


def _finish(job: Job, options: Options, progress: Progress) -> tuple[Path, bool]:
    """The path of the job's record, and whether it had to be computed."""
    from aape_bench.clip_table import side_column
    from aape_bench.evaluate import Evaluation, write_result
    from aape_bench.overlap import overlap_of

    model, data, chosen, name = job.model, job.data, job.protocol, job.name
    if (path := existing(job, options, progress)) is not None:
        if chosen.trains_encoder and chosen.settings.keep_weights:
            progress.say(
                f"{name}: the result is there, so nothing is trained: weights that were not kept then are not."
            )
        return path, False
    prints = data.fingerprints()
    made = _train(job, options, progress) if chosen.trains_encoder else _embed_and_fit(job, prints, options, progress)
    # a foreign module's weights have no card of ours
    weights = model.path if isinstance(model, PluginChoice) else None
    overlap = overlap_of(model.weights, weights, data.task, data.root, data.table, data.hashes(), options.cache_dir)
    treatment = _treatment(model, chosen.input_of(data.task), options)
    evaluation = Evaluation(
        key=_key(model, data, chosen, prints, options),
        lineage=digest([model.lineage, judged_by(data.task), chosen.description, treatment]),
        model=model,
        task=data.task,
        fingerprint=prints.data,
        table=made.table,
        rotations=made.rotations,
        skipped=[{"clip": data.table["id"][row], "reason": reason} for row, reason in sorted(made.broken.items())],
        repeated=_repeated(data.hashes(), data.table, side_column(data.task)),
        overlap=overlap.value,
        protocol={"label": chosen.label, **chosen.description},
        treatment=asdict(treatment),
        embedding=made.encoder,
        stages=made.stages,
    )
    if options.notes:
        for note in _notes(name, evaluation, made.outcome):
            progress.say(f"Note: {note}")
    path = write_result(options.results_dir, evaluation, made.outcome)
    made.clear()
    return path, True


def existing(job: Job, options: Options, progress: Progress) -> Path | None:
    """The record of the job's result where it is there; files that are not known yet are read for that."""
    data = job.data
    if unread := data.unread():
        with progress.stage(f"{data.task.name}: reading", unread, "files") as advance:
            data.hashes(advance)
    return _existing(job.model, data, job.protocol, data.fingerprints(), options)


@dataclass(frozen=True)
class _Made:
    """What a protocol came to. table, rotations: without broken clips, which are row -> reason.

    encoder: dimension and parameters. stages: what they took. clear: deletes what only an unfinished result needs.
    """

    table: pd.DataFrame
    rotations: list[Rotation]
    broken: dict[int, str]
    outcome: Outcome
    encoder: Mapping[str, Any]
    stages: dict[str, Any]
    clear: Callable[[], None] = lambda: None


def _embed_and_fit(job: Job, prints: Fingerprints, options: Options, progress: Progress) -> _Made:
    from aape_bench.clip_table import left_out, rotations
    from aape_bench.evaluate import judge

    model, data, chosen, name = job.model, job.data, job.protocol, job.name
    entry = _entry(model, data, chosen, prints, options)
    if damaged := entry.discard_damaged():
        progress.say(f"{name}: {len(damaged)} cached part(s) were damaged and are computed again.")
    given = chosen.input_of(data.task)
    summary = entry.summary() or _embed(model, data, entry, given, options, progress, name)
    broken = entry.broken()
    if broken and not options.skip_broken:
        # an earlier run was told to skip it and this one was not
        row, what = min(broken.items())
        raise BrokenAudio(_reader(model, data, None, given).name(row), what)

    table, rounds, kept = left_out(data.task, data.table, rotations(data.task, data.table), broken)
    embeddings, counts = entry.read(), entry.counts()
    if broken:
        embeddings, counts = embeddings[np.repeat(kept, counts)], counts[kept]
    environment.reset_peak_memory()
    started = time.perf_counter()
    with progress.stage(f"{name}: {chosen.label}", len(rounds), "folds") as advance:
        outcome = judge(data.task, table, rounds, embeddings, counts, chosen.name, chosen.settings, model.seed, advance)
    stages = {
        "embed": {"seconds": round(entry.seconds(), 3), **summary["stage"]},
        "fit": {"seconds": round(time.perf_counter() - started, 3), **environment.stage_facts(threads=1)},
    }
    return _Made(table, rounds, broken, outcome, summary, stages)


def _train(job: Job, options: Options, progress: Progress) -> _Made:
    from aape_bench.evaluate import judge_by_training
    from aape_bench.finetune.forecast import settle
    from aape_bench.finetune.job import clear, missing_folds

    work, broken = work_of(job, options, progress)
    if missing_folds(work):
        work = settle(work, progress)
    environment.reset_peak_memory()
    outcome, trained = judge_by_training(work, job.protocol.name, progress)
    facts = environment.stage_facts(threads=trained.encoder["threads"])
    stages = {"fit": {"seconds": round(trained.seconds, 3), **facts}}
    return _Made(work.table, list(work.rotations), broken, outcome, trained.encoder, stages, clear=lambda: clear(work))


def work_of(job: Job, options: Options, progress: Progress) -> tuple[Work, dict[int, str]]:
    """What a protocol that trains the encoder is given, and the clips that are left out: row -> reason."""
    from aape_bench.clip_table import left_out, rotations
    from aape_bench.finetune.job import Work, folders

    model, data, chosen = job.model, job.data, job.protocol
    broken = _broken(job, progress) if options.skip_broken else {}
    table, rounds, kept = left_out(data.task, data.table, rotations(data.task, data.table), broken)
    hashes, stats = data.hashes(), data.stats
    key = _key(model, data, chosen, data.fingerprints(), options)
    folder, weights = folders(options.results_dir, data.task.name, chosen.label, model.label, key)
    work = Work(
        model=model,
        task=data.task,
        root=data.root,
        table=table,
        stats=None if stats is None else [one for one, there in zip(stats, kept, strict=True) if there],
        hashes=None if hashes is None else [one for one, there in zip(hashes, kept, strict=True) if there],
        rotations=rounds,
        recipe=chosen.settings,
        device=options.device,
        folder=folder,
        weights=weights,
    )
    return work, broken


def _broken(job: Job, progress: Progress) -> dict[int, str]:
    """Clips that cannot be used, row -> reason: all are decoded once."""
    reader = _reader(job.model, job.data, None, job.protocol.input_of(job.data.task))
    rows = range(len(job.data.table))
    broken: dict[int, str] = {}
    with progress.stage(f"{job.name}: decoding", len(rows), "clips") as advance:
        for batch in reader.batches([[row] for row in rows], skip_broken=True):
            broken |= batch.broken
            advance(1)
    return broken


def _notes(name: str, evaluation: Evaluation, outcome: Outcome) -> list[str]:
    """What a reader of the score should know, a sentence each."""
    notes = []
    if evaluation.overlap in ("train", "test", "same-generator"):
        of = "sounds made as this task's are" if evaluation.overlap == "same-generator" else "audio of this task"
        notes.append(f"{name}: the weights were trained on {of} (overlap: {evaluation.overlap}).")
    if evaluation.repeated:
        notes.append(
            f"{evaluation.task.name}: {evaluation.repeated} clips are, byte for byte, on several sides of splits."
        )
    return notes + [f"{name}: {remark}" for remark in outcome.remarks]


def _embed(
    model: ModelChoice,
    data: TaskData,
    entry: EmbeddingEntry,
    given: Input,
    options: Options,
    progress: Progress,
    name: str,
) -> dict[str, Any]:
    import torch

    from aape_bench.embed import embed

    encoder = model.build()
    batch_size = entry.begin(options.batch_size)
    if batch_size != options.batch_size:
        progress.say(f"{name}: continuing with batches of {batch_size}, as they were begun.")
    missing, shards = entry.missing(), entry.shards()
    if 0 < len(missing) < len(shards):
        progress.say(f"{name}: {len(shards) - len(missing)} of {len(shards)} parts are there already.")
    reader = _reader(model, data, encoder, given)
    environment.reset_peak_memory()
    with progress.stage(f"{name}: embedding", sum(len(shards[n]) for n in missing), "clips") as advance:
        embed(encoder, reader, entry, batch_size, options.device, options.skip_broken, advance)
    summary = {
        "dimension": encoder.timestamp_embedding_size if entry.moments else encoder.scene_embedding_size,
        "parameters": encoder.parameter_count,
        "stage": {"batch_size": batch_size, **environment.stage_facts(threads=torch.get_num_threads())},
    }
    entry.complete(summary)
    return summary


def _reader(model: ModelChoice, data: TaskData, encoder: Encoder | None, given: Input) -> ClipReader:
    from aape_bench.clip_table import rotations
    from aape_bench.clips import ClipReader, Crop

    full_length = encoder is not None and not encoder.takes_lengths
    crop = None
    if given.crop is not None:
        (rotation,) = rotations(data.task, data.table)
        crop = Crop(given.crop, frozenset(rotation.train.tolist()))
    return ClipReader(data.task, data.root, data.table, data.stats, model.sample_rate, full_length, crop)


def _treatment(model: ModelChoice, given: Input, options: Options) -> Treatment:
    code = source_digest([f"aape_bench.{name}" for name in EMBEDDING])
    return Treatment(model.sample_rate, TREATMENT, code, given.role, device=options.device, crop=given.crop)


def _entry(
    model: ModelChoice, data: TaskData, chosen: ProtocolChoice, prints: Fingerprints, options: Options
) -> EmbeddingEntry:
    given = chosen.input_of(data.task)
    # a crop hangs on which clips are training clips, which the audio's fingerprint does not say
    audio = prints.audio if given.crop is None else prints.data
    treatment = _treatment(model, given, options)
    return EmbeddingEntry(options.cache_dir, model.identity, audio, treatment, len(data.table))


def _key(model: ModelChoice, data: TaskData, chosen: ProtocolChoice, prints: Fingerprints, options: Options) -> str:
    treatment = _treatment(model, chosen.input_of(data.task), options)
    task = data.task
    about = {
        **judged_by(task),
        "metrics": task.metrics,
        "figures": source_digest([task.figures.__module__]) if task.figures is not None else None,
        "official": [task.clips, task.classes, task.part_clips],
    }
    return records.result_key(model.identity, prints.data, about, treatment, chosen.description, model.seed)


def _existing(
    model: ModelChoice, data: TaskData, chosen: ProtocolChoice, prints: Fingerprints, options: Options
) -> Path | None:
    """The record of this result where it is there, readable, with its predictions, and skipped nothing unasked."""
    key = _key(model, data, chosen, prints, options)
    path, predictions = records.record_paths(data.task.name, chosen.label, model.label, key)
    if not (options.results_dir / path).is_file() or not (options.results_dir / predictions).is_file():
        return None
    try:
        record = records.read_record(options.results_dir / path)
    except StorageError:
        return None
    if file_digest(options.results_dir / predictions) != record.predictions_sha256:
        return None
    return None if record.task["skipped"] and not options.skip_broken else options.results_dir / path


def _repeated(hashes: Sequence[str] | None, table: pd.DataFrame, side: str) -> int:
    """Clips whose content stands on another side of a split as well."""
    if hashes is None or table["start"].notna().any():  # clips cut from one file share its content rightly
        return 0
    where: dict[str, set[str]] = {}
    for content, name in zip(hashes, table[side], strict=True):
        where.setdefault(content, set()).add(name)
    return sum(len(where[content]) > 1 for content in hashes)
