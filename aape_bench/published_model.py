"""A model with weights that its authors published and the user has downloaded (see `published_weights`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aape_bench.choices import PluginChoice
from aape_bench.errors import UsageError
from aape_bench.identity import file_digest
from aape_bench.overlap import FIELD, TrainingAudio
from aape_bench.plugin import EncoderPlugin
from aape_bench.published_weights import PublishedWeights, read_published
from aape_bench.settings import label_of, make_config

if TYPE_CHECKING:
    from aape_bench.encoder import Encoder


@dataclass(frozen=True)
class PublishedChoice(PluginChoice):
    """An encoder plugin with the weights of `file`, which has no header of ours: `path` is None."""

    file: Path

    def build(self) -> Encoder:
        encoder = self.untrained()
        source = _source(self.plugin)
        source.load(encoder, read_published(self.file, source.trained_with), self.file)
        return encoder.eval()

    @property
    def checkpoint(self) -> dict[str, str] | None:
        return {"file": self.file.name, "sha256": str(self.sha256)}

    @property
    def words(self) -> tuple[str, dict[str, Any], str, int]:
        return self.plugin.name, self.settings, str(self.file), self.seed

    @property
    def card(self) -> dict[str, Any]:
        # what it was trained on is not listed anywhere
        return {FIELD: TrainingAudio(complete=False).card()}


def choose_published(plugin: EncoderPlugin, settings: Mapping[str, Any], file: Path, seed: int) -> PublishedChoice:
    """The encoder with weights of the published naming. Other arguments as `selection.select_model`."""
    config = make_config(plugin.config, settings, f'The model "{plugin.name}"')
    sha256 = file_digest(file)
    label = f"{label_of(plugin.name, config)}@{sha256[:8]}"
    return PublishedChoice(label, f"file:{sha256[:8]}", seed, None, sha256, plugin, config, file)


def absent(plugin: EncoderPlugin) -> UsageError:
    """The error that says where an encoder's weights are to be had."""
    return UsageError(
        f'The model "{plugin.name}" needs weights that do not come with aape-bench. Get them from '
        f"{_source(plugin).get}; then: --model {plugin.name} --weights FILE. (--weights random runs the architecture "
        f"alone.) To be cited: {plugin.citation}."
    )


def _source(plugin: EncoderPlugin) -> PublishedWeights:
    assert plugin.published is not None
    return plugin.published
