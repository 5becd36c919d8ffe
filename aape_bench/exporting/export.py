"""One encoder -> a folder that others can use; the folder appears when it is whole."""

from __future__ import annotations

import keyword
import os
import platform
import secrets
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import aape_bench
from aape_bench import registry
from aape_bench.checkpoint import RANDOM_WEIGHTS
from aape_bench.choices import ModelChoice, PluginChoice
from aape_bench.errors import UsageError
from aape_bench.exporting.hear_package import write_hear_package
from aape_bench.identity import file_digest
from aape_bench.overlap import FIELD, TrainingAudio
from aape_bench.storage import check_writable, storage_error, write_json

Format = Literal["safetensors", "onnx", "hear"]

WEIGHTS = "encoder.safetensors"


def export(choice: ModelChoice, out: Path, form: Format, timestamps: bool = False) -> list[str]:
    """Write an encoder to the new folder `out`.

    safetensors: its weights, which `--weights` takes, and `config.json`. onnx: `scene.onnx`, with `timestamps` also
    `timestamps.onnx`, compared with the encoder, and `config.json`. hear: a package to install, whose module is a HEAR
    module. Returns what to say of it, a sentence each. Raises UsageError where `out` is there already, ModelError where
    the encoder has no such form; then nothing is written.
    """
    if not isinstance(choice, PluginChoice):
        raise UsageError(f"{choice.label} is a foreign model, which loads itself: there is nothing to export.")
    name = choice.plugin.name
    if form != "onnx" and not choice.plugin.has_weights:
        raise UsageError(f'The model "{name}" has no weights that could be exported; {_instead(choice)}')
    if timestamps and form != "onnx":
        raise UsageError("--timestamps fits --format onnx alone; the other forms have both kinds of embeddings.")
    # asked for before anything is computed
    graph_of = registry.graph(name) if form == "onnx" else None
    with new_folder(out) as folder:
        if graph_of is not None:
            return _write_onnx(choice, graph_of, folder, timestamps)
        if form == "hear":
            (folder / module_name(out)).mkdir()
            weights = folder / module_name(out) / WEIGHTS
            _save(choice, weights)
            write_hear_package(folder, module_name(out), weights, about(choice))
            return [
                f"A HEAR module, to be installed with: pip install {shlex.quote(str(out.absolute()))}",
                f"Then: aape-bench run --model hear:{module_name(out)} ...",
            ]
        _save(choice, folder / WEIGHTS)
        write_json(folder / "config.json", {**about(choice), "sha256": file_digest(folder / WEIGHTS)})
        return [f"Weights of {name}, to be used with: --model {name} --weights {out / WEIGHTS}"]


def module_name(out: Path) -> str:
    """The HEAR package's name: the folder's. Raises UsageError where that is no module's name, or one that is taken."""
    from importlib.util import find_spec

    name = out.name.replace("-", "_")
    imports = name.isidentifier() and not keyword.iskeyword(name) and not (name[:2] == name[-2:] == "__")
    if not imports or not name.isascii() or name != name.lower():
        raise UsageError(
            f'--out names the package, and "{out.name}" is no name of a Python package: letters a - z, digits and _, '
            "no keyword of Python and no __NAME__."
        )
    try:
        taken = find_spec(name) is not None and not (Path.cwd() / name).exists()
    except (ImportError, ValueError):
        taken = True
    if taken:
        raise UsageError(
            f'--out names the package, but there is a Python module "{name}" already. Choose another name.'
        )
    return name


def about(choice: PluginChoice) -> dict[str, Any]:
    """What a reader of exported files should know: plain JSON, without a path."""
    plugin = choice.plugin
    return {
        "model": plugin.name,
        "label": choice.label,
        "settings": choice.settings,
        "weights": choice.weights,
        "checkpoint": choice.checkpoint,
        "seed": choice.seed if choice.draws_from_seed else None,
        "sample_rate": choice.sample_rate,
        "licence": plugin.licence,
        "citation": plugin.citation,
        "homepage": plugin.homepage,
        "versions": {
            "aape-bench": aape_bench.__version__,
            "torch": version("torch"),
            "python": platform.python_version(),
        },
    }


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into that becomes `out` when the block ends, and is gone when it fails.

    Raises UsageError where `out` is there already, unless as an empty folder; StorageError where it cannot be written.
    """
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise UsageError(f"{out} is there already, and nothing is overwritten. Choose another folder with --out.")
    check_writable(out.absolute().parent, "--out")
    draft = out.absolute().parent / f".{secrets.token_hex(8)}.tmp"
    try:
        draft.mkdir(parents=True)
        yield draft
        for file in sorted(path for path in draft.rglob("*") if path.is_file()):
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        draft.replace(out)
    except OSError as error:
        raise storage_error(out, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _save(choice: PluginChoice, path: Path) -> None:
    encoder = choice.build()
    card = dict(choice.card)
    if choice.draws_from_seed:
        card |= {RANDOM_WEIGHTS: {"seed": choice.seed}, FIELD: TrainingAudio().card()}
    choice.save(encoder, path, card)


def _write_onnx(choice: PluginChoice, graph_of: Callable[..., Any], folder: Path, timestamps: bool) -> list[str]:
    from aape_bench.exporting.onnx_files import in_words, write_onnx

    encoder = choice.build()
    facts = about(choice)
    sizes = {name: getattr(encoder, name) for name in ("scene_embedding_size", "timestamp_embedding_size")}
    metadata = {key: str(facts[key]) for key in ("model", "label", "weights", "sample_rate", "licence", "citation")}
    graph = graph_of(encoder)
    said, differences = [], {}
    for part in ("scene", "timestamps") if timestamps else ("scene",):
        found = write_onnx(encoder, graph, part, folder / f"{part}.onnx", metadata)
        differences[part] = {kind: asdict(difference) for kind, difference in found.items()}
        said.append(f"{part}.onnx differs from the encoder by at most {in_words(found)}.")
    more = {"shortest_samples": graph.shortest, "largest_difference": differences}
    write_json(folder / "config.json", {**facts, **sizes, **more})
    return said


def _instead(choice: PluginChoice) -> str:
    if choice.plugin.package is not None:
        return f"its own are files of the package {choice.plugin.package.distribution}."
    return f"its module {choice.plugin.build.__module__} is a HEAR module as it is."
