"""How long fine-tuning takes, from timing a few updates, and a budget of minutes as a number of updates."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aape_bench import environment
from aape_bench.finetune.job import Work, material_of, problem_of
from aape_bench.finetune.recipe import Recipe
from aape_bench.progress import Progress
from aape_bench.storage import write_text

if TYPE_CHECKING:
    from aape_bench.finetune.learner import Learner, Material

#: Updates that are timed after a first one, and seconds after which no more are begun.
TIMED = 20
PATIENCE = 60.0
#: What a budget came to, in the folder of the unfinished result.
SETTLED = "budget.json"
#: The most updates of a budget; also those of a schedule that is timed.
_MANY = 1_000_000


@dataclass(frozen=True)
class Timing:
    """Seconds of an update, and what they are spent on; medians.

    timed: updates. seconds: of a whole one. waiting: for audio. hearing: front end and augmentation. scoring: of a
    clip, without gradient. peak_memory_mb: on a GPU what its allocator gave, else the process's resident memory.
    """

    timed: int
    seconds: float
    waiting: float
    hearing: float
    scoring: float
    peak_memory_mb: float | None

    @property
    def outside(self) -> float:
        """Share of the time that is not spent in the model: forward, backward, optimiser."""
        return min(1.0, (self.waiting + self.hearing) / self.seconds)


@dataclass(frozen=True)
class Forecast:
    """What a fine-tuning would be. recipe: planned for the first fold, whose clips are counted; folds: how many.

    on_test: whether the test clips choose the best update.
    """

    recipe: Recipe
    timing: Timing
    train: int
    validation: int
    test: int
    folds: int
    on_test: bool = False

    @property
    def fold_seconds(self) -> float:
        """Of one fold, its validations and its test included."""
        recipe, timing = self.recipe, self.timing
        assert recipe.updates is not None
        assert recipe.validate_every is not None
        validations = math.ceil(recipe.updates / recipe.validate_every) + 1
        return recipe.updates * timing.seconds + (validations * self.validation + self.test) * timing.scoring


def forecast(work: Work, progress: Progress) -> Forecast:
    """Time updates of the first fold on this process; nothing is written. Raises as training does."""
    from aape_bench.finetune.learner import chosen_on_test

    material = _material(work)
    timing = _time(material, progress)
    recipe, rotation = material.recipe, material.rotation
    if work.recipe.budget is not None:
        recipe = recipe.settled(_updates_within(work.recipe.budget, timing, material))
    return Forecast(
        recipe=recipe.planned(len(rotation.train)),
        timing=timing,
        train=len(rotation.train),
        validation=len(rotation.validation),
        test=len(rotation.test),
        folds=len(work.rotations),
        on_test=chosen_on_test(rotation),
    )


def settle(work: Work, progress: Progress, threads: int | None = None) -> Work:
    """The same with its budget, where it has one, as updates: those on disk, else timed and written there.

    threads: of numerical libraries while timing; None: all.
    """
    budget = work.recipe.budget
    if budget is None:
        return work
    path = work.folder / SETTLED
    if (updates := _settled(path)) is None:
        shutil.rmtree(work.folder, ignore_errors=True)  # folds of another length would not belong to these
        material = _material(work)
        with nullcontext() if threads is None else _threads(threads):
            timing = _time(material, progress)
        updates = _updates_within(budget, timing, material)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"minutes": budget, "updates": updates, "seconds": timing.seconds}) + "\n")
        progress.say(f"{work.name}: {budget:g} minutes a fold are {updates} updates of {timing.seconds:.3g} s.")
    return replace(work, recipe=work.recipe.settled(updates))


def _settled(path: Path) -> int | None:
    """None where there is nothing, or nothing of use."""
    try:
        updates = json.loads(path.read_text())["updates"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return updates if type(updates) is int and 1 <= updates <= _MANY else None


def _material(work: Work) -> Material:
    recipe = work.recipe
    if recipe.budget is not None:
        recipe = recipe.settled(_MANY)
    problem = problem_of(work)
    _, material = material_of(replace(work, recipe=recipe), problem, problem.rotations[0], work.folder)
    return material


def _updates_within(minutes: float, timing: Timing, material: Material) -> int:
    """At least one."""
    rotation = material.rotation
    every = material.recipe.planned(len(rotation.train)).validate_every
    assert every is not None
    left = 60 * minutes - (len(rotation.validation) + len(rotation.test)) * timing.scoring
    return min(_MANY, max(1, math.floor(left / (timing.seconds + len(rotation.validation) * timing.scoring / every))))


def _time(material: Material, progress: Progress) -> Timing:
    import torch

    from aape_bench.finetune.learner import Learner

    cuda = material.device == "cuda"
    environment.reset_peak_memory()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    learner = Learner(material)
    most = min(TIMED + 1, learner.updates)
    with progress.stage(f"{material.name}: timing", most, "updates") as advance:
        found = _timed_updates(learner, most, torch.cuda.synchronize if cuda else lambda: None, advance)
    rows = material.rotation.validation[: learner.recipe.batch]
    started = time.perf_counter()
    learner.scores(rows)
    scoring = (time.perf_counter() - started) / len(rows)
    peak = environment.stage_facts(threads=1)["peak_memory_mb"]
    if cuda:
        peak = torch.cuda.max_memory_allocated() / 2**20
    waiting, hearing, seconds = (statistics.median(one) for one in zip(*found, strict=True))
    return Timing(len(found), seconds, waiting, hearing, scoring, None if peak is None else float(str(peak)))


def _timed_updates(
    learner: Learner, most: int, finish: Callable[[], None], advance: Callable[[int], None]
) -> list[tuple[float, float, float]]:
    """Seconds of waiting, hearing and all, of every update but the first, which meets cold caches."""
    found = []
    begun = time.perf_counter()
    with closing(learner.batches(0)) as batches:
        for number in range(most):
            times = [time.perf_counter()]
            batch = next(batches)
            times.append(time.perf_counter())
            heard = learner.hear(number, batch)
            finish()
            times.append(time.perf_counter())
            learner.learn(number, heard)
            finish()
            times.append(time.perf_counter())
            found.append((times[1] - times[0], times[2] - times[1], times[3] - times[0]))
            advance(1)
            if times[-1] - begun > PATIENCE:
                break
    return found[1:] or found


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Within the block torch computes with so many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def facts(found: Forecast) -> dict[str, str]:
    """What people want to know before they start, by heading."""
    recipe, timing = found.recipe, found.timing
    shown = {name: f"{getattr(recipe, name):g}" for name in ("learning_rate", "final_rate", "layer_decay", "drop_path")}
    updates = recipe.updates or 0
    rising = round(recipe.warmup * (updates - recipe.probe_updates))
    rates = f"{shown['learning_rate']} after {rising} updates of warm-up, then half a cosine to {shown['final_rate']}"
    schedule = [
        f"AdamW, {rates}",
        f"layer decay {shown['layer_decay']}, weight decay {recipe.weight_decay:g}, {recipe.precision}",
    ]
    if recipe.probe_updates:
        schedule.insert(0, f"the head alone for {recipe.probe_updates} updates at {recipe.probe_rate:g}")
    if recipe.freeze:
        schedule.append(f"the first {recipe.freeze} layer groups and the stem stay as they are")
    noise = f"noise up to {recipe.noise:g} of the clip's level"
    mixup = f"mixup {recipe.mixup:g} with probability {recipe.mixup_probability:g}"
    bands = f"SpecAugment {_band(recipe.spec_time, 'frames')}, {_band(recipe.spec_frequency, 'bins')}"
    augmentations = {
        "roll": recipe.roll,
        "magnitude": recipe.magnitude,
        noise: recipe.noise,
        mixup: recipe.mixup,
        bands: recipe.spec_time or recipe.spec_frequency,
        f"drop path {shown['drop_path']}": recipe.drop_path,
        f"label smoothing {recipe.smoothing:g}": recipe.smoothing,
        "balanced classes": recipe.balanced,
    }
    chosen_on = "the test clips, as published" if found.on_test else f"{found.validation} clips"
    folds = f"{found.folds} fold{'' if found.folds == 1 else 's'} of {updates} updates of {recipe.batch} clips"
    return {
        "training": f"{folds}, recipe {recipe.preset}; {found.train} training and {found.test} test clips in the first",
        "schedule": "; ".join(schedule),
        "augmentation": ", ".join(name for name, there in augmentations.items() if there),
        "loss": f"{recipe.loss}, on the embedding {recipe.pooling or 'as it is'}",
        "validation": f"every {recipe.validate_every} updates on {chosen_on}",
        "an update": f"{timing.seconds:.3g} s ({timing.timed} timed), of which outside the model {timing.outside:.1%}: "
        f"waiting for audio {timing.waiting / timing.seconds:.1%}, front end and augmentation "
        f"{timing.hearing / timing.seconds:.1%}",
        "peak memory": "" if timing.peak_memory_mb is None else f"{timing.peak_memory_mb:.0f} MB",
    }


def _band(width: float, of: str) -> str:
    return f"{width:g} of the {of}" if width <= 1 else f"up to {width:g} {of}"
