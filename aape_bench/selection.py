"""What a command line names -> what is to be run: models with their settings and weights, tasks, protocols.

A model is `NAME`, `NAME{key=value;...}`, `hear:MODULE`, `hf:REPO[@REVISION]`, `hf:FOLDER` or `FILE.py:FUNCTION`; a task
is a name or `hear:DIR[@RATE]`, a folder in HEAR's layout; names of both may be a glob or `all`, repeat, and split at
commas outside braces, of which a backslash makes a part of the name (see `escapes`).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from aape_bench import escapes, registry
from aape_bench.checkpoint import RANDOM_WEIGHTS, CheckpointHeader, read_header
from aape_bench.choices import ModelChoice, PluginChoice
from aape_bench.errors import CheckpointError, UsageError
from aape_bench.identity import file_digest
from aape_bench.plugin import EncoderPlugin
from aape_bench.settings import label_of, make_config, split_assignments
from aape_bench.task import Task


def split_names(texts: Iterable[str]) -> list[str]:
    """`["a,b{x=1,2}", "c"]` -> `["a", "b{x=1,2}", "c"]`: split at commas outside braces; escapes stay."""
    return [name for text in texts for name in escapes.split(text, ",") if name]


def select_models(
    texts: Sequence[str], settings: Mapping[str, str], weights: str, seeds: Sequence[int], trust: bool = False
) -> list[ModelChoice]:
    """Every model named, for every seed, without repetitions. `settings` go to each of them.

    trust: hub models may run Python code that comes with them.
    """
    choices: dict[tuple[str, int], ModelChoice] = {}
    for name, own, file in read_models(texts, settings, weights, trust):
        for seed in seeds:
            choice = select_model(name, own, file, seed)
            if (other := choices.setdefault((choice.label, seed), choice)).words[0] != choice.words[0]:
                raise UsageError(
                    f"Two models are called {choice.label}: {other.words[0]} and {choice.words[0]}. Rename one, or run "
                    "them one after the other with results of their own."
                )
    return list(choices.values())


def read_models(
    texts: Sequence[str], settings: Mapping[str, str], weights: str, trust: bool = False
) -> list[tuple[str, dict[str, str], str]]:
    """Every model named with its settings and weights, as `select_model` takes them; nothing is loaded."""
    specs: list[tuple[str, dict[str, str]]] = []
    for text in split_names(texts):
        name, inside = escapes.cut_settings(text)
        own = split_assignments(inside or "")
        if clash := sorted(set(own) & set(settings)):
            raise UsageError(f'"{clash[0]}" is set twice for the model "{name}": in its braces and by --set.')
        if name.startswith("hf:"):
            from aape_bench.hub import absolute_place

            permission = {"trust_remote_code": "true"} if trust else {}
            specs.append((absolute_place(name), {**permission, **settings, **own}))
            continue
        known = registry.model_names()
        names = [str(whole_path(name))] if is_model_file(name) else _models_matching(name, known)
        specs += [(one, {**settings, **own}) for one in names]
    if not specs:
        raise UsageError("No model is named. Name one with --model; aape-bench models lists them.")
    if weights not in ("default", "random") and len({name for name, _ in specs}) > 1:
        raise UsageError("--weights FILE fits one model, but several are named. Give each its own: NAME{weights=FILE}.")
    # absolute before the first foreign module is loaded, which may change the working directory
    files = [_absolute(own.pop("weights", weights)) for _, own in specs]
    return [(name, own, file) for (name, own), file in zip(specs, files, strict=True)]


def select_model(name: str, settings: Mapping[str, Any], weights: str, seed: int) -> ModelChoice:
    """One model. weights: "default", "random" or the path of a file."""
    if name.startswith("hear:"):
        from aape_bench.foreign_model import choose_hear

        return choose_hear(name.removeprefix("hear:"), settings, weights, seed)
    if name.startswith("hf:"):
        from aape_bench.hub import choose_hub

        return choose_hub(name.removeprefix("hf:"), settings, weights, seed)
    if is_model_file(name):
        from aape_bench.file_model import choose_file

        return choose_file(name, settings, weights, seed)
    return choose_plugin(registry.model(name), settings, weights, seed)


def choose_plugin(plugin: EncoderPlugin, settings: Mapping[str, Any], weights: str, seed: int) -> PluginChoice:
    """An encoder plugin, registered or not, with settings and weights. Arguments as `select_model`."""
    owner = f'The model "{plugin.name}"'
    if not plugin.has_weights and weights not in ("default", "random"):
        raise UsageError(f"{owner} has no weights, so --weights FILE does not fit it.")
    if plugin.package is not None and (weights == "default" or not plugin.has_weights):
        from aape_bench.packaged_model import choose_packaged

        return choose_packaged(plugin, settings, seed)
    if plugin.published is not None and weights != "random":
        from aape_bench.published_model import absent, choose_published
        from aape_bench.published_weights import is_published_file

        if weights == "default":
            raise absent(plugin)
        if is_published_file(Path(weights)):
            return choose_published(plugin, settings, Path(weights), seed)
    shipped = plugin.default_weights() if plugin.has_weights else None
    file = {"default": shipped, "random": None}.get(weights, weights)
    if file is None:
        config = make_config(plugin.config, settings, owner)
        label = label_of(plugin.name, config) + ("@random" if shipped or plugin.package is not None else "")
        return PluginChoice(label, "random" if plugin.has_weights else "none", seed, None, None, plugin, config)
    path = Path(file)
    header, trained, config = _config_of_checkpoint(plugin, path, settings, shipped=weights == "default")
    sha256 = file_digest(path)
    if weights == "default":
        # what it was trained with is known by its hash, and by many: only what is set on top is said
        label, source = label_of(plugin.name, config, base=trained), f"shipped:{sha256[:8]}"
    else:
        label, source = label_of(plugin.name, config), f"file:{sha256[:8]}"
    if RANDOM_WEIGHTS in header.card:  # anyone may write so of a file, and gains nothing by it
        source = "random"
    return PluginChoice(f"{label}@{sha256[:8]}", source, seed, path, sha256, plugin, config)


def weights_of(plugin: EncoderPlugin) -> str:
    """Which weights an encoder has where none are named, in a sentence; "" where it has none."""
    if (package := plugin.package) is not None:
        there = f"version {package.version}" if package.usable else f"not here: pip install {package.install}"
        others = "; or --weights FILE or random" if plugin.has_weights else ""
        return f"those in the package {package.distribution} ({there}){others}"
    if plugin.published is not None:
        return f"--weights FILE, from {plugin.published.get}; or random"
    if not plugin.has_weights:
        return ""
    if (shipped := plugin.default_weights()) is None:
        return "random, drawn from --seed, unless --weights names a checkpoint"
    _, trained, _ = _config_of_checkpoint(plugin, Path(shipped), {}, shipped=True)
    label = label_of(plugin.name, trained)
    return f"{Path(shipped).name}, which comes with it, of {label}; or --weights FILE or random"


def select_tasks(texts: Sequence[str]) -> list[Task]:
    """Every task named, once, in the order named: by name, glob or `all`, or `hear:DIR[@RATE]`."""
    tasks: dict[str, Task] = {}
    for text in map(escapes.plain, split_names(texts)):
        if text.startswith("hear:"):
            found = [_hear_task(text.removeprefix("hear:"))]
        else:
            found = [registry.task(name) for name in _matching(text, registry.task_names(), "task")]
        for task in found:
            if (other := tasks.setdefault(task.name, task)).root != task.root:
                raise UsageError(
                    f'Two task folders are called "{task.name}": {other.root} and {task.root}. Rename one, or run them '
                    "one after the other."
                )
    if not tasks:
        raise UsageError("No task is named. Name one with --task; aape-bench tasks lists them.")
    return list(tasks.values())


def _hear_task(text: str) -> Task:
    from aape_bench.hear_tasks import read_hear_task

    folder, at, rate = text.rpartition("@")
    if not at or not rate.isdecimal() or Path(text).is_dir():
        folder, rate = text, ""
    if not folder:
        raise UsageError(f'"hear:{text}" names no folder. Name the one of the task: hear:DIR or hear:DIR@RATE.')
    root = whole_path(folder)
    return replace(read_hear_task(root, int(rate) if rate else None), root=root)


def is_model_file(name: str) -> bool:
    """Whether a model's name is that of a Python file, with or without a function in it."""
    return not name.startswith(("hear:", "hf:")) and re.search(r"\.py(:|$)", name) is not None


def whole_path(text: str | Path) -> Path:
    """The absolute path, `~` being the home folder. Raises UsageError where that is not known."""
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise UsageError(f"{text} names a home folder that is not known. Write the path out.") from None


def _absolute(weights: str) -> str:
    if not weights:
        raise UsageError("--weights names no file. Name one, or say random or default.")
    return weights if weights in ("default", "random") else str(whole_path(weights))


def _models_matching(text: str, known: Sequence[str]) -> list[str]:
    """As `_matching`; a glob and `all` stand for those whose packages are installed and that need no file."""
    found = _matching(text, known, "model")
    if found == [text]:
        return found
    plugins = registry.every_model()[0]
    sources = {plugin.name: plugin.package for plugin in plugins}
    needing_a_file = {plugin.name for plugin in plugins if plugin.published is not None}
    there = [name for name in found if (source := sources.get(name)) is None or source.usable]
    return [name for name in there if name not in needing_a_file]


def _matching(text: str, known: Sequence[str], kind: str) -> list[str]:
    if text == "all":
        return list(known)
    if any(mark in text for mark in "*?["):
        found = fnmatch.filter(known, text)
        if not found:
            raise UsageError(f'No {kind} matches "{text}". There are: {", ".join(known)}.')
        return found
    return [text]


def _config_of_checkpoint(
    plugin: EncoderPlugin, path: Path, settings: Mapping[str, Any], shipped: bool
) -> tuple[CheckpointHeader, Any, Any]:
    """What the checkpoint says of itself, its own config, and the one asked for.

    Only settings of inference may be changed on top of its own.
    """
    header = read_header(path)
    if header.model and header.model != plugin.name:
        raise CheckpointError(
            f'The checkpoint {path} is of the model "{header.model}", not "{plugin.name}". Name --model {header.model}.'
        )
    owner = f'The model "{plugin.name}"'
    if not header.config:
        config = make_config(plugin.config, settings, owner)
        return header, config, config
    try:
        trained = make_config(plugin.config, header.config, f"The checkpoint {path}")
    except UsageError as error:
        raise CheckpointError(f"{error} Use the version that wrote the checkpoint.") from None
    asked = make_config(plugin.config, {**header.config, **settings}, owner)
    for field in fields(plugin.config):
        if field.name not in settings or field.metadata.get("inference"):
            continue
        if (own := getattr(trained, field.name)) != (new := getattr(asked, field.name)):
            if shipped:
                raise CheckpointError(
                    f"The weights that come with {plugin.name} were trained with {field.name}={own}, not {new}. For "
                    f"random weights of that kind say so, {plugin.name}{{{field.name}={new};weights=random}} or "
                    "--weights random; or name a checkpoint of yours with --weights."
                )
            raise CheckpointError(
                f"The checkpoint {path} was trained with {field.name}={own}, which --set {field.name}={new} "
                "contradicts. Leave the setting out, or use other weights."
            )
    return header, trained, asked
