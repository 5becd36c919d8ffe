"""Texts that name several things: split at marks, unless a backslash before one takes it as it is."""

from __future__ import annotations

import re

from aape_bench.errors import UsageError

_MARKS = r",;{}\\"
_TOKEN = re.compile(rf"\\[{_MARKS}]|.", re.DOTALL)
_NAMED = re.compile(rf"((?:\\[{_MARKS}]|[^{{])*+)(?:\{{(.*)\}})?", re.DOTALL)


def split(text: str, mark: str) -> list[str]:
    """The parts between marks that stand outside braces, without blanks around them; escapes stay.

    Raises UsageError where braces do not match.
    """
    parts, depth = [""], 0
    for token in _TOKEN.findall(text):
        depth += (token == "{") - (token == "}")
        if depth < 0:
            break
        if token == mark and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    if depth != 0:
        raise UsageError(
            f'The braces in "{text}" do not match. A backslash before one, such as \\{{, takes it as it is.'
        )
    return [part.strip() for part in parts]


def cut_settings(text: str) -> tuple[str, str | None]:
    """`NAME{SETTINGS}` -> the name, plain, and what stands in its braces, escaped; None: it has none.

    Raises UsageError where anything follows the braces.
    """
    if (found := _NAMED.fullmatch(text)) is None:
        raise UsageError(f'The model "{text}" should end with its closing brace: NAME{{key=value;...}}.')
    return plain(found[1].strip()), found[2]


def plain(text: str) -> str:
    """The text as it is meant: backslashes that stand before a mark left out."""
    return re.sub(rf"\\([{_MARKS}])", r"\1", text)


def escaped(text: str) -> str:
    """The text with a backslash before every mark: it names one thing."""
    return re.sub(rf"([{_MARKS}])", r"\\\1", text)
