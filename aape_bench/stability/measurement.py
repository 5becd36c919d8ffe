"""One measurement: which clips, their embeddings, the probe, the stem's response, and what is said of them.

(Imports torch.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from aape_bench import clip_table, environment
from aape_bench.clip_table import Rotation, partial, side_column
from aape_bench.clips import ClipReader
from aape_bench.errors import DataError
from aape_bench.identity import digest
from aape_bench.progress import Progress
from aape_bench.randomness import numpy_stream
from aape_bench.resampling import INTERVAL_METHOD
from aape_bench.stability import results
from aape_bench.stability.curves import curves_of
from aape_bench.stability.embedding import (
    PART_CLIPS,
    Clips,
    Part,
    Parts,
    WindowEncoder,
    joined,
    perturbed_part,
    training_part,
)
from aape_bench.stability.perturbations import LEAST_WINDOW_MS, UNPERTURBED, window_of
from aape_bench.stability.probe import Probed, predict
from aape_bench.stability.response import FREQUENCIES, patch_response
from aape_bench.stability.results import ClipValues, StabilityResult
from aape_bench.stability.statistics import stratified

if TYPE_CHECKING:
    from aape_bench.choices import ModelChoice
    from aape_bench.contents import Fingerprints
    from aape_bench.planning import Options
    from aape_bench.stability.experiment import Settings
    from aape_bench.task_data import TaskData


class Measurement:
    """What the steps of one measurement share.

    code: digest of the code that decides the embeddings of windows.
    """

    def __init__(
        self,
        model: ModelChoice,
        data: TaskData,
        prints: Fingerprints,
        settings: Settings,
        options: Options,
        progress: Progress,
        code: str,
    ) -> None:
        self.model, self.data, self.settings, self.options, self.code = model, data, settings, options, code
        self.prints, self.progress, self.table = prints, progress, data.table
        self.name = f"{model.label} on {data.task.name}"
        self.rotations: Sequence[Rotation] = clip_table.rotations(data.task, data.table)
        self.probed = data.task.kind == "multiclass"
        encoder = model.build().to(options.device)
        self.encoder = WindowEncoder(encoder, options.device, options.batch_size or 32)
        full_length = False  # windows are cut here
        reader = ClipReader(data.task, data.root, data.table, data.stats, model.sample_rate, full_length)
        self.clips = Clips(
            reader, list(self.table["id"]), list(self.table["group"]), settings.perturbations, options.skip_broken,
            model.seed,
        )  # fmt: skip

    def result(self, key: str) -> tuple[StabilityResult, ClipValues]:
        """What was measured, and its values of each clip; key: of the result. Errors: as `experiment.stability`."""
        environment.reset_peak_memory()
        started = time.perf_counter()
        every_test = np.concatenate([rotation.test for rotation in self.rotations])
        chosen = self._choose(every_test, self.settings.clips, "test clips")
        # shuffled, so that the clips of a part, which are compared with each other, are any clips
        order = numpy_stream(self.model.seed, "stability", "order", self.data.task.name).permutation(chosen)
        versions = 1 + len(self.settings.perturbations)
        parts = self._parts("test", order, perturbed_part, f"{versions} versions of test clips")
        tested = joined(parts, "rows")
        if len(tested) < 2:
            raise DataError(
                f"{self.data.task.name}: of {len(chosen)} test clips {len(tested)} are long enough and readable to be "
                f"perturbed (windows of {LEAST_WINDOW_MS} ms besides shifts and stretches). Ask for smaller shifts, or "
                "use a task of longer clips."
            )
        remarks = self._left_out_remarks(parts, "test")
        trained, every_train = 0, 0
        probed: Probed | None = None
        if self.probed:
            pool = np.unique(np.concatenate([np.concatenate([r.train, r.validation]) for r in self.rotations]))
            every_train = len(pool)
            some = self._choose(pool, self.settings.train_clips, "training clips")
            training = self._parts("training", some, training_part, "training clips")
            trained = len(joined(training, "rows"))
            remarks += self._left_out_remarks(training, "training")
            probed = self._predict(training, parts)
            remarks += probed.remarks
        seconds = time.perf_counter() - started
        curves, values = curves_of(
            self.data, self.rotations, self.model.seed, parts, None if probed is None else probed.predicted
        )
        response = None
        if hasattr(self.encoder.encoder, "patch_tokens"):
            with self.progress.stage(f"{self.name}: response of the stem", len(FREQUENCIES), "frequencies") as advance:
                response = patch_response(self.encoder.encoder, self.options.device, self.model.seed, advance)
        else:
            remarks.append("The encoder offers no patch_tokens, so there is no response of its stem.")
        result = StabilityResult(
            schema=results.SCHEMA,
            key=key,
            date=datetime.now(UTC).isoformat(timespec="microseconds"),
            seed=self.model.seed,
            model={
                "label": self.model.label,
                "identity": self.model.identity,
                "settings": self.model.settings,
                "weights": self.model.weights,
                "checkpoint": self.model.checkpoint,
                "dimension": self.encoder.encoder.scene_embedding_size,
            },
            task=self._task(),
            settings={name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.settings).items()},
            window=self._window(),
            clips={
                "tested": len(tested),
                "test_clips": len(every_test),
                "trained": trained,
                "training_clips": every_train,
                "groups": int(self.table["group"].iloc[tested].nunique()) or None,
                "left_out": self._left_out(parts),
            },
            versions=[UNPERTURBED, *self.settings.perturbations],
            curves=curves,
            response=response,
            probe=[] if probed is None else probed.choices,
            remarks=remarks,
            stages={"seconds": round(seconds, 3), **environment.stage_facts(threads=torch.get_num_threads())},
        )
        return result, values

    def _choose(self, rows: npt.NDArray[np.int64], count: int, what: str) -> npt.NDArray[np.int64]:
        """A seeded part of some rows, stratified by side of the split and, where there is one, class."""
        rows = np.sort(rows)
        sides = self.table[side_column(self.data.task)].astype(str).to_numpy()[rows]
        labels = self.table["label"].to_numpy()[rows] if self.probed else np.full(len(rows), "")
        draw = numpy_stream(self.model.seed, "stability", what, self.data.task.name)
        return rows[stratified(list(zip(sides, labels, strict=True)), count, draw)]

    def _parts(
        self,
        role: str,
        rows: npt.NDArray[np.int64],
        make: Callable[[WindowEncoder, Clips, Sequence[int]], Part],
        title: str,
    ) -> list[Part]:
        about = {
            "encoder": self.model.identity,
            "audio": self.prints.audio,
            "rows": rows.tolist(),
            "role": role,
            "perturbations": [str(how) for how in self.settings.perturbations],
            "groups": [str(group) for group in self.table["group"].iloc[rows]],
            "options": [self.options.device, self.options.batch_size, self.options.skip_broken, self.model.seed],
            "code": self.code,
        }
        stored = Parts(self.options.cache_dir / "stability" / digest(about)[:32])
        found = []
        with self.progress.stage(f"{self.name}: {title}", len(rows), "clips") as advance:
            for number, at in enumerate(range(0, len(rows), PART_CLIPS)):
                some = [int(row) for row in rows[at : at + PART_CLIPS]]
                found.append(stored.get(number, lambda some=some: make(self.encoder, self.clips, some)))  # type: ignore[misc]
                advance(len(some))
        return found

    def _predict(self, training: list[Part], parts: list[Part]) -> Probed:
        with self.progress.stage(f"{self.name}: probe", len(self.rotations), "folds") as advance:
            return predict(
                self.data,
                self.rotations,
                (joined(training, "rows"), joined(training, "scenes")),
                (joined(parts, "rows"), joined(parts, "scenes")),
                advance,
            )

    def _task(self) -> dict[str, Any]:
        task = self.data.task
        return {
            "name": task.name,
            "kind": task.kind,
            "fingerprint": self.prints.data,
            "clips": len(self.table),
            "expected": task.clips,
            "partial": partial(task, self.table),
            "interval": INTERVAL_METHOD,
        }

    def _window(self) -> dict[str, Any]:
        """How the windows of clips of the task's full length lie, and the rule for others."""
        rate, seconds = self.model.sample_rate, self.data.task.clip_seconds
        window = None if seconds is None else window_of(round(seconds * rate), rate, self.settings.perturbations)
        whole = (
            {}
            if window is None or seconds is None
            else {
                "clip_seconds": seconds,
                "lead_seconds": window.start / rate,
                "window_seconds": window.length / rate,
                "margin_seconds": seconds - window.length / rate,
            }
        )
        rule = "the longest window of each clip that leaves room for every perturbation at both ends"
        return {"rule": rule, "least_ms": LEAST_WINDOW_MS, **whole}

    def _left_out(self, parts: list[Part]) -> list[dict[str, str]]:
        found = zip(joined(parts, "left_out"), joined(parts, "reasons"), strict=True)
        return [{"clip": str(self.table["id"][row]), "reason": str(reason)} for row, reason in found]

    def _left_out_remarks(self, parts: list[Part], role: str) -> list[str]:
        out, used = len(joined(parts, "left_out")), len(joined(parts, "rows"))
        return [f"{out} of {out + used} {role} clips were left out: too short, or broken."] if out else []
