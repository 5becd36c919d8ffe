"""What fine-tuning does, as values: a recipe, its presets and its learning rate. (Imports no torch.)

Sources: EAT (Chen et al., arXiv 2401.03497, and the configuration files of github.com/cwx-worst-one/EAT); for the
preset `vc1` M2D (Niizumi et al., github.com/nttcslab/m2d, util/ft-vc1.sh). Every field says whose choice it is:

    (E)  as EAT
    (O)  our own choice, the sources being silent or different
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from aape_bench.errors import UsageError
from aape_bench.settings import EXECUTION

Preset = Literal["as20k", "esc50", "spcv2", "vc1", "nsynth", "other"]

#: Default of a field that the preset fills in: None until `resolved()`, of the annotated type after it.
FROM_PRESET: Any = None

_COMMON: dict[str, Any] = {
    **{"learning_rate": 5e-5, "batch": 48, "layer_decay": 0.65, "clip_seconds": 0.0, "balanced": False},
    **{"mixup": 0.0, "spec_time": 0.2, "spec_frequency": 0.2, "noise": 0.0, "loss": "auto", "smoothing": 0.0},
}

#: Fields that say how long to train, of which one is given.
LENGTHS = ("updates", "epochs", "budget")

#: What differs from `_COMMON`, and how long to train.
_PRESETS: dict[str, dict[str, Any]] = {
    "as20k": {"updates": 40000, "mixup": 0.8, "clip_seconds": 10.24, "balanced": True},
    "esc50": {"updates": 4000, "spec_time": 0.4, "spec_frequency": 0.4, "clip_seconds": 5.12, "smoothing": 0.1},
    "spcv2": {
        **{"updates": 40000, "learning_rate": 2e-4, "batch": 256, "mixup": 0.8, "clip_seconds": 1.28},
        **{"noise": 0.1, "loss": "bce", "smoothing": 0.1},
    },
    "vc1": {
        **{"epochs": 50, "learning_rate": 5e-4, "batch": 64, "layer_decay": 1.0, "clip_seconds": 8.32},
        # M2D hides up to 30 of its 80 mel bins; frames are 10 ms there as here
        **{"spec_time": 48.0, "spec_frequency": 0.375},
    },
    "nsynth": {"updates": 20000, "batch": 128, "clip_seconds": 4.0},
    "other": {"updates": 4000},
}

#: Lowest and highest value of every number.
_LIMITS: dict[str, tuple[float, float]] = {
    "updates": (1, 1e8),
    "epochs": (1, 1e6),
    "budget": (0.001, 1e6),
    "batch": (1, 65536),
    "accumulate": (1, 65536),
    "learning_rate": (1e-9, 10),
    "final_rate": (0, 10),
    "warmup": (0, 0.99),
    "beta1": (0, 0.99999),
    "beta2": (0, 0.9999999),
    "weight_decay": (0, 10),
    "layer_decay": (0.001, 1),
    "drop_path": (0, 0.9),
    "freeze": (0, 10000),
    "probe_updates": (0, 1e8),
    "probe_rate": (1e-9, 10),
    "clip_seconds": (0, 600),
    "noise": (0, 10),
    "mixup": (0, 100),
    "mixup_probability": (0, 1),
    "spec_time": (0, 60000),
    "spec_frequency": (0, 10000),
    "smoothing": (0, 0.99),
    "validate_every": (1, 1e8),
    "patience": (1, 1e6),
    "validation_share": (0.01, 0.5),
}


@dataclass(frozen=True)
class Recipe:
    """How an encoder is fine-tuned: length, optimiser, what is trained, augmentation, loss, validation, running.

    preset:         as20k, esc50, spcv2 (E), vc1 (as M2D), nsynth (O), or other (O): us8k, gtzan, cremad and any other
                    task; none: the one that the task names. Fills in every field whose default is None, and updates
                    or epochs unless one of the next three is given.
    updates, epochs: steps of the optimiser, or passes over the training clips.
    budget:         (O) minutes that a fold may take, turned into updates by timing some; once: what a run begins with
                    it keeps when it goes on.
    batch:          clips of an update, over all ranks and accumulated parts.
    accumulate:     (O) parts that a rank computes its clips of an update in.
    learning_rate:  peak, of the head and whatever no layer decay applies to.
    final_rate:     (E) the rate of the last update, at the end of half a cosine.
    warmup:         (E) share of the updates in which the rate rises linearly.
    beta1, beta2, weight_decay: (E) of AdamW; no decay on vectors.
    layer_decay:    (E) each block's rate over the next one's, the head after the last; 1: none, as M2D for vc1.
    stem_decay:     (O) whether the stem counts as one more layer before the first; otherwise it has the full rate.
    drop_path:      (E) probability that a clip's branches are left out in the last block, rising linearly from 0 in
                    the first.
    pooling:        (E: cls) the scene embedding asked of an encoder that has the setting `pooling`; none: its own.
    freeze:         (O) layer groups that stay as they are, from the input side, and with them the stem; 0: nothing.
    probe_updates:  (O) of the updates, how many come first and train the head alone, at the constant `probe_rate`
                    (linear probing, then fine-tuning: Kumar et al., ICLR 2022).
    probe_rate:     (O) see probe_updates.
    clip_seconds:   longest training clip; 0: as long as the task's.
    balanced:       draw clips so that every class is as frequent; (O) for as20k: EAT does so for AudioSet-2M alone.
    roll:           (E) shift the waveform circularly.
    magnitude:      (E) scale the waveform.
    noise:          (O) largest level of added white noise, its RMS over the clip's; EAT adds noise for spcv2.
    mixup:          (E) strength: alpha of the Beta(alpha, alpha) that the shares of two clips are drawn from; 0: none.
    mixup_probability: (E) that a clip is mixed at all.
    spec_time, spec_frequency: (E) largest width of SpecAugment's band: up to 1 a share of the clip's frames, of the
                    bins; above 1 a number of them.
    loss:           "ce" cross-entropy, "bce" binary cross-entropy per class, "auto" the one that fits the labels.
    smoothing:      (E) of labels.
    validate_every: (O) updates between two validations; none: an epoch's.
    patience:       (O) validations without a better score after which training ends; none: it never ends early.
    validation_share: (O) of the training clips, where a task has no validation part.
    as_published:   choose the best validation on the test part, as EAT, SSLAM and M2D did; the record says so.
    precision:      (O) of the forward pass; weights and loss stay in float32. EAT has 16-mixed.
    keep_weights:   keep the fine-tuned encoder.
    """

    preset: Preset | None = None
    updates: int | None = None
    epochs: int | None = None
    budget: float | None = None
    batch: int = FROM_PRESET
    accumulate: int = 1
    learning_rate: float = FROM_PRESET
    final_rate: float = 1e-6
    warmup: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.05
    layer_decay: float = FROM_PRESET
    stem_decay: bool = False
    drop_path: float = 0.1
    pooling: Literal["cls", "mean", "cls+mean"] | None = "cls"
    freeze: int = 0
    probe_updates: int = 0
    probe_rate: float = 1e-3
    clip_seconds: float = FROM_PRESET
    balanced: bool = FROM_PRESET
    roll: bool = True
    magnitude: bool = True
    noise: float = FROM_PRESET
    mixup: float = FROM_PRESET
    mixup_probability: float = 0.9
    spec_time: float = FROM_PRESET
    spec_frequency: float = FROM_PRESET
    loss: Literal["auto", "ce", "bce"] = FROM_PRESET
    smoothing: float = FROM_PRESET
    validate_every: int | None = None
    patience: int | None = None
    validation_share: float = 0.1
    as_published: bool = False
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    keep_weights: bool = field(default=False, metadata=EXECUTION)

    def __post_init__(self) -> None:
        for name, (lowest, highest) in _LIMITS.items():
            value = getattr(self, name)
            _require(
                value is None or lowest <= value <= highest,
                f"{name} must lie between {lowest:g} and {highest:g}, not {value}.",
            )
        lengths = {name: getattr(self, name) for name in LENGTHS if getattr(self, name) is not None}
        _require(
            len(lengths) < 2,
            " and ".join(f"{name}={value:g}" for name, value in lengths.items())
            + " exclude each other. Give one of them.",
        )
        for name in ("spec_time", "spec_frequency"):
            width = getattr(self, name) or 0.0
            _require(
                width <= 1 or float(width).is_integer(),
                f"{name} must be a share up to 1 or a whole number above it, not {width}.",
            )
        if self.learning_rate is not None:
            _require(
                self.final_rate <= self.learning_rate,
                f"final_rate={self.final_rate} must not be above learning_rate={self.learning_rate}.",
            )
        if self.batch is not None:
            _require(
                self.accumulate <= self.batch,
                f"accumulate={self.accumulate} must not be above batch={self.batch}: a part would have no clip.",
            )
        if self.updates is not None:
            _require(
                self.probe_updates < self.updates,
                f"probe_updates={self.probe_updates} must be below updates={self.updates}, of which they are a part.",
            )

    def resolved(self) -> Recipe:
        """The same with the preset, if one is named, filled in. Raises UsageError where values do not fit."""
        if self.preset is None:
            return self
        preset = {**_COMMON, **_PRESETS[self.preset]}
        if any(getattr(self, name) is not None for name in LENGTHS):
            preset = {name: value for name, value in preset.items() if name not in LENGTHS}
        unset = {name: value for name, value in preset.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **unset)

    def planned(self, clips: int) -> Recipe:
        """A resolved recipe for so many training clips: the same with `updates` and `validate_every` filled in.

        One with a budget has to be `settled` first.
        """
        epoch = clips / self.batch
        updates = self.updates if self.epochs is None else math.ceil(self.epochs * epoch)
        every = self.validate_every if self.validate_every is not None else math.ceil(epoch)
        return dataclasses.replace(self, updates=updates, epochs=None, validate_every=every)

    def settled(self, updates: int) -> Recipe:
        """The same with so many updates in place of the budget."""
        return dataclasses.replace(self, budget=None, updates=max(updates, self.probe_updates + 1))


def schedule(update: int, recipe: Recipe) -> float:
    """The factor of `learning_rate` for the update with this number, from 0.

    While the head alone is trained `probe_rate` over `learning_rate`. Of the n updates after that the first
    round(warmup n) rise linearly to 1, the last of them; then half a cosine falls, to `final_rate` over
    `learning_rate` at the very last. recipe: planned.
    """
    if recipe.updates is None:
        raise UsageError("updates is not filled in: call planned() on the recipe first.")
    if update < recipe.probe_updates:
        return recipe.probe_rate / recipe.learning_rate
    step, steps = update - recipe.probe_updates, recipe.updates - recipe.probe_updates
    rising = round(recipe.warmup * steps)
    if step < rising:
        return (step + 1) / rising
    final = recipe.final_rate / recipe.learning_rate
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (step + 1 - rising) / (steps - rising)))


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise UsageError(f"finetune: {message}")
