"""Tables as text for papers: Markdown, LaTeX (booktabs) and CSV. Whatever stands in a cell is only text there."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: Mark of a cell -> how it is written in Markdown and in LaTeX.
MARKS = {
    "published": ("†", r"\dag{}"),
    "partial": ("p", "p"),
    "random": ("r", "r"),
    "overlap": ("o", "o"),
}

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "_": r"\_", "%": r"\%", "#": r"\#", "&": r"\&", "$": r"\$",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
        "|": r"\textbar{}", '"': r"\textquotedbl{}", "\u2212": "$-$", "\u00b1": r"$\pm$", "\u2020": r"\dag{}",
        # after the end of a row, an argument of it
        "[": "{[}", "]": "{]}", "*": "{*}",
        "`": r"\textasciigrave{}",
    }
)  # fmt: skip
_MARKDOWN = str.maketrans({mark: f"\\{mark}" for mark in "\\|*_`[]<>#~&$"})


@dataclass(frozen=True)
class Cell:
    """A cell. marks: names of MARKS, raised behind the text."""

    text: str
    bold: bool = False
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """Rows that may be compared with each other; the heading is empty for those that need none."""

    heading: str
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Sheet:
    """One table. notes: what stands below it."""

    title: str
    heads: Sequence[str]
    blocks: Sequence[Block]
    notes: Sequence[str] = ()


def markdown(sheet: Sheet) -> str:
    """A table of GitHub's Markdown under a heading; the first column is of names, the others of numbers."""
    width = len(sheet.heads)
    lines = [f"### {_plain(sheet.title).translate(_MARKDOWN)}", "", _bar(_md(Cell(head)) for head in sheet.heads)]
    lines.append(_bar(["---"] + ["---:"] * (width - 1)))
    for block in sheet.blocks:
        if block.heading:
            lines.append(_bar([f"*{_plain(block.heading).translate(_MARKDOWN)}*"] + [""] * (width - 1)))
        lines += [_bar(_md(cell) for cell in row) for row in block.rows]
    lines += ["", *(f"{_plain(note).translate(_MARKDOWN)}  " for note in sheet.notes)]
    return "\n".join(lines).rstrip() + "\n"


def latex(sheet: Sheet) -> str:
    """A table environment; its document needs `booktabs`, and `[T1]{fontenc}` where a name holds a quotation mark."""
    width = len(sheet.heads)
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(sheet.title)}}}",
        rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}",
        r"\toprule",
        " & ".join(escaped(head) for head in sheet.heads) + r" \\",
    ]
    for block in sheet.blocks:
        lines.append(r"\midrule")
        if block.heading:
            lines.append(rf"\multicolumn{{{width}}}{{l}}{{\emph{{{escaped(block.heading)}}}}} \\")
        lines += [" & ".join(_tex(cell) for cell in row) + r" \\" for row in block.rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\smallskip{{\footnotesize {escaped(note)}\par}}" for note in sheet.notes]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def comma_separated(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """CSV; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows([["" if cell is None else cell for cell in row] for row in rows])
    return text.getvalue()


def escaped(text: str) -> str:
    """Any text as LaTeX that prints it."""
    text = _plain(text).translate(_LATEX)
    # two in a row would join into a longer dash, or a quotation mark
    return text.replace("--", "-{}-").replace("--", "-{}-").replace("''", "'{}'").replace("''", "'{}'")


def legend(marks: Sequence[str]) -> str:
    """What the marks mean."""
    said = {
        "published": "published by others, not measured here",
        "partial": "on a part of the data",
        "random": "random weights",
        "overlap": "pre-training saw the task's audio",
    }
    return "; ".join(f"{MARKS[mark][0]}: {said[mark]}" for mark in MARKS if mark in marks)


def _bar(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _md(cell: Cell) -> str:
    text = _plain(cell.text).translate(_MARKDOWN)
    raised = "".join(MARKS[mark][0] for mark in cell.marks)
    return (f"**{text}**" if cell.bold and text else text) + (f"<sup>{raised}</sup>" if raised else "")


def _tex(cell: Cell) -> str:
    text = escaped(cell.text)
    raised = "".join(MARKS[mark][1] for mark in cell.marks)
    return (rf"\textbf{{{text}}}" if cell.bold and text else text) + (
        rf"\textsuperscript{{{raised}}}" if raised else ""
    )


def _plain(text: str) -> str:
    """On one line, without what only controls a terminal."""
    return " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())
