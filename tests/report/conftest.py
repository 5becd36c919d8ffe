"""A site of made-up results; shared by all tests of it, who change neither."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_site import MODELS
from record_factory import small, write_records

from aape_bench.progress import Silent
from aape_bench.report.site import build


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made-up")
    tasks = [small("esc50", 60, 5), small("cremad", 48), small("as20k", 40, 6)]
    write_records(folder, MODELS, tasks, ("linear", "knn"))
    return folder


@pytest.fixture(scope="session")
def site(made_up: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    build(made_up, out, Silent())
    return out
