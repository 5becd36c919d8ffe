"""Tables of models on equal terms: one for each task, protocol, version of the data and class of rows.

A class is what keeps a row from being ranked with clean ones: () for whole data, trained weights and no known overlap,
otherwise marks ("partial", "random", "overlap"). Rows of different classes are never compared or averaged here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aape_bench import metrics
from aape_bench.compare import common_clips
from aape_bench.errors import BenchError, UsageError
from aape_bench.leaderboard import Entry, entries
from aape_bench.predictions import Predictions
from aape_bench.records import predictions_of
from aape_bench.resampling import SINGLE_UNIT, units
from aape_bench.settings import suggestion
from aape_bench.standings.differences import Pair, Place, Sample, pairs_of, places_of
from aape_bench.weighted import by_fold

Marks = tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A model's place in one table. score, low, high: on the table's clips, of the mean over `seeds` seeds."""

    place: Place
    score: float
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True)
class Table:
    """Models on one task by one protocol, on the same test clips.

    data: the fingerprint's first 8 digits. partial: "100 of 2000" where clips are missing. chance: what a classifier
    that has learned nothing gets; None where that has no plain meaning. rows: by place. absent: models whose score or
    predictions are not there, and why. draws: (rows, DRAWS) of the score on the same resamples, in the order of
    `rows`; None where a fold has a single group or clip.
    """

    task: str
    protocol: str
    metric: str
    data: str
    partial: str
    marks: Marks
    sample: Sample
    chance: float | None
    rows: list[Row]
    pairs: list[Pair]
    absent: dict[str, str]
    draws: npt.NDArray[np.float64] | None

    @property
    def title(self) -> str:
        """As it is headed: "esc50, linear, accuracy"."""
        return f"{self.task}, {self.protocol}, {self.metric}"


@dataclass(frozen=True)
class Chosen:
    """Names to keep of each; empty: all."""

    tasks: Collection[str] = ()
    protocols: Collection[str] = ()
    models: Collection[str] = ()


def tables_of(results_dir: Path, chosen: Chosen | None = None) -> tuple[list[Table], list[str]]:
    """Every table, clean ones first, and what a reader must know of what was left out.

    Raises UsageError where nothing is of a chosen name.
    """
    every, remarks = entries(results_dir)
    tables, said = tables_of_entries(results_dir, _kept(every, chosen or Chosen()))
    return tables, [*remarks, *said]


def tables_of_entries(results_dir: Path, every: Sequence[Entry]) -> tuple[list[Table], list[str]]:
    """As `tables_of`, of these rows of the leaderboard."""
    remarks: list[str] = []
    cells: dict[tuple[Marks, str, str, str, str], list[Entry]] = defaultdict(list)
    for entry in every:
        task = entry.first.task
        cell = (entry.marks, task["name"], entry.first.protocol["label"], task["metric"], task["fingerprint"])
        cells[cell].append(entry)
    tables = []
    for _, rows in sorted(cells.items(), key=lambda item: (len(item[0][0]), item[0])):
        try:
            table = _table(results_dir, rows)
        except BenchError as error:
            task, protocol = rows[0].first.task["name"], rows[0].first.protocol["label"]
            remarks.append(f"{task}, {protocol}: no table could be made. {error}")
            continue
        tables.append(table)
        remarks += [f"{table.title}: {model} has no place: {why}" for model, why in table.absent.items()]
        if (most := max(entry.first.scores["test_clips"] for entry in rows)) > table.sample.clips > 0:
            remarks.append(f"{table.title}: only the {table.sample.clips} of {most} test clips that all have count.")
        if table.draws is None and table.rows:
            remarks.append(f"{table.title}: {SINGLE_UNIT}.")
    return tables, remarks


def _kept(every: Sequence[Entry], chosen: Chosen) -> list[Entry]:
    kept = list(every)
    for what, key, names in (
        ("task", "name", chosen.tasks),
        ("protocol", "label", chosen.protocols),
        ("model", "label", chosen.models),
    ):
        there = {getattr(entry.first, what)[key] for entry in every}
        for name in names:
            if name not in there:
                raise UsageError(f'There is no result of the {what} "{name}".{suggestion(name, there)}')
        kept = [entry for entry in kept if not names or getattr(entry.first, what)[key] in names]
    if not kept:
        raise UsageError("No result is of all that was named. Name less.")
    return kept


@dataclass(frozen=True)
class _Model:
    label: str
    predicted: list[Predictions]


def _table(results_dir: Path, rows: Sequence[Entry]) -> Table:
    first = rows[0].first
    metric, task = first.task["metric"], first.task["name"]
    metrics.check_metric(task, metric, first.task["kind"])
    models, absent = _read(results_dir, rows)
    sample, scores, draws, bounds = Sample(0, 0, 0, False), np.empty(0), None, []
    if models:
        flat = common_clips([one for model in models for one in model.predicted])
        sample = sample_of(flat[0])
        model = np.repeat(np.arange(len(models)), [len(one.predicted) for one in models])
        seed = min(seed for entry in rows for seed in entry.seeds)
        points, each = metrics.scores_and_draws(metric, flat, task, seed)
        with np.errstate(invalid="ignore"):
            scores = np.array([points[model == at].mean() for at in range(len(models))])
            if each is not None:
                draws = np.array([each[model == at].mean(axis=0) for at in range(len(models))])
        if not (known := np.isfinite(scores)).all():
            absent |= {models[at].label: "its score is undefined." for at in np.flatnonzero(~known)}
            models = [models[at] for at in np.flatnonzero(known)]
            scores, draws = scores[known], None if draws is None else draws[known]
        bounds = [metrics.bounds_of_draws(metric, of, flat[0]) for of in draws] if draws is not None else []
    labels = [one.label for one in models]
    sign = -1.0 if metrics.lower_is_better(metric) else 1.0
    pairs = pairs_of(labels, (sign * scores).tolist(), None if draws is None else sign * draws, sample)
    places = places_of(labels, (sign * scores).tolist(), pairs)
    order = [labels.index(place.model) for place in places]
    return Table(
        task=task,
        protocol=first.protocol["label"],
        metric=metric,
        data=first.task["fingerprint"][:8],
        partial=first.task["partial"],
        marks=rows[0].marks,
        sample=sample,
        chance=first.scores["chance"],
        rows=[
            Row(
                place=place,
                score=float(scores[at]),
                low=bounds[at].low if bounds else None,
                high=bounds[at].high if bounds else None,
                seeds=len(models[at].predicted),
            )
            for place, at in zip(places, order, strict=True)
        ],
        pairs=pairs,
        absent=absent,
        draws=None if draws is None else draws[order],
    )


def _read(results_dir: Path, rows: Sequence[Entry]) -> tuple[list[_Model], dict[str, str]]:
    """Models whose predictions and scores are there, and the others with the reason."""
    models, absent = [], {}
    for entry in rows:
        label = entry.first.model["label"]
        if any(record.scores["score"] is None for record in entry.records):
            absent[label] = "its score is undefined."
            continue
        try:
            scored = metrics.METRICS[entry.first.task["metric"]].of_scores
            models.append(_Model(label, [predictions_of(results_dir, one, scored) for one in entry.records]))
        except BenchError as error:
            absent[label] = str(error)
    return models, absent


def sample_of(predictions: Predictions) -> Sample:
    """What bootstrap resamples of these clips are drawn from."""
    parts = by_fold(predictions).values()
    return Sample(
        clips=len(predictions.ids),
        units=sum(int(units(part.groups).max()) + 1 for part in parts),
        folds=len(parts),
        grouped=any(group is not None for group in predictions.groups),
    )
