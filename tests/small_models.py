"""Settings and weights of registered models that make them quick to build and run; shared by the tests."""

from __future__ import annotations

from dataclasses import fields

import pytest

from aape_bench import registry
from aape_bench.plugin import EncoderPlugin

_SIZES = {"blocks": "1", "width": "64", "heads": "2"}


def usable(name: str) -> EncoderPlugin:
    """A plugin whose package is installed; otherwise the test is skipped."""
    plugin = registry.model(name)
    if plugin.package is not None and not plugin.package.usable:
        pytest.skip(f"{name} needs pip install {plugin.package.install}")
    return plugin


def small(plugin: EncoderPlugin) -> tuple[dict[str, str], str]:
    """Settings and weights: a transformer is random and of one small block, others are asked less often."""
    has = {field.name for field in fields(plugin.config)}
    if set(_SIZES) <= has:
        return {**_SIZES, **({"layers": "1"} if "layers" in has else {})}, "random"
    sparse = {"hop_ms": "500", "timestamp_hop_ms": "800", "windows_per_second": "0.7"}
    return {name: value for name, value in sparse.items() if name in has}, "default"
