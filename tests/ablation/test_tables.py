"""The tables of an ablation, read back as a user would."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from ablation_scores import LOSS, MODULATION, REAL, STEM, plan, scores
from scipy.stats import ttest_rel

from aape_bench.ablation import tables
from aape_bench.ablation.statistics import holm
from aape_bench.training import Run, Setup, Trained, Variant

FULL, PLAIN, WIDE = [0.61, 0.64, 0.60], [0.55, 0.57, 0.56], [0.60, 0.66, 0.59]


def known() -> pd.DataFrame:
    return pd.concat(
        [
            scores({"full": FULL, "plain": PLAIN, "wide": WIDE}, ("tremolo", "esc50")),
            scores({"full": WIDE, "plain": FULL, "wide": WIDE}, ("clicks",), overlap="same-generator"),
            scores({"full": PLAIN, "plain": FULL}, ("gtzan",), partial="40 of 1000"),
        ]
    )


def runs() -> list[Run]:
    setup = Setup({}, "tiny", 10, None, ())
    return [
        Run(Variant(name), seed, setup, Path("out"), Trained(Path("c"), 60.0 * (seed + 1), 10, 2_000_000, 3e9))
        for name in ("full", "plain")
        for seed in (0, 1)
    ]


def written(out: Path) -> pd.DataFrame:
    tables.write(plan(("full", "plain", "wide"), (STEM, LOSS)), known(), runs(), out)
    return pd.read_csv(out / "ablation.csv").set_index(["task", "variant"])


def test_every_variant_on_every_task_and_endpoint(tmp_path: Path) -> None:
    table = written(tmp_path)
    cells = ["mean: modulation", "mean: real", "tremolo", "esc50", "clicks", "gtzan"]
    assert list(dict.fromkeys(table.index.get_level_values("task"))) == cells
    assert table.loc[("tremolo", "full"), ["seed_0", "seed_1", "seed_2"]].tolist() == FULL
    assert table.loc[("tremolo", "full"), "mean"] == pytest.approx(sum(FULL) / 3)
    both = [(plain + full) / 2 for plain, full in zip(PLAIN, FULL, strict=True)]
    endpoint = table.loc[("mean: modulation", "plain")]
    assert endpoint[["seed_0", "seed_1", "seed_2"]].tolist() == pytest.approx(both)
    assert table.loc[("gtzan", "wide"), "seeds"] == 0
    assert table.loc[("tremolo", "full"), "clip_noise"] == pytest.approx(0.02)


def test_differences_are_the_paired_ones_to_the_reference(tmp_path: Path) -> None:
    table = written(tmp_path)
    row, reference = table.loc[("tremolo", "plain")], ttest_rel(PLAIN, FULL)
    interval = reference.confidence_interval(0.95)
    assert row[["low", "high", "p"]].tolist() == pytest.approx([interval.low, interval.high, reference.pvalue])
    assert row["difference"] == pytest.approx(sum(PLAIN) / 3 - sum(FULL) / 3)
    assert table.loc[("tremolo", "full"), ["difference", "low", "high", "p", "p_holm"]].isna().all()
    same = table.loc[("clicks", "wide")]
    assert same["difference"] == 0
    assert same[["low", "high"]].isna().all()
    assert "same in every seed" in same["reason"]


def test_p_values_are_adjusted_for_the_whole_table(tmp_path: Path) -> None:
    table = written(tmp_path).reset_index()
    compared = table[table["variant"] != "full"]
    adjusted = holm([None if pd.isna(p) else p for p in compared["p"]])
    assert compared["p_holm"].tolist() == pytest.approx(
        [float("nan") if p is None else p for p in adjusted], nan_ok=True
    )
    assert (compared["p_holm"].dropna() >= compared["p"].dropna()).all()


def test_costs_and_what_weakens_a_row_stand_beside_it(tmp_path: Path) -> None:
    table = written(tmp_path)
    costs = table.loc[("esc50", "plain"), ["seconds", "steps", "parameters", "flops_per_step"]]
    assert costs.tolist() == [90.0, 10, 2_000_000, 3e9]
    assert table.loc[("clicks", "plain"), "overlap"] == "same-generator"
    assert table.loc[("mean: modulation", "plain"), "overlap"] == "same-generator"
    assert table.loc[("gtzan", "plain"), "partial"] == "40 of 1000"
    assert pd.isna(table.loc[("tremolo", "plain"), "overlap"])


def test_an_error_rate_is_shown_as_it_is_and_falls_for_the_better(tmp_path: Path) -> None:
    table = scores({"full": [0.2, 0.3], "plain": [0.4, 0.4]}, ("esc50",), metric="segment_1s_er")
    tables.write(plan(("full", "plain"), (), {"esc50": "sound"}), table, [], tmp_path)
    rows = pd.read_csv(tmp_path / "ablation.csv").set_index(["task", "variant"])
    assert rows.loc[("esc50", "plain"), "mean"] == pytest.approx(0.4)
    assert rows.loc[("esc50", "plain"), "difference"] == pytest.approx(-0.15)
    assert rows.loc[("mean: real", "plain"), "mean"] == pytest.approx(0.6)


def test_the_answers_stand_first_in_markdown_and_are_returned(tmp_path: Path) -> None:
    sentences = tables.write(plan(("full", "plain", "wide"), (STEM, LOSS)), known(), runs(), tmp_path)
    text = (tmp_path / "ablation.md").read_text(encoding="utf-8")
    assert len(sentences) == 2
    for sentence in sentences:
        assert sentence in text.replace("**", "").partition("## Means")[0]
    assert "| plain | the plain one | 0." in text
    assert "| 1.5 | 2.00 | 3.0 |" in text  # minutes, million parameters, GFLOP
    for row in text.splitlines():
        assert "nan" not in row
        assert "None" not in row


def test_markdown_tables_have_as_many_cells_in_every_row(tmp_path: Path) -> None:
    planned = plan(("full", "plain"), (STEM,))
    odd = [Variant("full", {}, "a | b"), *planned.variants[1:]]
    tables.write(type(planned)(**{**vars(planned), "variants": tuple(odd)}), known(), runs(), tmp_path)
    table: list[int] = []
    for line in [*(tmp_path / "ablation.md").read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith("|"):
            table.append(line.replace("\\|", "").count("|"))
        else:
            assert len(set(table)) <= 1
            table = []


def test_answers_as_a_table(tmp_path: Path) -> None:
    written(tmp_path)
    rows = pd.read_csv(tmp_path / "answers.csv")
    assert rows[["question", "ahead", "of"]].to_numpy().tolist() == [
        ["stem", "full", "plain"],
        ["stem", "full", "wide"],
        ["loss", "full", "plain"],
    ]
    assert rows["tasks"].tolist() == [" ".join(MODULATION)] * 2 + [" ".join(REAL)]
    assert (rows["seeds"] == 3).all()


def test_equal_inputs_give_equal_bytes_and_nothing_is_no_error(tmp_path: Path) -> None:
    for name in ("a", "b"):
        written(tmp_path / name)
    for file in ("ablation.csv", "ablation.md", "answers.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    (sentence,) = tables.write(plan(), known().iloc[:0], [], tmp_path / "none")
    assert "undecided at this scale" in sentence
