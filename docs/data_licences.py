"""Writes data-licences.md beside this file from the task plugins: python docs/data_licences.py"""

from __future__ import annotations

from pathlib import Path

from aape_bench import registry

HEAD = """# Licences and citations of the data

No data set comes with aape-bench. Each has terms of its own, which `aape-bench tasks NAME` prints, too; whoever
downloads one agrees to them. Several forbid commercial use. Cite what you evaluate on.

This page is written by `docs/data_licences.py` from the tasks themselves, and a test fails where it is stale.
"""


def page() -> str:
    """The page: a section for each installed task of this project, those that need files first."""
    tasks = [registry.task(name) for name in registry.task_names()]
    own = [task for task in tasks if task.read.__module__.startswith("aape_bench.")]
    parts = [HEAD]
    for task in sorted(own, key=lambda one: (one.generator is not None, one.name)):
        if task.generator is not None:
            continue
        facts = {
            "Licence": task.licence,
            "Cite": task.citation,
            "Home": f"<{task.homepage}>",
            "To get it": task.by_hand,
        }
        lines = [f"- {name}: {_line(text)}" for name, text in facts.items() if text]
        parts.append(f"\n## `{task.name}`\n\n{task.title}.\n\n" + "\n".join(lines) + "\n")
    generated = [f"`{task.name}`" for task in own if task.generator is not None]
    parts.append(
        f"\n## Generated tasks\n\n{', '.join(sorted(generated))} are made from seeds by the code of this project and "
        "are under its licence, Apache-2.0.\n"
    )
    return "".join(parts)


def _line(text: str) -> str:
    """On one line, without meaning to Markdown where it is not an address in angle brackets."""
    text = " ".join(text.split())
    return text if text.startswith("<http") else text.replace("*", r"\*").replace("<", r"\<")


if __name__ == "__main__":
    Path(__file__).with_name("data-licences.md").write_text(page(), encoding="utf-8")
