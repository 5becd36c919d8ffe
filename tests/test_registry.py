"""Third parties' plugins: found through entry points; a broken one is reported and passed over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aape_bench import registry
from aape_bench.errors import UsageError
from aape_bench.selection import select_tasks

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

class Failing(Loudness):
    def scene_embeddings(self, audio, lengths=None):
        raise RuntimeError("my bug")

class Lazy(Loudness):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.LazyLinear(2)

def offer(name, build):
    return EncoderPlugin(name, "", lambda config, seed: build(), sources=(__name__,))

failing, nothing, lazy = offer("failing", Failing), offer("nothing", lambda: None), offer("lazy", Lazy)
"""

#: Names of models that nobody could name.
UNUSABLE = ["all", "default", "two words", "a,b", "hear:x", "x.py", ""]


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
        "failing = loudness_plugin:failing\nnothing = loudness_plugin:nothing\nlazy = loudness_plugin:lazy\n"
        "logmel = loudness_plugin:plugin\n"  # a name of ours
        "shared = loudness_plugin:plugin\nanother = loudness_plugin:plugin\n"
        "all = loudness_plugin:plugin\ndefault = loudness_plugin:plugin\ntwo words = loudness_plugin:plugin\n"
        "a,b = loudness_plugin:plugin\nhear:x = loudness_plugin:plugin\nx.py = loudness_plugin:plugin\n"
        " = loudness_plugin:plugin\n"
        "[aape_bench.tasks]\nesc50 = loudness_plugin:not_a_plugin\nrandom = loudness_plugin:not_a_plugin\n"
    )
    rival = tmp_path / "site" / "Rival_Pack-2.0.dist-info"
    rival.mkdir()
    (rival / "METADATA").write_text("Metadata-Version: 2.1\nName: Rival_Pack\nVersion: 2.0\n")
    (rival / "entry_points.txt").write_text("[aape_bench.models]\nshared = leaving_plugin:plugin\n")
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
    assert set(reasons) == {"odd", "gone", "leaving", "logmel", "shared", "another", *UNUSABLE}
    assert "SystemExit" in reasons["leaving"]
    assert "is a int, not a EncoderPlugin" in reasons["odd"]
    assert "no_such_module" in reasons["gone"]


@pytest.mark.usefixtures("third_party")
def test_a_plugin_runs_like_a_built_in_one(cli, small_esc50: Path) -> None:  # type: ignore[no-untyped-def]
    line = ("--task", "esc50", "--data-dir", small_esc50, "--allow-partial")
    status, out, err = cli("run", "--model", "failing,nothing,lazy,loudness", *line)
    assert status == 2
    for said in (
        'The model "failing" failed in scene_embeddings: RuntimeError: my bug (loudness_plugin.py, line',
        'The model "nothing" failed in its build function: TypeError: it returns a NoneType, not an aape_bench.encoder',
        'The parameter layer.weight of the model "lazy" has no values',
    ):
        assert said in err
    assert "loudness" in out
    status, _, err = cli("run", "--model", "gone", *line)
    assert status == 2
    assert "no_such_module" in err
    _, out, err = cli("models")
    assert "how loud it is" in out
    assert err.count("Skipped:") == 6 + len(UNUSABLE)


@pytest.mark.usefixtures("third_party")
def test_a_name_of_ours_stays_ours(cli, small_esc50: Path) -> None:  # type: ignore[no-untyped-def]
    plugins, broken = registry.every_model()
    assert registry.model("logmel") is next(plugin for plugin in plugins if plugin.name == "logmel")
    assert registry.model("logmel").title.startswith("Mean and standard deviation")
    (reason,) = (entry.reason for entry in broken if entry.name == "logmel")
    assert "of the package loudness (loudness_plugin:plugin) has the name of one that comes with aape-bench" in reason
    assert "esc50" in {entry.name for entry in registry.every_task()[1]}
    line = ("--task", "esc50", "--data-dir", small_esc50, "--allow-partial", "--protocol", "knn", "--dry-run")
    status, _, err = cli("run", "--model", "logmel,loud*", *line)
    assert status == 0, err


@pytest.mark.usefixtures("third_party")
def test_a_name_of_two_packages_is_neither_s() -> None:
    assert "shared" not in registry.model_names()
    with pytest.raises(UsageError) as refusal:
        registry.model("shared")
    said = "package rival-pack (leaving_plugin:plugin) and the package loudness (loudness_plugin:plugin): neither"
    assert said in str(refusal.value)


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize("name", UNUSABLE)
def test_names_that_cannot_be_said_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"of the package loudness .* cannot be named on the command line"):
        registry.model(name)
    assert name not in registry.model_names()


@pytest.mark.usefixtures("third_party")
def test_all_passes_over_what_is_not_used() -> None:
    assert {task.name for task in select_tasks(["all"])} == set(registry.task_names())
    with pytest.raises(UsageError, match=r'"another" .* calls itself "loudness"'):
        registry.model("another")


def test_names_without_a_plugin_get_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r'There is no task "esc55"\. Did you mean "esc50"'):
        registry.task("esc55")
