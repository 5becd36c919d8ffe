"""The documentation as the tests read it: pages, fenced blocks, and the commands in them.

A block of `sh` is commands, one a line; a block of `console` is commands after `$ ` with what they print below each. A
comment before a block changes what the tests do with it:

    <!-- not run: REASON -->   its commands are parsed, with their settings, and not run
    <!-- exit status N -->     what its last command ends with (0 unless said)
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "docs/plugin-template/README.md")),
    *sorted(DOCS.glob("*.md")),
]

_FENCE = re.compile(r"^(?P<marks>`{3,})(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\s*$")
_COMMENT = re.compile(r"^<!-- (?:not run: (?P<reason>.+?)|exit status (?P<status>\d+)) -->$")


@dataclass(frozen=True)
class Command:
    """words: as a shell would split them; `output`: of which file `>` makes it. printed: what the page shows of it."""

    words: tuple[str, ...]
    output: str | None = None
    printed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """A fenced block. line: of its fence. title: the file that it is. reason: why it is not run, or None."""

    page: Path
    line: int
    language: str
    title: str | None
    text: str
    reason: str | None
    status: int
    commands: tuple[Command, ...] = field(default=())

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    reason, status, at = None, 0, 0
    while at < len(lines):
        if comment := _COMMENT.match(lines[at]):
            reason, status = comment["reason"] or reason, int(comment["status"] or status)
        elif fence := _FENCE.match(lines[at]):
            end = lines.index(fence["marks"], at + 1)
            inside = lines[at + 1 : end]
            commands = _commands(fence["language"], inside)
            text = "\n".join(inside) + "\n"
            found.append(Block(page, at + 1, fence["language"], fence["title"], text, reason, status, commands))
            at = end
            reason, status = None, 0
        elif lines[at].strip():
            reason, status = None, 0
        at += 1
    return found


def prose(page: Path) -> str:
    """The page without its fenced blocks, which become empty lines."""
    kept, marks = [], None
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = _FENCE.match(line)
        if marks is None and fence:
            marks = fence["marks"]
            kept.append("")
        else:
            kept.append("" if marks else line)
            marks = None if line == marks else marks
    return "\n".join(kept)


def _commands(language: str, lines: list[str]) -> tuple[Command, ...]:
    if language == "sh":
        texts = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
        return tuple(command for text in texts for command in _split(text))
    found: list[Command] = []
    if language == "console":
        text, printed = None, list[str]()
        for line in [*re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines(), "$ "]:
            if line.startswith("$ "):
                if text is not None:
                    *before, last = _split(text)
                    found += [*before, Command(last.words, last.output, tuple(printed))]
                text, printed = line[2:], []
            else:
                printed.append(line)
    return tuple(found)


def _split(text: str) -> list[Command]:
    """One line of a shell: words, `&&`, `> FILE` and comments, nothing else."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars="&|>")
    lexer.whitespace_split = True
    found, words, output = [], list[str](), None
    tokens = iter([*lexer, "&&"])
    for token in tokens:
        if token == "&&":
            if words:
                found.append(Command(tuple(words), output))
            words, output = [], None
        elif token == ">":
            output = next(tokens)
        else:
            assert not set(token) <= set("&|>"), f"the tests do not understand {token} in: {text}"
            words.append(token)
    return found
