"""A package to install whose module is a HEAR module with weights of its own; it needs aape-bench."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aape_bench
from aape_bench import registry
from aape_bench.hear_out import hear_functions
from aape_bench.storage import write_json, write_text

if TYPE_CHECKING:
    from torch import Tensor

    from aape_bench.encoder import Encoder

_MODULE = '''"""A HEAR module (https://hearbenchmark.com/hear-api.html): {label}, by aape-bench.

{citation}. Licence of the model: {licence}. `about.json` says where it comes from.
"""

from pathlib import Path

from aape_bench.exporting.hear_package import hear_module

load_model, get_scene_embeddings, get_timestamp_embeddings = hear_module(
    {model!r}, Path(__file__).with_name({weights!r})
)
'''

_PROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = {name}
version = "0"
description = {description}
requires-python = ">=3.11"
dependencies = ["aape-bench>={version}"]

[tool.setuptools]
packages = [{name}]

[tool.setuptools.package-data]
{name} = ["*.safetensors", "*.json"]
"""


def write_hear_package(folder: Path, name: str, weights: Path, about: Mapping[str, Any]) -> None:
    """Write what is needed around the weights, which lie in `folder / name` already."""
    values = {key: str(about[key]) for key in ("label", "model", "citation", "licence")}
    values = {key: value.replace("\\", " ").replace('"', "'") for key, value in values.items()}
    write_text(folder / name / "__init__.py", _MODULE.format(**values, weights=weights.name))
    write_json(folder / name / "about.json", dict(about))
    quoted = {"name": json.dumps(name), "description": json.dumps(f"HEAR module: {values['label']}")}
    write_text(folder / "pyproject.toml", _PROJECT.format(**quoted, version=aape_bench.__version__))


def hear_module(
    model: str, weights: Path
) -> tuple[
    Callable[[str], Encoder],
    Callable[[Tensor, Encoder], Tensor],
    Callable[[Tensor, Encoder], tuple[Tensor, Tensor]],
]:
    """HEAR's three functions of a built-in model with other weights than its default ones."""
    plugin = replace(registry.model(model), default_weights=lambda: str(weights), package=None, published=None)
    return hear_functions(plugin)
