"""The Python interface: `aape_bench.run(...)`, the command `aape-bench run` as a function.

    import aape_bench

    results = aape_bench.run(model="aape,logmel", task="tremolo", protocol=["linear", "knn"], seed=[0, 1])
    results.frame                   # a DataFrame, one row per result
    results.records[0].scores       # everything about one: folds, metrics, interval
    results                         # in a notebook: a table

What is there already is not computed again; results go where the command line puts them, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aape_bench import escapes
from aape_bench.errors import UsageError, raise_all
from aape_bench.records import Record

if TYPE_CHECKING:
    import pandas as pd

    from aape_bench.predictions import Predictions

    Names = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Results:
    """What a run came to.

    records: one per result, in the order of models, seeds, tasks and protocols. results_dir: where they lie. computed:
    how many of them were computed now; the others were there.
    """

    records: list[Record]
    results_dir: Path
    computed: int

    @property
    def record(self) -> Record:
        """The record of a run of one model on one task. Raises UsageError where there are several."""
        if len(self.records) != 1:
            raise UsageError(f"There are {len(self.records)} records, not one: take them from `records` or `frame`.")
        return self.records[0]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per record.

        Columns: model, task, protocol, seed, metric, score, ci_low, ci_high (95 %), n_test, partial (which part of the
        data, "" where all), weights, pretrain_overlap, chance, key. An undefined number is NaN.
        """
        import pandas as pd

        frame = pd.DataFrame([_row(record) for record in self.records], columns=_COLUMNS)
        return frame.astype(dict.fromkeys(("score", "ci_low", "ci_high", "chance"), float))

    def predictions(self, record: Record) -> Predictions:
        """What a record's result is computed from: ids, truth and scores of every test clip."""
        from aape_bench.records import predictions_of

        return predictions_of(self.results_dir, record)

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return f"{self._table().to_string(index=False)}\n{self._summary()}" if self.records else self._summary()

    def _repr_html_(self) -> str:
        table = self._table().to_html(index=False, border=0) if self.records else ""
        return f"{table}<p>{self._summary()}</p>"

    def _table(self) -> pd.DataFrame:
        """The frame as one reads it: rounded, the interval in one column, without columns that say nothing here."""
        frame = self.frame.copy()
        bounds = zip(frame["ci_low"], frame["ci_high"], strict=True)
        intervals = ["" if low != low else f"{low:.3f} - {high:.3f}" for low, high in bounds]
        frame.insert(list(frame.columns).index("score") + 1, "95 % interval", intervals)
        frame["score"] = ["undefined" if score != score else f"{score:.3f}" for score in frame["score"]]
        frame = frame.drop(columns=["ci_low", "ci_high", "chance", "key"])
        dull = [name for name, usual in (("partial", ""), ("seed", 0)) if (frame[name] == usual).all()]
        return frame.drop(columns=dull)

    def _summary(self) -> str:
        there = len(self.records) - self.computed
        return f"{self.computed} computed, {there} already there."


def run(
    model: Names,
    task: Names,
    protocol: Names = "linear",
    *,
    settings: Mapping[str, Any] | None = None,
    protocol_settings: Mapping[str, Any] | None = None,
    weights: str | Path = "default",
    seed: int | Sequence[int] = 0,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    results_dir: str | Path | None = None,
    allow_partial: bool = False,
    skip_broken: bool = False,
    trust_remote_code: bool = False,
    references: bool = False,
    device: str = "auto",
    precision: str = "float32",
    batch_size: int | str = "auto",
    executor: str = "local",
    address: str | None = None,
    progress: bool = False,
) -> Results:
    """Evaluate models on tasks; what is there already is not computed again.

    model, task, protocol: names as on the command line, several at commas or in a list; a Path is one name, whatever
    marks are in it. settings: of every model named (`--set`). protocol_settings: of every protocol named
    (`--protocol-set`). weights: a checkpoint file, "random" or "default". seed: one, or several for a result each.
    data_dir, cache_dir, results_dir: folders; None as the command line chooses them. allow_partial: evaluate on the
    clips that are there. skip_broken: leave out clips that cannot be decoded. trust_remote_code: of hub models.
    references: run the encoders that a task asks for in its table, too. device: "auto", "cpu" or "cuda".
    precision: of frozen encoders, "float32" or "bf16". batch_size: clips given to the encoder at once, or "auto".
    executor: "local", "local:N" or "ray". address: of a Ray cluster. progress: say on standard error how far it is.

    Raises BenchError, in a paragraph that says what to do, where something cannot be run or has failed; what was
    finished before stays in `results_dir`, and the same call goes on from there.
    """
    from aape_bench import console, environment, planning, runner, selection
    from aape_bench.executor import parse_executor
    from aape_bench.progress import Silent
    from aape_bench.records import read_record

    flags = {
        "allow_partial": allow_partial, "skip_broken": skip_broken, "trust_remote_code": trust_remote_code,
        "references": references, "progress": progress,
    }  # fmt: skip
    for name, flag in flags.items():
        if flag not in (True, False):  # the text "no" would be true
            raise UsageError(f"{name} takes True or False, not {flag!r}.")
    if not isinstance(executor, str):
        raise UsageError(f'executor takes "local", "local:N" or "ray", not {executor!r}.')
    if address is not None and not isinstance(address, str):
        raise UsageError(f'address takes "HOST:PORT" or None, not {address!r}.')
    workers = parse_executor(executor, address)
    options = planning.Options(
        data_dir=_folder(data_dir, "data"),
        cache_dir=_folder(cache_dir, "cache"),
        results_dir=_folder(results_dir, "results"),
        allow_partial=allow_partial,
        skip_broken=skip_broken,
        device=environment.resolve_device(device),
        batch_size=environment.resolve_batch_size(batch_size),
        precision=environment.resolve_precision(precision),
        references=references,
        notes=progress,
    )
    models = selection.select_models(
        _names(model, "model"), _texts(settings, "settings"), _weights(weights), _seeds(seed), trust_remote_code
    )
    protocols = planning.choose_protocols(
        selection.split_names(_names(protocol, "protocol")), _texts(protocol_settings, "protocol_settings")
    )
    jobs, failures = planning.plan(models, selection.select_tasks(_names(task, "task")), protocols, options)
    finished = runner.run(jobs, options, console.RichProgress() if progress else Silent(), workers)
    raise_all([*failures, *finished.failures])
    return Results([read_record(path) for path in finished.paths], options.results_dir, finished.computed)


_COLUMNS = [
    "model", "task", "protocol", "seed", "metric", "score", "ci_low", "ci_high", "n_test", "partial", "weights",
    "pretrain_overlap", "chance", "key",
]  # fmt: skip


def _row(record: Record) -> dict[str, Any]:
    interval = record.scores["interval"] or {"low": None, "high": None}
    return {
        "model": record.model["label"],
        "task": record.task["name"],
        "protocol": record.protocol["label"],
        "seed": record.seed,
        "metric": record.task["metric"],
        "score": record.scores["score"],
        "ci_low": interval["low"],
        "ci_high": interval["high"],
        "n_test": record.scores["test_clips"],
        "partial": record.task["partial"],
        "weights": record.model["weights"],
        "pretrain_overlap": record.pretrain_overlap,
        "chance": record.scores["chance"],
        "key": record.key,
    }


def _names(given: Any, what: str) -> list[str]:
    names = _listed(given)
    if not all(isinstance(name, str | Path) for name in names):
        raise UsageError(f"{what} takes a name or a list of names, not {given!r}.")
    return [escapes.escaped(str(name)) if isinstance(name, Path) else name for name in names]


def _texts(settings: Any, what: str) -> dict[str, str]:
    if not isinstance(settings or {}, Mapping) or not all(isinstance(key, str) for key in settings or {}):
        raise UsageError(f'{what} takes a dictionary of settings by name, such as {{"key": 1}}, not {settings!r}.')
    return {key: _text(value) for key, value in (settings or {}).items()}


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _weights(given: Any) -> str:
    if not isinstance(given, str | Path):
        raise UsageError(f'weights takes a file, "random" or "default", not {given!r}.')
    return str(given)


def _folder(given: Any, kind: str) -> Path:
    from aape_bench.environment import default_folder
    from aape_bench.selection import whole_path

    if given is not None and (not isinstance(given, str | Path) or not str(given) or "\0" in str(given)):
        raise UsageError(f"{kind}_dir takes a folder, not {given!r}.")
    # absolute: a foreign module may change the working directory
    return whole_path(default_folder(kind) if given is None else given)


def _listed(given: Any) -> list[Any]:
    """What a list, an array or the like holds; anything else alone."""
    try:
        return [given] if isinstance(given, str | bytes) else list(given)
    except TypeError:
        return [given]


def _seeds(given: Any) -> list[int]:
    seeds = _listed(given)
    if not seeds or any(isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0 for seed in seeds):
        raise UsageError(f"seed takes a whole number from 0, or a list of them, not {given!r}.")
    return list(dict.fromkeys(int(seed) for seed in seeds))
