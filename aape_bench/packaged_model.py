"""A model whose weights come with an installed package (see `packages`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aape_bench.choices import PluginChoice
from aape_bench.errors import ModelError
from aape_bench.overlap import INITIAL_WEIGHTS
from aape_bench.packages import PackageWeights, digest_of
from aape_bench.plugin import EncoderPlugin
from aape_bench.settings import label_of, make_config

if TYPE_CHECKING:
    from aape_bench.encoder import Encoder


@dataclass(frozen=True)
class PackagedChoice(PluginChoice):
    """An encoder plugin with the weights of a package; `path` is the first of their files, `sha256` of all."""

    def build(self) -> Encoder:
        encoder = self.untrained()
        _source(self.plugin).read(encoder, _source(self.plugin).locate(self.config))
        return encoder.eval()

    @property
    def card(self) -> dict[str, Any]:
        return {INITIAL_WEIGHTS: self.weights}


def choose_packaged(plugin: EncoderPlugin, settings: Mapping[str, Any], seed: int) -> PackagedChoice:
    """The encoder with its package's weights. Raises ModelError with the line that installs what is missing."""
    source = _source(plugin)
    config = make_config(plugin.config, settings, f'The model "{plugin.name}"')
    try:
        paths = source.locate(config)
    except ModelError as error:
        raise ModelError(f"{plugin.name}: {error}") from None
    sha256 = digest_of(paths)
    weights = f"{source.prefix}{source.version}:{sha256[:8]}"
    label = f"{label_of(plugin.name, config)}@{sha256[:8]}"
    return PackagedChoice(label, weights, seed, paths[0], sha256, plugin, config)


def _source(plugin: EncoderPlugin) -> PackageWeights:
    assert plugin.package is not None
    return plugin.package
