"""The pages agree with each other and with what they describe: links, names, options, settings, fields, licences."""

from __future__ import annotations

import dataclasses
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from doc_pages import DOCS, PAGES, ROOT, blocks, prose

from aape_bench import cli, registry
from aape_bench.exchange.shape import RECORD
from aape_bench.hub import HubConfig
from aape_bench.models.aape.pretrain.config import PretrainConfig
from aape_bench.protocols import PROTOCOLS, protocol
from aape_bench.settings import describe

SITE = [page for page in PAGES if page.parent == DOCS]


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its full name, of plugins too."""

    def inside(group: Any, name: str) -> Iterator[tuple[str, Any]]:
        for own, command in group.commands.items():
            if hasattr(command, "load"):
                command = command.load()
            full = f"{name} {own}".strip()
            yield from inside(command, full) if hasattr(command, "commands") else [(full, command)]

    return inside(typer.main.get_command(cli.app), "")


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """mkdocs follows every link and anchor between the pages."""
    pytest.importorskip("mkdocs")
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "first-run.html").is_file()


def test_every_page_stands_in_the_navigation() -> None:
    listed = re.findall(r"\S+\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(page.name for page in SITE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            heads = re.findall(r"(?m)^#+ (.+)$", prose(there))
            plain = [re.sub(r"[^\w\s-]", "", head).strip().lower() for head in heads]
            assert anchor in {re.sub(r"[-\s]+", "-", head) for head in plain}, f"{page.name}: {target}"


def test_every_command_is_shown_on_a_page() -> None:
    lines = [" ".join(command.words) for page in PAGES for block in blocks(page) for command in block.commands]
    for name, _ in commands():
        assert any(line.startswith(f"aape-bench {name}") for line in lines), name


def test_options_and_settings_that_the_text_names_exist() -> None:
    options = {
        option for _, command in commands() for one in command.params for option in one.opts + one.secondary_opts
    }
    foreign = {"--nproc-per-node", "--nnodes", "--install-completion", "--version", "--help", "--no-deps"}
    settings = {name for one in registry.every_model()[0] for name, _, _ in describe(one.config)}
    settings |= {name for one in PROTOCOLS for name, _, _ in describe(protocol(one).Settings)}
    settings |= {field.name for config in (PretrainConfig, HubConfig) for field in dataclasses.fields(config)}
    for page in PAGES:
        for code in re.findall(r"`([^`\n]+)`", prose(page)):
            if re.match(r"(pip|make|python|hf|torchrun|HEAREVAL)\b", code):
                continue
            for option in re.findall(r"(?<!\S)--[a-z][\w-]*", code):
                assert option in options | foreign, f"{page.name}: {code}"
            for name in re.findall(r"(?:^|[ {;.])([a-z]\w*)=", code):
                assert name in {*settings, "key", "weights"}, f"{page.name}: {code}"


def test_code_blocks_say_what_they_are() -> None:
    """A block without a language is not run, nor is one whose language no test knows."""
    for page in PAGES:
        for block in blocks(page):
            assert block.language in ("sh", "console", "python", "toml", "json", "text"), block.where
            if block.language == "text":
                assert "aape-bench " not in block.text, block.where


def test_the_extras_are_those_of_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    listed = re.findall(r"(?m)^\| `\.\[(\w+)\]`", (DOCS / "install.md").read_text())
    assert sorted(listed) == sorted(extras)


def test_the_schema_page_has_every_field() -> None:
    def fields(shape: Any, name: str = "") -> Iterator[str]:
        for own, part in shape.items():
            full = f"{name}.{own.removesuffix('?')}".strip(".")
            nested = isinstance(part, dict) and full.count(".") == 0
            yield from fields(part, full) if nested else [full]

    text = (DOCS / "record-schema.md").read_text().partition("## The predictions")[0]
    documented = re.findall(r"(?m)^\| `([a-z_.0-9]+)` \| \w", text)
    assert set(fields(RECORD)) <= set(documented)
    assert set(documented) - set(fields(RECORD)) <= {"treatment.crop"}  # written, and not asked for by verify


def test_the_licences_are_those_of_the_tasks() -> None:
    written = runpy.run_path(str(DOCS / "data_licences.py"))["page"]()
    assert (DOCS / "data-licences.md").read_text() == written, "run: python docs/data_licences.py"


def test_pictures_are_small_and_used() -> None:
    used = {name for page in SITE for name in re.findall(r"\]\(figures/([^)]+)\)", page.read_text())}
    assert used == {path.name for path in (DOCS / "figures").iterdir()}
    assert all((DOCS / "figures" / name).stat().st_size < 300_000 for name in used)


def test_the_versions_agree() -> None:
    import aape_bench

    assert f"\nversion: {aape_bench.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{aape_bench.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
