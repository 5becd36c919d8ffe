"""One stability result: what is asked for, and whether it is there already; `measurement` makes what is not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aape_bench.audio import TREATMENT
from aape_bench.errors import UsageError
from aape_bench.identity import digest, source_digest
from aape_bench.progress import Progress, Silent
from aape_bench.protocols import code_digest
from aape_bench.settings import deciding
from aape_bench.stability import results
from aape_bench.stability.perturbations import LEAST_WINDOW_MS, Perturbation
from aape_bench.stability.results import StabilityResult
from aape_bench.storage import check_writable

if TYPE_CHECKING:
    from aape_bench.choices import ModelChoice
    from aape_bench.planning import Options
    from aape_bench.task_data import TaskData

SHIFTS = tuple(range(10, 161, 10))

# what decides the embeddings of windows, and what the figures made of them
_EMBEDDING_CODE = ("stability.perturbations", "stability.embedding", "audio", "containers", "clips", "randomness")
_FIGURES_CODE = (
    "stability.experiment", "stability.measurement", "stability.probe", "stability.curves", "stability.statistics",
    "stability.response", "features", "problem",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What is measured.

    clips:       test clips, a seeded, stratified part of all; each is encoded in every version.
    train_clips: training and validation clips that the probe gets, likewise.
    shifts: ms. stretches: percent of the duration. jitters: largest displacement, ms, multiples of 10.
    """

    clips: int = 200
    train_clips: int = 2000
    shifts: tuple[float, ...] = SHIFTS
    stretches: tuple[float, ...] = (-5, -2, 2, 5)
    jitters: tuple[float, ...] = (10, 20)

    def __post_init__(self) -> None:
        if self.clips < 2 or self.train_clips < 2:
            raise UsageError("stability: at least 2 test clips and 2 training clips are needed.")
        if not self.perturbations:
            raise UsageError("stability: no perturbation is asked for.")
        if not all(0 < shift < LEAST_WINDOW_MS for shift in self.shifts):
            raise UsageError(f"stability: shifts must lie above 0 and below {LEAST_WINDOW_MS} ms, the shortest window.")
        if not all(0 < abs(percent) <= 20 for percent in self.stretches):
            raise UsageError("stability: stretches must lie within 20 percent, and 0 is none.")
        if not all(0 < most <= 100 and most % 10 == 0 for most in self.jitters):
            raise UsageError("stability: jitters must be multiples of 10 ms up to 100 ms.")
        if len(set(self.perturbations)) < len(self.perturbations):
            raise UsageError("stability: a perturbation is asked for twice.")

    @property
    def perturbations(self) -> list[Perturbation]:
        """Every one asked for, in the order of the results."""
        return [
            *(Perturbation("shift", float(ms)) for ms in sorted(self.shifts)),
            *(Perturbation("stretch", float(percent)) for percent in sorted(self.stretches)),
            *(Perturbation("jitter", float(ms)) for ms in sorted(self.jitters)),
        ]


def stability(
    model: ModelChoice, data: TaskData, settings: Settings, options: Options, progress: Progress | None = None
) -> StabilityResult:
    """The stability of one model on one task, computed where it is not there yet, and written.

    data: as `task_data.load_task` gives it. The seed is the model's. The probe and its flips are for multiclass tasks
    only; others get distances. Embeddings go into the cache part by part: an interrupted run goes on from there.
    Raises DataError where fewer than two clips are long enough, StorageError, ModelError.
    """
    return ensure(model, data, settings, options, progress or Silent())[0]


def ensure(
    model: ModelChoice, data: TaskData, settings: Settings, options: Options, progress: Progress
) -> tuple[StabilityResult, bool]:
    """As `stability`, and whether it had to be computed."""
    from aape_bench.stability.measurement import Measurement

    if unread := data.unread():
        with progress.stage(f"{data.task.name}: reading", unread, "files") as advance:
            data.hashes(advance)
    prints = data.fingerprints()
    key = _key(model, prints.data, settings, options)
    done = results.existing_result(options.results_dir, data.task.name, model.label, key)
    if done is not None:
        return done, False
    check_writable(options.results_dir, "--results-dir")
    check_writable(options.cache_dir, "--cache-dir")
    measurement = Measurement(model, data, prints, settings, options, progress, _code(_EMBEDDING_CODE))
    result, clips = measurement.result(key)
    results.write_result(options.results_dir, result, clips)
    return result, True


def _key(model: ModelChoice, fingerprint: str, settings: Settings, options: Options) -> str:
    about = {
        "schema": results.SCHEMA,
        "encoder": model.identity,
        "data": fingerprint,
        "settings": deciding(settings),
        "seed": model.seed,
        "device": options.device,
        "skip_broken": options.skip_broken,
        "treatment": TREATMENT,
        "code": _code((*_EMBEDDING_CODE, *_FIGURES_CODE)),
        "probe": code_digest("linear"),
    }
    return digest(about)[:16]


def _code(modules: Iterable[str]) -> str:
    return source_digest(f"aape_bench.{name}" for name in modules)
