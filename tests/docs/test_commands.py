"""Every command of README.md and docs/ runs, or where it cannot here at least parses, its settings included."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from doc_pages import PAGES, ROOT, Block, Command, blocks

from aape_bench import cli, planning, registry, selection
from aape_bench.settings import make_config, split_assignments

Cli = Callable[..., tuple[int, str, str]]

#: The template's page is of a package that has to be installed: tests/test_plugin_template.py does what it says.
RUN = [page for page in PAGES if "plugin-template" not in page.parts]


@pytest.fixture(scope="module")
def home(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose ~/data holds the small real data sets."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "data").symlink_to(real_data)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embeddings of all pages, in whichever of pytest-xdist's processes they are tested."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "documentation"


@pytest.fixture(autouse=True)
def _what_is_installed_afterwards() -> Iterator[None]:
    """Forgets what a page has installed."""
    yield
    registry._entries.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_commands_of_a_page_do_what_it_says(
    page: Path, home: Path, cache: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, in one empty folder, in which results/ is."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AAPE_BENCH_CACHE_DIR", str(cache))
    for kind in ("DATA", "RESULTS"):
        monkeypatch.delenv(f"AAPE_BENCH_{kind}_DIR")
    for block in blocks(page):
        if block.title is not None:
            (work / block.title).parent.mkdir(parents=True, exist_ok=True)
            (work / block.title).write_text(block.text)
        elif block.language == "python" and block.reason is None:
            exec(compile(block.text, block.where, "exec"), {})
        for command in block.commands:
            status = block.status if command is block.commands[-1] else 0
            _do(command, block, status, work, cli, monkeypatch)


def _do(command: Command, block: Block, status: int, work: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *rest = command.words
    where = f"{block.where}: {' '.join(command.words)}"
    words = [re.sub(r"^~(?=/)", str(Path.home()), word) for word in rest]
    if program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words if "=" not in word} <= set(targets), where
    elif program == "pip" and words == ["install", "."]:
        _install(work, monkeypatch)
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        asked = {extra for word in words for group in re.findall(r"\[(.+)\]", word) for extra in group.split(",")}
        assert asked <= set(extras), where
    elif program in ("torchrun", "srun"):
        assert block.reason, where
        at = words.index("aape_bench")
        _parse(words[at + 1 :], where)
    elif program == "aape-bench" and block.reason:
        _parse(words, where)
    elif program == "aape-bench":
        got, out, err = cli(*words)
        assert got == status, f"{where}\n{err}"
        if command.output is not None:
            (work / command.output).write_text(out)
        real = "\n".join(_shape(line) for line in (out + err).splitlines()) + "\n..."
        for line in command.printed:  # a long line stands on several in the page
            assert _shape(line) in real, f"{where} does not print: {line}\nbut\n{out}\n{err}"
    else:
        assert block.reason, f"{where}: the tests do not know {program}; say above the block why it is not run"


def _shape(line: str) -> str:
    """A line with one space for several and 0 for each number or hash, which another machine may have otherwise."""
    line = re.sub(r"\b[0-9a-f]{8,}\b", "0", line.replace(str(Path.home()), "~"))
    return " ".join(re.sub(r"[-+−]?\d+(\.\d+)?", "0", line).split())


def _install(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package that the page's files are, as pip installs it without a network."""
    site = work / "site-packages"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--target", str(site)]
    done = subprocess.run([*pip, *offline, "."], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    monkeypatch.syspath_prepend(str(site))
    registry._entries.cache_clear()


def _parse(words: Sequence[str], where: str) -> None:
    """Options and their values, the names of models, tasks and protocols, and every setting."""
    command: Any = typer.main.get_command(cli.app)
    rest = list(words)
    context = command.make_context("aape-bench", rest)
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    values = context.params
    settings = split_assignments(";".join(values.get("set_") or []))
    if command.name == "pretrain":
        from aape_bench.models.aape.pretrain.commands import configs

        configs(values["preset"], values["set_"] or [], values["steps"])
        return
    if command.name == "profile":
        return
    model = values.get("model") or []
    named = [model] if isinstance(model, str) else model
    for text, given, _ in selection.read_models(named, settings, values.get("weights", "default")) if named else ():
        if text in registry.model_names():
            make_config(registry.model(text).config, given, where)
    tasks = [name for name in selection.split_names(values.get("task") or []) if not name.startswith("hear:")]
    if tasks and command.name in ("run", "stability"):
        selection.select_tasks(tasks)
    if command.name == "run":
        given = split_assignments(";".join(values["protocol_set"] or []))
        planning.choose_protocols(selection.split_names(values["protocol"]), given)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("run --model logmel --task esc50 --protocl knn", "protocl"),
        ("run --model aape --set windw=gaussian --task esc50", "windw"),
        ("run --model logmel --task esc50 --protocol hear --protocol-set gird=faster", "gird"),
        ("run --model logmel --task esc51", "esc51"),
        ("pretrain --audio a --out b --set model.windw=gaussian", "windw"),
        ("leaderbord", "leaderbord"),
        ("records verfy results", "verfy"),
    ],
)
def test_what_is_parsed_only_must_exist(line: str, says: str) -> None:
    with pytest.raises(Exception, match=says):
        _parse(line.split(), "here")


def test_the_settings_of_a_shell_are_understood(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ a 'b;c' \\\n    d && e > f  # g\nprinted\n```\n")
    (block,) = blocks(page)
    assert block.commands == (Command(("a", "b;c", "d")), Command(("e",), "f", ("printed",)))


def test_no_folder_of_this_machine_is_named() -> None:
    for page in PAGES:
        assert not re.search(r"(?<!\w)/(work|tmp|home|root|opt|mnt)/", page.read_text()), page
    assert os.sep == "/"
