"""A change of code is never served stale results: whatever computes them is part of their names.

The imports of the code that makes embeddings, and of the code that makes scores of them, are followed to the end. A
module that is reached has to be in the digest of what it decides, or below, with what of it may be used and why that
decides nothing.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hear_folders import SHORT, make_folder

from aape_bench import cache, identity, planning, records, runner, selection
from aape_bench.identity import module_file
from aape_bench.protocols import PROTOCOLS, trains_encoder

#: Module -> the names that may be imported from it (None: any), and why they decide no result.
LEFT_OUT: dict[str, tuple[set[str] | None, str]] = {
    "aape_bench.errors": (None, "an error ends the run: there is no result"),
    "aape_bench.task": (None, "declares fields; what a task puts there is in its data's fingerprint or in the key"),
    "aape_bench.metadata": ({"shown", "unquoted"}, "foreign text in messages"),
    "aape_bench.settings": ({"suggestion", "EXECUTION"}, "a hint in a message; a mark of fields, which is in the key"),
    "aape_bench.identity": ({"digest", "file_digest", "source_digest"}, "makes the names: other ones, if it changes"),
    "aape_bench.fits": ({"read_fit", "write_fit"}, "brings a fit to the disk and back as it is"),
    "aape_bench.storage": (
        {"atomic_write", "create_json", "remove_leftovers", "write_json", "safe_name"},
        "brings bytes to the disk as they are",
    ),
    "aape_bench.checkpoint": ({"RANDOM_WEIGHTS"}, "stands in the card of weights that are kept"),
    "aape_bench.file_stats": (None, "says that a file is another one than was hashed: then it is hashed anew"),
    "aape_bench.overlap": (None, "is said of a result, and in the card of weights that are kept"),
    "aape_bench.training": ({"Interrupted"}, "ends the run: there is no result yet"),
    "aape_bench.fitting.signals": (None, "ends the run between two steps"),
    "aape_bench.fitting.states": (None, "brings what resumes to the disk as it is; its form has a number"),
    "aape_bench.records": (None, "the form of records has a number, which is in the key: see below"),
    "aape_bench.environment": ({"peak_memory_mb", "versions"}, "is said of a result"),
    "aape_bench.cache": (
        {"EmbeddingEntry", "Making"},
        "the form of the cache has a number, which is in the address: see below",
    ),
}

SCORES = ("aape_bench.evaluate", "aape_bench.scenes", "aape_bench.moments")
EMBEDDINGS = ("aape_bench.clips", "aape_bench.embed")


def imports(module: str) -> Iterator[tuple[str, str]]:
    """(module of this package, name taken from it, "" for all of it), less what only type checkers see."""
    waiting: list[ast.AST] = [ast.parse(module_file(module).read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports by a relative name"
            found = [(str(node.module), alias.name) for alias in node.names]
            found = [(f"{of}.{name}", "") if _is_module(f"{of}.{name}") else (of, name) for of, name in found]
        else:
            continue
        yield from (one for one in found if one[0].split(".")[0] == "aape_bench")


def _is_module(name: str) -> bool:
    if not name.startswith("aape_bench."):
        return False
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def reached(start: Iterable[str]) -> tuple[set[str], set[tuple[str, str]]]:
    """The modules that `start` leads to, with itself, none of LEFT_OUT; and what is taken from those of LEFT_OUT."""
    waiting, found, left_out = list(start), set[str](), set[tuple[str, str]]()
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        for other, name in imports(module):
            if other in LEFT_OUT:
                left_out.add((other, name))
            else:
                waiting.append(other)
    return found, left_out


def of_protocol(name: str) -> tuple[str, ...]:
    return (*SCORES, PROTOCOLS[name])


def test_imports_are_found_wherever_they_stand() -> None:
    assert ("aape_bench.moments", "decide") in set(imports("aape_bench.evaluate"))  # inside a function
    assert ("aape_bench.metrics", "") in set(imports("aape_bench.evaluate"))  # `from aape_bench import metrics`
    assert "aape_bench.selection" not in {module for module, _ in imports("aape_bench.evaluate")}  # for types alone
    assert "aape_bench.protocols.perceptron" in reached(of_protocol("hear"))[0]
    assert "aape_bench.resampling" in reached(SCORES)[0]


def test_what_is_left_out_is_used_as_its_reason_says_and_no_longer_than_needed() -> None:
    taken = {one for name in PROTOCOLS for one in reached(of_protocol(name))[1]} | reached(EMBEDDINGS)[1]
    for module, name in taken:
        allowed, reason = LEFT_OUT[module]
        assert allowed is None or name in allowed, f"{name or 'all'} of {module}, but: {reason}"
    assert {module for module, _ in taken} == set(LEFT_OUT)


@pytest.fixture
def action(tmp_path: Path) -> Callable[[str], str]:
    """What it takes to have the result of a protocol that was run before."""
    folder = make_folder(tmp_path / "toy", clips=3)
    options = planning.Options(tmp_path, tmp_path / "cache", tmp_path / "results")

    def plan(*protocols: str) -> list[planning.Job]:
        jobs = []
        for name in protocols:
            model = "vit{blocks=1;width=16;heads=1}" if trains_encoder(name) else "logmel"
            models = selection.select_models([model], {}, "default", [0])
            chosen = planning.choose_protocols([name], SHORT.get(name, {"updates": "1", "batch": "2"}))
            jobs += planning.plan(models, selection.select_tasks([f"hear:{folder}"]), chosen, options)[0]
        return jobs

    assert not runner.run(plan(*PROTOCOLS), options).failures
    assert {job.action for job in plan(*PROTOCOLS)} == {"done"}
    return lambda protocol: plan(protocol)[0].action


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Takes the code of one module, and of no other, for changed."""
    honest = identity._code_digest

    def changed(module: str) -> None:
        file = module_file(module)
        monkeypatch.setattr(identity, "_code_digest", lambda one: "changed" if one == file else honest(one))

    return changed


def test_changed_code_is_run_again(action: Callable[[str], str], change: Callable[[str], None]) -> None:
    """Code of embeddings makes these anew, code of scores keeps them; of protocols only those that use it."""
    stale = []
    for protocol in PROTOCOLS:
        for module in sorted(reached(of_protocol(protocol))[0]):
            change(module)
            if action(protocol) == "done":
                stale.append(f"scores of {protocol}: {module}")
    for module in sorted(reached(EMBEDDINGS)[0]):
        change(module)
        if action("linear") != "embed":
            stale.append(f"embeddings: {module}")
    assert stale == []

    change("aape_bench.metrics")
    assert {name: action(name) for name in PROTOCOLS} == {
        name: "train" if trains_encoder(name) else "fit" for name in PROTOCOLS
    }
    change("aape_bench.protocols.perceptron")
    assert [name for name in PROTOCOLS if action(name) != "done"] == ["hear"]
    for other in ("aape_bench.cli", "aape_bench.report.plots", "aape_bench.compare"):
        change(other)
        assert action("linear") == "done"


def test_another_form_of_records_or_of_the_cache_is_another_name(
    action: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(records, "SCHEMA", records.SCHEMA + 1)
        assert action("knn") == "fit"
    assert action("knn") == "done"
    monkeypatch.setattr(cache, "_SCHEMA", cache._SCHEMA + 1)
    monkeypatch.setattr(records, "SCHEMA", records.SCHEMA + 1)
    assert action("knn") == "embed"
