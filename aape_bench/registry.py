"""Names of models, tasks and commands -> entry points, loaded on use. The only place that reaches plugins.

A name of ours stays ours, whoever else offers it; one that two other packages offer is neither's. Both are said, and
everything else works.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aape_bench
from aape_bench.errors import BenchError, UsageError
from aape_bench.plugin import EncoderPlugin
from aape_bench.settings import suggestion
from aape_bench.task import Task

if TYPE_CHECKING:
    import typer

    from aape_bench.exporting.graphs import Graph
    from aape_bench.hub import HubFamily

MODELS = "aape_bench.models"
TASKS = "aape_bench.tasks"
COMMANDS = "aape_bench.commands"
GRAPHS = "aape_bench.graphs"
HUB = "aape_bench.hub"

#: What each group's entry points are, in messages.
_KINDS = {MODELS: "model", TASKS: "task", COMMANDS: "command", GRAPHS: "graph", HUB: "architecture"}
#: Words that stand for something else where models and tasks are named.
_RESERVED = ("all", "default", "random")


@dataclass(frozen=True)
class Broken:
    """An entry point that is not used, and why."""

    name: str
    reason: str


def model_names() -> list[str]:
    """Registered encoder names, sorted; nothing is imported."""
    return sorted(_entries(MODELS)[0])


def task_names() -> list[str]:
    """Registered task names, sorted; nothing is imported."""
    return sorted(_entries(TASKS)[0])


def model(name: str) -> EncoderPlugin:
    """The encoder plugin of that name. Raises UsageError with a suggestion where there is none."""
    return _load(MODELS, name, EncoderPlugin)  # type: ignore[no-any-return]


def task(name: str) -> Task:
    """The task of that name. Raises UsageError with a suggestion where there is none."""
    return _load(TASKS, name, Task)  # type: ignore[no-any-return]


def every_model() -> tuple[list[EncoderPlugin], list[Broken]]:
    """All encoder plugins that load, and those that do not, or are not used, with the reason."""
    return _load_all(MODELS, model)


def every_task() -> tuple[list[Task], list[Broken]]:
    """All tasks that load, and those that do not, or are not used, with the reason."""
    return _load_all(TASKS, task)


def hub_names() -> list[str]:
    """Architectures of hub models that can be run, sorted; nothing is imported."""
    return sorted(_entries(HUB)[0])


def hub_family(name: str) -> HubFamily:
    """How hub models of that architecture are run. Raises UsageError where it cannot be loaded."""
    from aape_bench.hub import HubFamily

    return _load(HUB, name, HubFamily)  # type: ignore[no-any-return]


def graph(name: str) -> Callable[[Any], Graph]:
    """What makes a graph for ONNX of that model's encoders. Raises UsageError where the model has none."""
    from types import FunctionType

    if name not in (known := _entries(GRAPHS)[0]):
        raise UsageError(f'The model "{name}" has no ONNX form. These have: {", ".join(sorted(known))}.')
    return _load(GRAPHS, name, FunctionType)  # type: ignore[no-any-return]


def command_names() -> list[str]:
    """Registered names of further commands, sorted; nothing is imported."""
    return sorted(_entries(COMMANDS)[0])


def command(name: str) -> typer.Typer:
    """The Typer app of that command. Raises UsageError where it cannot be loaded."""
    import typer

    return _load(COMMANDS, name, typer.Typer)  # type: ignore[no-any-return]


def command_summary(name: str) -> str:
    """A command's line in the help, read from the source of its module; nothing is imported.

    That is the `help` of the Typer app that the entry point names, or the first line of the docstring of the function
    that it makes a command. "" where the source says neither, cannot be read or is not there.
    """
    entry = _entries(COMMANDS)[0][name]
    try:
        source = _source(entry.module)
        lines = "" if source is None else _help_in(ast.parse(source.read_bytes()), entry.attr)
    except Exception:  # a third party's package may be broken in any way; the help must go on
        return ""
    return (lines.strip().splitlines() or [""])[0]


def _source(module: str) -> Path | None:
    """The file of a module, found as an import would find it, without importing its packages."""
    where: Sequence[str] | None = None
    found = None
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        specs = (finder.find_spec(name, where) for finder in sys.meta_path)
        found = next((spec for spec in specs if spec is not None), None)
        if found is None:
            return None
        where = None if found.submodule_search_locations is None else list(found.submodule_search_locations)
    return None if found is None or found.origin is None else Path(found.origin)


def _help_in(tree: ast.Module, app: str) -> str:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            given = [keyword.value for keyword in node.value.keywords if keyword.arg == "help"]
            if app in names and given:
                return str(ast.literal_eval(given[0]))
        if isinstance(node, ast.FunctionDef):
            makers = [made.func for made in node.decorator_list if isinstance(made, ast.Call)]
            if any(ast.unparse(maker) == f"{app}.command" for maker in makers):
                return ast.get_docstring(node) or ""
    return ""


def _load_all(group: str, load: Any) -> tuple[list[Any], list[Broken]]:
    entries, unused = _entries(group)
    loaded, broken = [], list(unused)
    for name in sorted(entries):
        try:
            loaded.append(load(name))
        except BenchError as error:
            broken.append(Broken(name, str(error)))
    return loaded, broken


@cache
def _entries(group: str) -> tuple[dict[str, EntryPoint], list[Broken]]:
    """A group's entry points by name, and those that are not used."""
    offered: dict[str, dict[str, EntryPoint]] = {}
    for entry in entry_points(group=group):
        offered.setdefault(entry.name, {})[entry.value] = entry  # one package may be listed twice
    used, unused = {}, []
    for name, by_value in sorted(offered.items()):
        entries = [entry for _, entry in sorted(by_value.items())]
        ours = [entry for entry in entries if _package(entry) == "aape-bench"]
        others = [entry for entry in entries if entry not in ours]
        what = f'{_KINDS[group]} "{name}"'
        if not _is_name(group, name):
            unused.append(
                Broken(
                    name,
                    f"The {what} of {_offers(others)} cannot be named on the command line: a name is of letters, "
                    f"digits, _, ., + and -, no file's, and none of {', '.join(_RESERVED)}. Rename it, or uninstall "
                    "the package.",
                )
            )
        elif ours:
            used[name] = ours[0]
            if others:
                unused.append(
                    Broken(
                        name,
                        f"The {what} of {_offers(others)} has the name of one that comes with aape-bench, which is "
                        "used. Rename the other, or uninstall its package.",
                    )
                )
        elif len(others) > 1:
            unused.append(
                Broken(
                    name,
                    f"The {what} is offered by {_offers(others)}: neither is used. Uninstall one of the packages.",
                )
            )
        else:
            used[name] = others[0]
    return used, unused


def _is_name(group: str, name: str) -> bool:
    words = _RESERVED if group in (MODELS, TASKS) else ()
    return re.fullmatch(r"\w[\w.+-]*", name) is not None and not name.endswith(".py") and name not in words


def _offers(entries: Sequence[EntryPoint]) -> str:
    return " and ".join(f"the package {_package(entry)} ({entry.value})" for entry in entries)


def _package(entry: EntryPoint) -> str:
    """The name of the distribution that offers it, as PyPI writes names."""
    return re.sub(r"[-_.]+", "-", entry.dist.name).lower() if entry.dist is not None else "of no name"


def _load(group: str, name: str, expected: type) -> Any:
    entries, unused = _entries(group)
    kind = _KINDS[group]
    if name not in entries:
        if refused := [broken for broken in unused if broken.name == name]:
            raise UsageError(refused[0].reason)
        raise UsageError(f'There is no {kind} "{name}".{suggestion(name, entries)}{_checkout_hint()}')
    entry = entries[name]
    try:
        plugin = entry.load()
    except BenchError:
        raise
    except (Exception, SystemExit) as error:  # a third party's module may fail in any way; the others must go on
        hint = _checkout_hint()
        raise UsageError(
            f'The {kind} "{name}" could not be loaded from {entry.value}: {type(error).__name__}: {error}.'
            + (hint or " Mend or uninstall the package that offers it.")
        ) from error
    if not isinstance(plugin, expected):
        raise UsageError(
            f'The entry point {entry.value} of {kind} "{name}" is a {type(plugin).__name__}, not a '
            f"{expected.__name__}. Mend or uninstall the package that offers it."
        )
    # records carry its own name
    if (own := getattr(plugin, "name", name)) != name:
        raise UsageError(
            f'The {kind} "{name}" of {entry.value} calls itself "{own}". Mend the package that offers it: both names '
            "have to be one."
        )
    return plugin


def _checkout_hint() -> str:
    package = Path(aape_bench.__file__).parent
    beside = package.parent
    if (package / "models").exists() or not (beside / "pyproject.toml").is_file():
        return ""
    if _built_in_models_found():
        return ""
    return (
        f" Python was started inside a source checkout ({beside}), whose bare folder hides the installed "
        "package. Start it from another folder, use the command aape-bench, or install the checkout with "
        "pip install -e ."
    )


def _built_in_models_found() -> bool:
    from importlib.util import find_spec

    return find_spec("aape_bench.models") is not None
