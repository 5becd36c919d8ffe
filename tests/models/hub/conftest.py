"""A small hub model of one's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def _saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from hub_models import save

    return save("wav2vec2", tmp_path_factory.mktemp("hub") / "tiny")


@pytest.fixture
def tiny(_saved: Path, tmp_path: Path) -> Path:
    """A folder of one's own with a small wav2vec 2.0."""
    return Path(shutil.copytree(_saved, tmp_path / "tiny"))
