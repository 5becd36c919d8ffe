"""Names for content: what changes a digest and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from aape_bench import identity
from aape_bench.errors import ModelError

CODE = """
def f(x):
    return f"{x!r}: {x + 1:.2f}"
"""


def code_digest(folder: Path, text: str) -> str:
    (folder / "m.py").write_text(text)
    identity._code_digest.cache_clear()
    return identity.files_digest([folder / "m.py"], folder)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (CODE.replace("def f(x):", 'def f(x):\n    """What it does."""'), True),
        (CODE + "\n\n# a remark\n", True),
        ('"""A module."""\n' + CODE, True),
        (CODE.replace("+ 1", "+ 2"), False),
        (CODE.replace(".2f", ".3f"), False),
        (CODE.replace("def f(x)", "def f(x=None)"), False),
        (CODE.replace("!r", "!s"), False),
    ],
)
def test_code_counts_and_words_about_it_do_not(tmp_path: Path, text: str, same: bool) -> None:
    assert (code_digest(tmp_path, text) == code_digest(tmp_path, CODE)) == same


def test_the_digest_of_code_is_that_of_every_python_version(tmp_path: Path) -> None:
    # computed with Python 3.11, 3.12 and 3.13
    assert code_digest(tmp_path, CODE)[:16] == "cf4d038bd72f30ef"


def test_a_digest_is_that_of_the_value_not_of_its_order() -> None:
    assert identity.digest({"a": 1, "b": [2, None]}) == identity.digest({"b": [2, None], "a": 1})
    assert identity.digest(1) != identity.digest(1.5)
    with pytest.raises(ValueError, match="JSON compliant"):
        identity.digest(float("nan"))


def test_a_module_without_source_is_named() -> None:
    with pytest.raises(ModelError, match=r"no\.such\.module"):
        identity.source_digest(["no.such.module"])
