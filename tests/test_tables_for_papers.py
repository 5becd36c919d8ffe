"""`rank` and `leaderboard --format`: what is printed, and that names are only text in it."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from record_factory import Model, small, write_records
from toys import Cli

from aape_bench.standings.texts import Block, Cell, Sheet, escaped, latex, markdown

ODD = "od_d%{}[x]&#$~^\\|*--''"
MODELS = [Model("strong", 2.2), Model("fair", 1.3), Model(ODD, 1.25), Model("weak", 0.1)]
DRAWN = Model("drawn_one", 0.1, weights="random")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    write_records(folder, [*MODELS, DRAWN], [small("esc50", 90, 6), small("gtzan", 80, 5)])
    write_records(folder, MODELS[:2], [small("us8k", 110, 4)], missing=10)
    return folder


def braces(text: str) -> int:
    """How many braces stay open, less those that are printed."""
    plain = re.sub(r"\\[{}]", "", text)
    return plain.count("{") - plain.count("}")


def test_latex_is_balanced_whatever_the_names(cli: Cli, results: Path) -> None:
    status, out, _ = cli("leaderboard", "--results-dir", results, "--format", "latex", "--published")
    assert status == 0
    assert braces(out) == 0
    for name in ("table", "tabular"):
        assert out.count(rf"\begin{{{name}}}") == out.count(rf"\end{{{name}}}") == 1
    assert [out.count(rf"\{rule}") for rule in ("toprule", "bottomrule")] == [1, 1]
    (columns,) = re.findall(r"\\begin\{tabular\}\{(l r*|lr*)\}", out)
    rows = [line for line in out.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns) - 1}
    odd = r"od\_d\%\{\}{[}x{]}\&\#\$\textasciitilde{}\textasciicircum{}\textbackslash{}\textbar{}{*}-{}-'{}'"
    assert f"\n{odd} & " in out
    for bare in ("%", "#", "$", "_"):  # nothing that LaTeX would take for more than text
        assert not re.search(rf"(?<!\\){re.escape(bare)}", "".join(rows))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex here")
def test_latex_compiles_whatever_the_names(tmp_path: Path) -> None:
    cells = [[Cell(ODD, True, ("published", "partial")), Cell("[1]")], [Cell("[x]"), Cell("*")], [Cell("*"), Cell("")]]
    text = latex(Sheet(ODD, ["model", ODD], [Block(ODD, cells), Block("", [])], [ODD + '"† ± − é <> ?` !`']))
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs}\begin{document}"
    (tmp_path / "d.tex").write_text(f"{head}\n{text}\n\\end{{document}}\n")
    line = ["pdflatex", "-draftmode", "-halt-on-error", "-interaction=nonstopmode", "d.tex"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-500:]


def test_bold_are_the_best_and_those_that_cannot_be_told_from_them(cli: Cli, results: Path) -> None:
    cells = list(csv.DictReader(io.StringIO(cli("leaderboard", "--results-dir", results, "--format", "csv")[1])))
    best = {(row["model"], row["task"]): row["rank_best"] for row in cells if row["class"] == ""}
    out = cli("leaderboard", "--results-dir", results, "--format", "markdown", "--no-intervals")[1]
    lines = {line.split(" | ")[0].strip("| "): line for line in out.splitlines() if line.startswith("| ")}
    assert best["strong", "esc50"] == "1" != best["weak", "esc50"]
    for model in ("strong", "fair", "weak"):
        for number, task in ((1, "esc50"), (2, "gtzan")):
            text = lines[model].split(" | ")[number]
            assert text.startswith("**") == (best[model, task] == "1"), (model, task, text)


def test_classes_stand_in_blocks_of_their_own_with_marks_and_a_legend(cli: Cli, results: Path) -> None:
    out = cli("leaderboard", "--results-dir", results, "--format", "markdown", "--published", "--task", "us8k",
              "--task", "esc50")[1]  # fmt: skip
    parts = re.split(r"^\| \*(.+?)\* \|.*$", out, flags=re.MULTILINE)
    blocks = dict(zip(["", *parts[1::2]], parts[::2], strict=True))
    assert "strong |" in blocks[""]
    assert "drawn" not in blocks[""]
    assert r"drawn\_one<sup>r</sup>" in blocks["random weights"]
    assert "strong<sup>p</sup>" in blocks["partial data"]
    assert "†" not in blocks[""] + blocks["random weights"] + blocks["partial data"]
    assert list(blocks)[-1] == "published by others"
    table, legend = blocks["published by others"].rsplit("|\n", 1)
    assert table.count("<sup>†</sup>") > 20
    assert "**" not in table
    for text in ("†: published by others", "p: on a part", "r: random weights", r"\[1\] "):
        assert text in legend


def test_rank_says_ranks_ties_pairs_and_means(cli: Cli, results: Path) -> None:
    status, out, err = cli("rank", "--results-dir", results)
    assert status == 0
    assert "esc50, linear, accuracy: 90 test clips in" in out
    assert "esc50, linear, accuracy (random weights)" in out
    assert "us8k, linear, accuracy (partial data): 100 test clips in" in out
    assert "Mean over 2 tasks by linear" in out
    assert "too few" in out or "are few" in out
    assert "after Holm" in err
    assert "not the tasks" in err
    (line,) = [line for line in out.splitlines() if line.startswith("strong ") and " 1 to 1 " in line][:1]
    assert line.split()[1] == "1"


def test_rank_as_csv_is_one_table_of_numbers(cli: Cli, results: Path) -> None:
    places, pairs, means = (
        list(csv.DictReader(io.StringIO(cli("rank", "--results-dir", results, "--show", show, "--format", "csv")[1])))
        for show in ("places", "pairs", "means")
    )
    assert len(places) == 2 * 5 + 2
    assert len(pairs) == 2 * 6 + 1
    assert {row["model"] for row in means} == {model.label for model in MODELS}
    assert {row["tasks"] for row in means} == {"esc50 gtzan"}
    for row in pairs:
        assert (row["apart"] == "1") == (float(row["p_holm"]) <= 0.05)
    status, _, err = cli("rank", "--results-dir", results, "--format", "csv")
    assert status == 2
    assert "--show places, pairs or means" in err


def test_two_versions_of_the_data_have_titles_and_columns_of_their_own(cli: Cli, tmp_path: Path) -> None:
    for clips in (40, 44):
        write_records(tmp_path, MODELS[:2], [small("gtzan", clips, 4)])
    titles = [line for line in cli("rank", "--results-dir", tmp_path)[1].splitlines() if line.startswith("gtzan")]
    assert len(set(titles)) == len(titles) == 2
    out = cli("leaderboard", "--results-dir", tmp_path, "--format", "markdown")[1]
    (head,) = [line for line in out.splitlines() if line.startswith("| model")]
    assert len(set(head.split(" | "))) == 3


def test_names_are_split_at_commas_that_are_not_a_labels_own(cli: Cli, tmp_path: Path) -> None:
    labels = "m[a=1,b=2]", "n", "o"
    write_records(tmp_path, [Model(label) for label in labels], [small("gtzan", 40, 4), small("esc50", 40, 4)])
    line = ("rank", "--results-dir", tmp_path, "--format", "csv", "--show", "places")
    out = cli(*line, "--model", "m[a=1,b=2],n", "--task", "gtzan,esc50")[1]
    found = {(row["model"], row["task"]) for row in csv.DictReader(io.StringIO(out))}
    assert found == {(label, task) for label in labels[:2] for task in ("gtzan", "esc50")}


def test_rank_refuses_what_is_not_there(cli: Cli, results: Path, tmp_path: Path) -> None:
    for arguments, says in (
        (("--results-dir", tmp_path), "There are no results in"),
        (("--results-dir", results, "--protocol", "linera"), 'Did you mean "linear"?'),
    ):
        status, _, err = cli("rank", *arguments)
        assert status == 2
        assert says in err
        assert len(err.strip().splitlines()) == 1


def test_cells_cannot_leave_their_cell() -> None:
    sheet = Sheet("a\nb | c", ["m", "x"], [Block("", [[Cell("a\n| b\x1b[31m"), Cell("1")], [Cell("*"), Cell("")]])])
    lines = markdown(sheet).splitlines()
    assert lines[0] == r"### a b \| c"
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines[2:]] == [3] * 4
    assert "\x1b" not in markdown(sheet) + latex(sheet)
    assert "\n{*} & " in latex(sheet)
    assert escaped("a---b") == "a-{}-{}-b"
