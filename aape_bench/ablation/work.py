"""The pieces of an ablation that a process does on its own: timing a variant, and training and evaluating one.

Everything in them pickles: plugins and tasks go by name. `training/<model>/<variant>-<seed>-<identity>/` holds one
training, shared by all ablations of a results folder; its `trained.json`, written last, marks it as finished.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from aape_bench import environment, planning, registry, runner, selection
from aape_bench.choices import ModelChoice
from aape_bench.errors import BenchError, ModelError, StorageError, UsageError
from aape_bench.executor import Needs
from aape_bench.identity import digest, file_digest
from aape_bench.progress import Progress
from aape_bench.storage import safe_name, write_json
from aape_bench.training import Run, Setup, Trained, Training, Variant

TRAINED = "trained.json"
#: Of the stability's shifts, in ms.
SHIFTS = tuple(range(20, 161, 20))


@dataclass(frozen=True)
class Timing:
    """A variant to be timed."""

    model: str
    setup: Setup
    device: str

    @property
    def needs(self) -> Needs:
        """As of a whole training."""
        return _needs(self.device)


@dataclass(frozen=True)
class Unit:
    """A variant to be trained with one seed and evaluated.

    tasks: as --task takes them; None: the development tasks. stability: of them, what to measure it on. trainings: the
    folder of all trainings. options: whose results_dir gets the records.
    """

    model: str
    variant: Variant
    setup: Setup
    seed: int
    tasks: tuple[str, ...] | None
    protocols: tuple[str, ...]
    stability: str | None
    trainings: Path
    options: planning.Options

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.variant.name}, seed {self.seed}"

    @property
    def needs(self) -> Needs:
        """Of its training, its longest part."""
        return _needs(self.options.device)


def _needs(device: str) -> Needs:
    """Room for an encoder, its gradients, two moments of these and activations."""
    return Needs(gpus=int(device == "cuda"), memory=4 << 30)


@dataclass(frozen=True)
class Outcome:
    """What a unit led to. new: whether it had to be trained. failures: of evaluations, where training went well."""

    run: Run
    new: bool
    records: list[Path]
    stability: Path | None
    failures: list[str]


def training_of(model: str) -> Training:
    """How a model is trained. Raises UsageError where it has no training."""
    plugin = registry.model(model)
    if plugin.training is None:
        trained = [one.name for one in registry.every_model()[0] if one.training is not None]
        raise UsageError(
            f'The model "{model}" offers no training to ablate. '
            + (f"Those that do: {', '.join(trained)}." if trained else "No installed model does.")
        )
    return plugin.training()


def time_variant(timing: Timing, progress: Progress) -> float:
    """Seconds per step."""
    return training_of(timing.model).seconds_per_step(timing.setup, timing.device, progress)


def out_of(unit: Unit, training: Training) -> Path:
    """The folder of a unit's training."""
    identity = digest([training.identity(unit.setup, unit.seed), unit.options.device])[:12]
    return unit.trainings / safe_name(unit.model) / f"{safe_name(unit.variant.name)}-{unit.seed}-{identity}"


def finished(out: Path) -> Trained | None:
    """The training of a folder, None where it is not finished.

    Raises StorageError where its checkpoint is not the one that was written.
    """
    file = out / TRAINED
    if not file.is_file():
        return None
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        checkpoint = out / facts["checkpoint"]
        if file_digest(checkpoint) != facts["sha256"]:
            raise ValueError(f"{checkpoint.name} is not the checkpoint that was written")
        about = {name: facts[name] for name in ("seconds", "steps", "parameters", "flops_per_step")}
        return Trained(checkpoint, **about)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"The training in {out} is damaged ({type(error).__name__}: {error}). Move the folder away and run the "
            "same command again."
        ) from None


def train_and_evaluate(unit: Unit, progress: Progress) -> Outcome:
    """Train, unless that is done, and compute the results that are missing."""
    training = training_of(unit.model)
    out = out_of(unit, training)
    before = finished(out)
    trained = before or _train(unit, training, out, progress)
    run = Run(unit.variant, unit.seed, unit.setup, out, trained)
    choice = selection.select_model(unit.model, {}, str(trained.checkpoint), unit.seed)
    tasks = training.development_tasks() if unit.tasks is None else selection.select_tasks(unit.tasks)
    protocols = planning.choose_protocols(unit.protocols, {})
    jobs, failures = planning.plan([choice], tasks, protocols, unit.options)
    done = runner.run(jobs, unit.options, progress)
    failures += done.failures
    measured = None
    if unit.stability is not None:
        try:
            measured = _stability(unit.stability, choice, unit.options, progress)
        except StorageError:
            raise
        except BenchError as error:
            failures.append(error)
    return Outcome(run, before is None, done.paths, measured, [f"{unit.name}: {error}" for error in failures])


def _train(unit: Unit, training: Training, out: Path, progress: Progress) -> Trained:
    import torch

    again = "goes on" if out.is_dir() and any(out.iterdir()) else "begins"
    progress.say(f"training {again}, {unit.setup.steps} steps.")
    trained = training.train(unit.setup, unit.seed, out, unit.options.device, progress)
    if not trained.checkpoint.is_relative_to(out):
        raise ModelError(f'The training of "{unit.model}" left its checkpoint outside of its folder {out}.')
    facts = {
        **asdict(trained),
        "checkpoint": trained.checkpoint.relative_to(out).as_posix(),
        "sha256": file_digest(trained.checkpoint),
        "variant": unit.variant.name,
        "seed": unit.seed,
        "device": unit.options.device,
        "threads": torch.get_num_threads(),
        "versions": environment.versions(),
    }
    write_json(out / TRAINED, facts)
    progress.say(f"trained in {trained.seconds:.0f} s.")
    return trained


def _stability(text: str, choice: ModelChoice, options: planning.Options, progress: Progress) -> Path:
    from aape_bench.stability import Settings
    from aape_bench.stability.experiment import ensure
    from aape_bench.stability.results import result_paths
    from aape_bench.task_data import load_task

    # half the clips and shifts of the defaults: the unit of comparison is the training, and this is to take less time
    settings = Settings(clips=100, train_clips=600, shifts=SHIFTS)
    (task,) = selection.select_tasks([text])
    data = load_task(task, options.data_dir, options.cache_dir, options.allow_partial)
    result, _ = ensure(choice, data, settings, options, progress)
    return options.results_dir / result_paths(task.name, choice.label, result.key)[0]
