"""Third parties' plugins: found through entry points; a broken one is reported and passed over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aape_bench import registry
from aape_bench.errors import UsageError

PLUGIN = """
import torch
from aape_bench.encoder import Encoder
from aape_bench.plugin import EncoderPlugin

class Loudness(Encoder):
    sample_rate, scene_embedding_size, timestamp_embedding_size = 16000, 2, 2
    takes_lengths = False
    def scene_embeddings(self, audio, lengths=None):
        return torch.stack([audio.abs().mean(1), audio.std(1)], 1)

plugin = EncoderPlugin(
    "loudness", "how loud it is", lambda config, seed: Loudness(), sources=(__name__,), has_weights=False
)
not_a_plugin = 3
"""


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package as pip would leave it: a module and its dist-info with entry points."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "loudness_plugin.py").write_text(PLUGIN)
    about = tmp_path / "site" / "loudness-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: loudness\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[aape_bench.models]\nloudness = loudness_plugin:plugin\nodd = loudness_plugin:not_a_plugin\n"
        "gone = no_such_module:plugin\nleaving = leaving_plugin:plugin\n"
    )
    (tmp_path / "site" / "leaving_plugin.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    registry._entries.cache_clear()
    yield
    registry._entries.cache_clear()


@pytest.mark.usefixtures("third_party")
def test_a_plugin_appears_and_the_broken_are_reported() -> None:
    plugins, broken = registry.every_model()
    assert {"aape", "logmel", "vit", "loudness"} <= {plugin.name for plugin in plugins}
    reasons = {entry.name: entry.reason for entry in broken}
    assert set(reasons) == {"odd", "gone", "leaving"}
    assert "SystemExit" in reasons["leaving"]
    assert "is a int, not a EncoderPlugin" in reasons["odd"]
    assert "no_such_module" in reasons["gone"]


@pytest.mark.usefixtures("third_party")
def test_a_plugin_runs_like_a_built_in_one(cli, small_esc50: Path) -> None:  # type: ignore[no-untyped-def]
    line = ("--task", "esc50", "--data-dir", small_esc50, "--allow-partial")
    status, out, err = cli("run", "--model", "loudness", *line)
    assert status == 0, err
    assert "loudness" in out
    status, _, err = cli("run", "--model", "gone", *line)
    assert status == 2
    assert "no_such_module" in err
    _, out, err = cli("models")
    assert "how loud it is" in out
    assert err.count("Skipped:") == 3


def test_names_without_a_plugin_get_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r'There is no task "esc55"\. Did you mean "esc50"'):
        registry.task("esc55")
