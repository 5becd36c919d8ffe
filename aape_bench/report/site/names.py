"""Where a page is: names of files that need no quoting in a link."""

from __future__ import annotations

import re

from aape_bench.identity import digest


def model_page(label: str) -> str:
    """File of a model's page, relative to the site."""
    return f"models/{page_name(label)}.html"


def task_page(name: str) -> str:
    """File of a task's page, relative to the site."""
    return f"tasks/{page_name(name)}.html"


def page_name(name: str) -> str:
    """Part of a file name that needs no quoting in a link; different names never share one."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60]
    # names that differ in case are one file on some disks, and one that looks hashed may be that of another
    own = plain and plain == name.lower() == name and not re.search("-[0-9a-f]{8}$", name)
    return plain if own else f"{plain}-{digest(name)[:8]}"
