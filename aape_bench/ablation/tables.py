"""The tables of an ablation: every variant on every task with its difference to the reference, costs, and the answers.

ablation.csv   one row per (task or endpoint, protocol, variant)
answers.csv    one row per pair of variants that a question speaks of
ablation.md    both for people, the answers in sentences first
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from aape_bench.ablation.answers import LEAST_SEEDS, Answer, answer_all, signed, standing
from aape_bench.ablation.statistics import SMALLEST_GAIN, STABILITY_PROTOCOL, Scores, falls, holm, with_stability
from aape_bench.storage import write_text

if TYPE_CHECKING:
    import pandas as pd

    from aape_bench.ablation.plan import Plan
    from aape_bench.training import Run

#: Of a variant's trainings; seconds are their mean.
COSTS = ("seconds", "steps", "parameters", "flops_per_step")


def write(
    plan: Plan, scores: pd.DataFrame, runs: Sequence[Run], folder: Path, stability: pd.DataFrame | None = None
) -> list[str]:
    """Write `ablation.csv`, `answers.csv` and `ablation.md` into `folder`; returns the answers' sentences.

    scores, stability: see `statistics.Scores` and `with_stability`; perhaps empty. Equal inputs give equal bytes.
    Raises DataError where variants cannot be compared, and StorageError.
    """
    known = with_stability(scores, stability)
    answers = answer_all(known, plan.questions, plan.endpoints, plan.protocol)
    table = comparisons(plan, known, runs)
    write_text(folder / "ablation.csv", table.to_csv(index=False, lineterminator="\n", float_format="%.9g"))
    text = answers_table(answers).to_csv(index=False, lineterminator="\n", float_format="%.9g")
    write_text(folder / "answers.csv", text)
    write_text(folder / "ablation.md", _markdown(plan, known, table, answers))
    return [answer.sentence for answer in answers]


def comparisons(plan: Plan, scores: Scores, runs: Sequence[Run]) -> pd.DataFrame:
    """One row per (task or endpoint, protocol, variant), endpoints first.

    part: "endpoint", "task" or "stability". mean, seed_*: scores, as the metric has them; of an endpoint error rates e
    count as 1 - e. clip_noise: mean half width of the runs' own 95 % intervals over test clips. difference, low, high,
    p: of the paired difference to the reference, positive where the variant is the better (see `Difference`). p_holm:
    adjusted for all rows of the table, none of which decides a question.
    """
    import pandas as pd

    names = [variant.name for variant in plan.variants]
    costs = _costs(runs)
    rows: list[dict[str, Any]] = []
    for task, tasks, protocol in _columns(plan, scores):
        about = scores.table[scores.table["task"].isin(tasks) & (scores.table["protocol"] == protocol)]
        metrics = list(dict.fromkeys(about["metric"]))
        endpoint = task not in tasks
        error = not endpoint and bool(metrics) and falls(metrics[0])
        for name in names:
            by_seed = scores.mean(name, tasks, protocol)
            shown = {seed: 1.0 - merit if error else merit for seed, merit in by_seed.items()}
            pair = None if name == plan.reference else scores.difference(name, plan.reference, tasks, protocol)
            own = about[about["variant"] == name]
            rows.append(
                {
                    "part": "endpoint" if endpoint else "stability" if protocol == STABILITY_PROTOCOL else "task",
                    "task": task,
                    "protocol": protocol,
                    "metric": ", ".join(metrics),
                    "variant": name,
                    "seeds": len(shown),
                    "mean": fmean(shown.values()) if shown else None,
                    **{f"seed_{seed}": shown.get(seed) for seed in scores.seeds},
                    "clip_noise": None if endpoint else _clip_noise(own),
                    "difference": pair and pair.mean,
                    "low": pair and pair.low,
                    "high": pair and pair.high,
                    "p": pair and pair.p,
                    "reason": pair.reason if pair else "",
                    "partial": _joined(scores.marked("partial", tasks, protocol)),
                    "overlap": _joined(scores.marked("overlap", tasks, protocol)),
                    **costs.get(name, dict.fromkeys(COSTS)),
                }
            )
    compared = [row for row in rows if row["variant"] != plan.reference]
    for row, adjusted in zip(compared, holm([row["p"] for row in compared]), strict=True):
        row["p_holm"] = adjusted
    seeds = [f"seed_{seed}" for seed in scores.seeds]
    columns = ["part", "task", "protocol", "metric", "variant", "seeds", "mean", *seeds, "clip_noise", "difference"]
    columns += ["low", "high", "p", "p_holm", "reason", "partial", "overlap", *COSTS]
    return pd.DataFrame(rows, columns=columns)


def answers_table(answers: Sequence[Answer]) -> pd.DataFrame:
    """One row per pair of variants that a question speaks of; the claim, verdict and direction repeat."""
    import pandas as pd

    columns = ["question", "claim", "verdict", "direction", "endpoint", "tasks", "ahead", "of", "seeds", "difference"]
    columns += ["low", "high", "p", "standing", "reason"]
    rows = []
    for answer in answers:
        asked = answer.question
        start = (asked.name, asked.claim, answer.verdict, answer.direction, asked.endpoint, " ".join(answer.tasks))
        for pair in (*answer.pairs, *answer.absent):
            numbers = (pair.mean, pair.low, pair.high, pair.p)
            rows.append((*start, pair.ahead, pair.of, len(pair.seeds), *numbers, standing(pair), pair.reason))
    return pd.DataFrame(rows, columns=columns)


def _columns(plan: Plan, scores: Scores) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Name, tasks and protocol of every endpoint, then of every task."""
    for name, tasks in plan.endpoints.items():
        if set(tasks) & {task for task, _ in scores.cells()}:
            yield f"mean: {name}", tuple(tasks), plan.protocol
    for task, protocol in scores.cells():
        yield task, (task,), protocol


def _costs(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    by_variant: dict[str, list[Run]] = {}
    for run in runs:
        by_variant.setdefault(run.variant.name, []).append(run)
    return {
        name: {
            "seconds": fmean(run.trained.seconds for run in same),
            "steps": same[0].trained.steps,
            "parameters": same[0].trained.parameters,
            "flops_per_step": same[0].trained.flops_per_step,
        }
        for name, same in by_variant.items()
    }


def _clip_noise(rows: pd.DataFrame) -> float | None:
    halves = ((rows["ci_high"].astype(float) - rows["ci_low"].astype(float)) / 2).dropna()
    return float(halves.mean()) if len(halves) else None


def _joined(marked: Mapping[str, str]) -> str:
    return "; ".join(dict.fromkeys(marked.values()))


def _markdown(plan: Plan, scores: Scores, table: pd.DataFrame, answers: Sequence[Answer]) -> str:
    rate = "the preset's own" if plan.learning_rate is None else f"{plan.learning_rate:g}"
    seeds = scores.seeds
    lines = [
        f"# Ablation of {plan.model}, preset {plan.preset}",
        "",
        f"{plan.steps} steps a training, learning rate {rate}, {len(seeds)} training seeds, test protocol "
        f"{plan.protocol}.",
        "",
        "## Answers",
        "",
        *(f"- **{answer.headline}** {answer.detail}" for answer in answers),
        *([] if answers else ["No question speaks of these variants."]),
        "",
        f"Differences are paired over training seeds, with 95 % t intervals in brackets. \"Supported\" and \"not "
        f'supported" take {LEAST_SEEDS} seeds; with fewer the strongest word is "suggestive". Against a claim speaks '
        f"an interval that excludes a gain of {SMALLEST_GAIN:g}. Seeds that are added after a look at fewer make the "
        "intervals a little too sure.",
        "",
        "## Means and costs",
        "",
        *_means(plan, table),
        "",
        f"## Differences to {plan.reference}",
        "",
        "Secondary: no row here decides a question. Noise is the mean half width of a run's own 95 % interval over "
        "test clips. The p-values are adjusted after Holm for all rows together; positive differences mean better.",
    ]  # fmt: skip
    for (name, protocol), rows in table.groupby(["task", "protocol"], sort=False):
        lines += ["", f"### {name} ({protocol})", "", *_differences(plan, rows, seeds)]
    return "\n".join(lines) + "\n"


def _means(plan: Plan, table: pd.DataFrame) -> list[str]:
    by_variant = dict(list(table.groupby("variant", sort=False)))
    cells = list(dict.fromkeys(zip(table["task"], table["protocol"], strict=True)))
    usual = (plan.protocol, STABILITY_PROTOCOL)
    names = [task if protocol in usual else f"{task} ({protocol})" for task, protocol in cells]
    heads = ["variant", "what it is", *names]
    heads += ["minutes", "million parameters", "GFLOP a step"]
    rows = []
    for variant in plan.variants:
        own = by_variant.get(variant.name)
        if own is None:
            continue
        cost = own.iloc[0]
        spent = (cost["seconds"], 60, 1), (cost["parameters"], 1e6, 2), (cost["flops_per_step"], 1e9, 1)
        rows.append(
            [
                variant.name,
                variant.title,
                *(_number(mean) for mean in own["mean"]),
                *("" if _absent(value) else f"{value / unit:.{digits}f}" for value, unit, digits in spent),
            ]
        )
    return _table(heads, rows, left=2)


def _differences(plan: Plan, rows: pd.DataFrame, seeds: Sequence[int]) -> list[str]:
    first = rows.iloc[0]
    said = [first["metric"], f"partial data: {first['partial']}" if first["partial"] else ""]
    said.append(f"pre-training overlap: {first['overlap']}" if first["overlap"] else "")
    heads = ["variant", "mean", *(f"seed {seed}" for seed in seeds), "noise", "difference", "95 % interval", "p (Holm)"]
    cells = []
    for row in rows.to_dict("records"):
        numbers = [_number(row[name]) for name in ("mean", *(f"seed_{seed}" for seed in seeds), "clip_noise")]
        if row["variant"] == plan.reference:
            cells.append([row["variant"], *numbers, "", "", ""])
            continue
        between = "" if _absent(row["low"]) else f"[{signed(row['low'])}, {signed(row['high'])}]"
        change = "" if _absent(row["difference"]) else signed(row["difference"])
        p = "" if _absent(row["p_holm"]) else f"{row['p_holm']:.2g}"
        cells.append([row["variant"], *numbers, change, between or row["reason"], p])
    return ["; ".join(filter(None, said)) + ".", "", *_table(heads, cells, left=1)]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """A Markdown table; the first `left` columns stand left, the others, numbers, right."""
    rule = ["---"] * left + ["---:"] * (len(heads) - left)
    escaped = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (heads, rule, *rows)]
    return ["| " + " | ".join(row) + " |" for row in escaped]


def _number(value: Any) -> str:
    return "" if _absent(value) else f"{value:.3f}"


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
