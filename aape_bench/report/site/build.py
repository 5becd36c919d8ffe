"""Content -> pages: renders the templates, copies pictures, and writes only into a folder that is its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from aape_bench.errors import StorageError, UsageError
from aape_bench.metrics import confusion
from aape_bench.progress import Progress
from aape_bench.records import predictions_of
from aape_bench.report.site import charts
from aape_bench.report.site.content import STATES, Column, Content, Row, TaskPage, gather
from aape_bench.report.site.names import model_page, page_name, task_page
from aape_bench.report.site.on_the_way import curve_axis, curves, rates
from aape_bench.storage import atomic_write, check_writable, storage_error, write_text

if TYPE_CHECKING:
    from jinja2 import Environment

    from aape_bench.predictions import Predictions
    from aape_bench.standings.overall import Overall
    from aape_bench.task_data import TaskData

#: Lists the files of a site; a folder that holds it is ours to write into again.
MANIFEST = "site.json"
#: Of the models of a task whose predictions say which clips are hard.
JUDGES = 3
HARD_CLIPS = 5
#: Lines of the modulation chart at first; the others stand in its table.
RESPONSES = charts.SERIES

# Marks that turn the direction of what follows, beyond the label that they stand in.
_TURNING = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\N{REPLACEMENT CHARACTER}")

Files = dict[str, bytes]


@dataclass(frozen=True)
class Audio:
    """Where clips may be read for the pages of hard clips."""

    data_dir: Path
    cache_dir: Path


def build(results_dir: Path, out: Path, progress: Progress, published: bool = True, audio: Audio | None = None) -> Path:
    """Write the site of a results folder into `out`; returns its first page.

    published: with what others published on the same tasks. audio: where the clips are; None: none are shown. What an
    earlier site in `out` had and this one has not is deleted. Raises UsageError where `out` holds anything else,
    StorageError.
    """
    before = _earlier(out)
    check_writable(out, "--out")
    content = gather(results_dir, published)
    files: Files = {}
    pages = 4 + len(content.models) + len(content.tasks) + len(content.ablations)
    with progress.stage("report", pages, "pages") as advance:
        for path, part in _files(content, results_dir, audio):
            files[path] = part
            if path.endswith(".html"):
                advance(1)
    # first, so that whatever an interrupted report leaves is known as its own
    _list(out, before | set(files))
    for path, part in files.items():
        with atomic_write(out / path) as file:
            file.write(part)
    for path in before - set(files):
        (out / path).unlink(missing_ok=True)
    _list(out, set(files))
    for remark in content.remarks:
        progress.say(remark)
    return out / "index.html"


def _list(out: Path, paths: set[str]) -> None:
    write_text(out / MANIFEST, json.dumps(sorted(paths), indent=0))


def _earlier(out: Path) -> set[str]:
    """Files of an earlier site in the folder, by its own list."""
    try:
        if not out.exists() or not any(out.iterdir()):
            return set()
        listed = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    except NotADirectoryError:
        raise UsageError(f"{out} is a file. Name a folder with --out.") from None
    except FileNotFoundError:
        raise UsageError(
            f"The folder {out} holds other things than a report. Name a new or empty one with --out."
        ) from None
    except ValueError:
        listed = None
    except OSError as error:
        raise storage_error(out, error) from error
    paths = listed if isinstance(listed, list) else []
    if not paths or not all(isinstance(path, str) and _inside(path) for path in paths):
        raise StorageError(f"{out / MANIFEST} does not list a report's files. Name another folder with --out.")
    return set(paths)


def _inside(path: str) -> bool:
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts and "\\" not in path


def _files(content: Content, results_dir: Path, audio: Audio | None) -> Iterator[tuple[str, bytes]]:
    """Every file of the site: its path and bytes."""
    site = _environment(content)
    for name in ("style.css", "site.js"):
        yield name, resources.files("aape_bench.report.site").joinpath("templates", name).read_bytes()
    yield _page(site, "index.html", "index.html", content=content, diagram_of=_diagram)
    for model in content.models:
        pictures = _copied(model.page, model.pictures)
        yield from pictures.items()
        yield _page(site, "model.html", model.page, model=model, charts_of=_curve_charts, pictures=list(pictures))
    for task in content.tasks:
        predicted = _Predicted(results_dir)
        clips, media = _hard_clips(task, predicted, audio)
        yield from media.items()
        matrices = {column.title: _confusion(column, predicted) for column in task.columns}
        yield _page(site, "task.html", task.page, task=task, matrices=matrices, clips=clips)
    for ablation in content.ablations:
        drawn = _copied(ablation.page, ablation.pictures)
        yield from drawn.items()
        yield _page(site, "ablation.html", ablation.page, ablation=ablation, pictures=list(drawn))
    yield _page(site, "modulation.html", "modulation.html", content=content, responses=list(_responses(content)))
    yield _page(site, "runs.html", "runs.html", content=content)
    yield _page(site, "about.html", "about.html", content=content)


def _copied(page: str, pictures: Sequence[Path]) -> Files:
    """Pictures of a page, under names that need no quoting in a link."""
    return {f"pictures/{page[:-5]}/{page_name(path.stem)}{path.suffix}": path.read_bytes() for path in pictures}


def _environment(content: Content) -> Environment:
    import jinja2

    site = jinja2.Environment(
        loader=jinja2.PackageLoader("aape_bench.report.site", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value.translate(_TURNING) if isinstance(value, str) else value,
    )
    site.filters |= {
        "score": lambda value: "–" if value is None else f"{value:.3f}",
        "tenths": lambda value: "–" if value is None else f"{value:.1f}",
        "count": lambda value: "–" if value is None else f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}"),
        "seconds": lambda value: "–" if value is None else f"{value:.1f}" if value < 100 else f"{value:.0f}",
        "share": _share,
        "signed": _signed,
        "zip": lambda first, second: list(zip(first, second, strict=False)),
    }
    modulation = any(row.domain == "modulation" and row.ours for row in content.rows)
    site.globals |= {
        "states": STATES,
        "model_page": model_page,
        "task_page": task_page,
        "models": content.models,
        "tasks": content.tasks,
        "ablations": content.ablations,
        "has_modulation": modulation,
        "span": _span,
    }
    return site


def _page(site: Environment, template: str, path: str, **values: Any) -> tuple[str, bytes]:
    up = "../" * path.count("/")
    return path, site.get_template(template).render(up=up, page=path, **values).encode()


def _span(rows: Sequence[Row]) -> tuple[float, float]:
    """Ends of the axis that all these rows' intervals fit on."""
    numbers = [
        value for row in rows for value in (row.score, row.low, row.high, row.chance if row.ours else None)
        if value is not None
    ]  # fmt: skip
    low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
    margin = 0.03 * (high - low) or 0.05
    return low - margin, high + margin


def _share(value: float, span: tuple[float, float]) -> str:
    """Place on an axis, in percent."""
    return f"{100 * (value - span[0]) / (span[1] - span[0]):.1f}%"


def _signed(text: str, plus: str = "+") -> str:
    """A number of a CSV file to three digits, with its sign; anything else as it is."""
    try:
        number = float(text)
    except ValueError:
        return text
    return f"{number:{plus}.3f}".replace("-", "\N{MINUS SIGN}")


def _diagram(one: Overall) -> Any:
    """The critical-difference diagram of means over tasks; empty where no test was made."""
    if one.friedman is None:
        return ""
    ranks = sorted(((row.place.model, row.mean_rank) for row in one.rows), key=lambda row: (row[1], row[0]))
    title = f"Mean ranks over {len(one.tasks)} tasks by {one.protocol}"
    return charts.critical_difference(title, ranks, one.friedman.cliques, one.friedman.critical)


def _curve_charts(row: Row) -> Any:
    """The chart of what one row's protocol saw on validation; empty where it tried nothing."""
    if row.record is None or not (found := curves(row.record)):
        return ""
    axis = curve_axis(row.record)
    series = [charts.Line(one.name, one.points) for one in found[: charts.SERIES]]
    title = f"{row.task}, {row.protocol}: {row.metric} on validation by {axis}"
    return charts.lines(title, series, axis, f"{row.metric} on validation")


class _Predicted:
    """Predictions of records, each read once."""

    def __init__(self, results_dir: Path) -> None:
        self.results_dir = results_dir
        self._read: dict[str, Predictions | None] = {}

    def of(self, row: Row) -> Predictions | None:
        """None where the file is missing or damaged, which `records verify` says in full."""
        if row.record is None:
            return None
        if row.path not in self._read:
            try:
                self._read[row.path] = predictions_of(self.results_dir, row.record)
            except StorageError:
                self._read[row.path] = None
        return self._read[row.path]


def _confusion(column: Column, predicted: _Predicted) -> Mapping[str, Any] | None:
    """The leader's mistakes: a matrix, or the most frequent ones of many classes."""
    leader = column.leader
    found = predicted.of(leader) if leader is not None else None
    if leader is None or found is None or found.kind != "multiclass":
        return None
    classes, counts = confusion(found)
    title = f"{leader.model} on {leader.task}, {leader.protocol}"
    if leader.record is not None and len(leader.records) > 1:
        title += f", seed {leader.record.seed} of {len(leader.records)} seeds"
    small = len(classes) <= charts.CONFUSION_UP_TO
    return {
        "title": title,
        "matrix": charts.confusion(f"Confusion matrix of {title}", classes, counts) if small else None,
        "mistakes": charts.confused(classes, counts, 8 if small else 20),
    }


def _hard_clips(task: TaskPage, predicted: _Predicted, audio: Audio | None) -> tuple[Mapping[str, Any], Files]:
    """What the task's page says of its hardest clips, and their pictures and sounds."""
    from aape_bench.report.site.hardest import data_of, hardest, media

    column = next((one for one in task.columns if one.protocol == "linear"), task.columns[0])
    judges = [(row.model, found) for row in column.rows[:JUDGES] if (found := predicted.of(row)) is not None]
    clips = hardest(judges, HARD_CLIPS)
    data: TaskData | None = None
    if clips and task.description is not None and audio is not None:
        data = data_of(task.description, audio.data_dir, audio.cache_dir)
    files: Files = {}
    shown = []
    for number, clip in enumerate(clips):
        part = media(data, clip.id) if data is not None else None
        stem = f"clips/{task.page[6:-5]}-{number + 1}"
        if part is not None:
            files |= {f"{stem}.png": part.spectrogram, f"{stem}.ogg": part.audio}
        shown.append({"clip": clip, "stem": stem if part is not None else None, "media": part})
    about = {"judges": [name for name, _ in judges], "column": column.title, "shown": shown}
    return about, files


def _responses(content: Content) -> Iterator[Mapping[str, Any]]:
    """Accuracy by rate of every modulation task and protocol: a chart of the best rows, and a table of all."""
    for task in content.tasks:
        for column in task.columns:
            found = [(row, rates(row.records)) for row in column.rows]
            found = [(row, points) for row, points in found if points]
            if not found:
                continue
            series = [charts.Line(row.model, [(x, y) for x, y, _ in points], _wilson(points)) for row, points in found]
            every = sorted({x for _, points in found for x, _, _ in points})
            at_rate = [(row, {x: y for x, y, _ in points}) for row, points in found]
            title = f"{task.name}, {column.title}: accuracy by rate"
            chance = found[0][0].chance
            yield {
                "task": task,
                "column": column,
                "chart": charts.lines(title, series[:RESPONSES], "rate, Hz", "accuracy", chance),
                "rates": every,
                "rows": [(row, [known.get(x) for x in every]) for row, known in at_rate],
                "more": len(found) > RESPONSES,
            }


def _wilson(points: Sequence[tuple[float, float, int]]) -> list[tuple[float, float]]:
    """95 % intervals of shares (Wilson 1927), which stay inside 0 and 1 for few clips."""
    ends = []
    for _, share, count in points:
        z2 = 1.959964**2 / count
        middle = (share + z2 / 2) / (1 + z2)
        half = (share * (1 - share) * z2 + z2 * z2 / 4) ** 0.5 / (1 + z2)
        ends.append((max(0.0, middle - half), min(1.0, middle + half)))
    return ends
