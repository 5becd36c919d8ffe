"""What a run is to do: models x tasks x protocols -> jobs, each with what it takes.

Planning reads metadata and stats files, nothing else: it imports neither torch nor scikit-learn (unless a HEAR
module has to be loaded), so a run with nothing left to do ends at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from aape_bench import metrics
from aape_bench.addresses import entry_of, recorded
from aape_bench.choices import ModelChoice
from aape_bench.errors import BenchError, UsageError, raise_all
from aape_bench.protocols import Input, code_digest, input_of, protocol, settings_of_task, trains_encoder
from aape_bench.selection import select_model
from aape_bench.settings import deciding, label_of, make_config
from aape_bench.task import Task
from aape_bench.task_data import TaskData, load_task

if TYPE_CHECKING:
    from aape_bench.contents import Fingerprints
    from aape_bench.progress import Progress

Action = Literal["done", "fit", "embed", "train", "read files"]


@dataclass(frozen=True)
class Options:
    """How to run. device: "cpu" or "cuda".

    batch_size: clips given to the encoder at once; None: chosen, and halved where a device's memory does not do.
    precision: of frozen encoders, one of `aape_bench.environment.PRECISIONS`.

    references: run the encoders whose rows belong into a task's every table, too. notes: say of each result what its
    record also says to a reader: overlap, repeated clips, remarks.
    """

    data_dir: Path
    cache_dir: Path
    results_dir: Path
    allow_partial: bool = False
    skip_broken: bool = False
    device: str = "cpu"
    batch_size: int | None = None
    precision: str = "float32"
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
            order.setdefault((model.identity, model.seed), len(order))
            for chosen in (one.of_task(data.task) for one in protocols):
                if model in others and chosen.trains_encoder:
                    continue  # they say what random weights reach as they are
                shown = model if chosen.trains_encoder else model.at_precision(options.precision)
                jobs.append(Job(shown, data, chosen, _action(shown, data, chosen, prints, options)))
    # one model after the other: a plugin's weights are in memory for its own jobs only
    return sorted(jobs, key=lambda job: order[job.model.identity, job.model.seed]), failures


def references(task: Task, models: Sequence[ModelChoice]) -> list[ModelChoice]:
    """The encoders whose rows belong into every table of the task, for every seed; those not named already."""
    named = {(model.label, model.seed) for model in models}
    seeds = dict.fromkeys(model.seed for model in models)
    chosen = [select_model(name, {}, "default", seed) for name in task.references for seed in seeds]
    return [model for model in chosen if (model.label, model.seed) not in named]


def _action(
    model: ModelChoice, data: TaskData, chosen: ProtocolChoice, prints: Fingerprints | None, options: Options
) -> Action:
    if prints is None:
        return "read files"
    if recorded(model, data, chosen, prints, options) is not None:
        return "done"
    if chosen.trains_encoder:
        return "train"
    return "embed" if entry_of(model, data, chosen, prints, options).summary() is None else "fit"


def existing(job: Job, options: Options, progress: Progress) -> Path | None:
    """The record of the job's result where it is there; files that are not known yet are read for that."""
    data = job.data
    if unread := data.unread():
        with progress.stage(f"{data.task.name}: reading", unread, "files") as advance:
            data.hashes(advance)
    return recorded(job.model, data, job.protocol, data.fingerprints(), options)
