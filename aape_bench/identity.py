"""Names for content: two things with the same digest may stand for each other."""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aape_bench.errors import ModelError


def digest(value: Any) -> str:
    """SHA-256 (hex) of a value's canonical JSON; dataclasses count as their fields."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def canonical(value: Any) -> str:
    """The one JSON text of a value; dataclasses count as their fields."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def source_digest(modules: Iterable[str]) -> str:
    """SHA-256 (hex) over the code of modules, found by name without importing them.

    Comments, docstrings and layout do not count: only a change of code makes old results stale.
    """
    return digest({name: _code_digest(module_file(name)) for name in modules})


def files_digest(files: Iterable[Path], root: Path) -> str:
    """SHA-256 (hex) over the code of Python files, by their paths relative to `root`."""
    return digest({file.relative_to(root).as_posix(): _code_digest(file) for file in files})


def module_file(module: str) -> Path:
    """The source file of a module. Raises ModelError where there is none."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ModelError(
            f'The source of module "{module}" was not found, so results that depend on it cannot be '
            "identified. Correct the `sources` that the plugin declares."
        )
    return Path(spec.origin)


# read once: code edited while a run goes on is not the code that runs
@functools.cache
def _code_digest(file: Path) -> str:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return file_digest(file)  # an extension module, say: every byte counts
    return digest(_code_tree(tree))


def _code_tree(node: Any) -> Any:
    """A syntax tree as plain lists, less docstrings and whatever is empty: equal in every Python version."""
    if isinstance(node, list):
        return [_code_tree(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, []) and name != "ctx"}
    if _begins_with_text(fields.get("body")):
        fields["body"] = fields["body"][1:]
    return [type(node).__name__, *([name, _code_tree(value)] for name, value in sorted(fields.items()))]


def _begins_with_text(body: Any) -> bool:
    first = body[0] if isinstance(body, list) and body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} has no canonical form")
