"""What a command line names -> what is to be run: models with their settings and weights, tasks, protocols.

A model is `NAME`, `NAME{key=value;...}` or `hear:MODULE`; a task is a name; both may be a glob or `all`, repeat,
and split at commas outside braces.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aape_bench import registry
from aape_bench.errors import CheckpointError, ModelError, UsageError
from aape_bench.identity import digest, file_digest, source_digest
from aape_bench.plugin import EncoderPlugin
from aape_bench.settings import label_of, make_config, split_assignments
from aape_bench.task import Task

if TYPE_CHECKING:
    from aape_bench.encoder import Encoder


@dataclass(frozen=True)
class ModelChoice:
    """One encoder as it will be run. `label` is its name on the leaderboard, `weights` says where they are from."""

    label: str
    weights: str
    seed: int

    @property
    def sample_rate(self) -> int:
        """Hz."""
        raise NotImplementedError

    @property
    def identity(self) -> str:
        """Hash of everything that decides the embeddings of given audio."""
        raise NotImplementedError

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved config."""
        raise NotImplementedError

    @property
    def checkpoint(self) -> dict[str, str] | None:
        """File name and SHA-256 of the checkpoint, None where there is none."""
        raise NotImplementedError

    def build(self) -> Encoder:
        """The encoder with its weights, in evaluation mode on the CPU. Imports torch."""
        raise NotImplementedError


@dataclass(frozen=True)
class PluginChoice(ModelChoice):
    """An encoder from the registry."""

    plugin: EncoderPlugin
    config: Any
    path: Path | None
    sha256: str | None

    @property
    def sample_rate(self) -> int:
        return self.plugin.sample_rate

    @cached_property
    def identity(self) -> str:  # type: ignore[override]
        start = self.sha256 or (self.seed if self.plugin.has_weights else None)
        return digest(
            {
                "model": self.plugin.name,
                "config": asdict(self.config),
                "weights": start,
                "sources": source_digest(self.plugin.sources),
            }
        )

    @property
    def settings(self) -> dict[str, Any]:
        return asdict(self.config)

    @property
    def checkpoint(self) -> dict[str, str] | None:
        return {"file": self.path.name, "sha256": str(self.sha256)} if self.path else None

    def build(self) -> Encoder:
        encoder = self.plugin.build(self.config, self.seed)
        if self.path is not None:
            from aape_bench.checkpoint import load_checkpoint

            load_checkpoint(encoder, self.path)
        if encoder.sample_rate != self.plugin.sample_rate:
            raise ModelError(
                f'The model "{self.plugin.name}" runs at {encoder.sample_rate} Hz but its plugin declares '
                f"{self.plugin.sample_rate} Hz."
            )
        return encoder.eval()


@dataclass(frozen=True)
class HearChoice(ModelChoice):
    """A HEAR module; it has to be loaded before its rate and identity are known."""

    module: str
    path: Path | None
    sha256: str | None

    @cached_property
    def _encoder(self) -> Encoder:
        from aape_bench.hear import load_hear_encoder

        return load_hear_encoder(self.module, self.path)

    @property
    def sample_rate(self) -> int:
        return self._encoder.sample_rate

    @cached_property
    def identity(self) -> str:  # type: ignore[override]
        from aape_bench.hear import loaded_state_digest

        state = loaded_state_digest(self._encoder)
        sources = source_digest([self.module])
        return digest({"model": f"hear:{self.module}", "sources": sources, "weights": self.sha256, "state": state})

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    @property
    def checkpoint(self) -> dict[str, str] | None:
        return {"file": self.path.name, "sha256": str(self.sha256)} if self.path else None

    def build(self) -> Encoder:
        return self._encoder


def split_names(texts: Iterable[str]) -> list[str]:
    """`["a,b{x=1,2}", "c"]` -> `["a", "b{x=1,2}", "c"]`: split at commas outside braces."""
    names = []
    for text in texts:
        depth, current = 0, ""
        for character in text + ",":
            depth += (character == "{") - (character == "}")
            if character == "," and depth == 0:
                names.append(current.strip())
                current = ""
            else:
                current += character
        if depth != 0:
            raise UsageError(f'The braces in "{text}" do not match.')
    return [name for name in names if name]


def select_models(
    texts: Sequence[str], settings: Mapping[str, str], weights: str, seeds: Sequence[int]
) -> list[ModelChoice]:
    """Every model named, for every seed, without repetitions. `settings` go to each of them."""
    specs: list[tuple[str, dict[str, str]]] = []
    for text in split_names(texts):
        name, brace, rest = text.partition("{")
        if brace and not rest.endswith("}"):
            raise UsageError(f'The model "{text}" should end with its closing brace: NAME{{key=value;...}}.')
        own = split_assignments(rest[:-1]) if brace else {}
        if clash := sorted(set(own) & set(settings)):
            raise UsageError(f'"{clash[0]}" is set twice for the model "{name}": in its braces and by --set.')
        specs += [(one, {**settings, **own}) for one in _matching(name, registry.model_names(), "model")]
    if weights not in ("default", "random") and len({name for name, _ in specs}) > 1:
        raise UsageError("--weights FILE fits one model, but several are named. Give each its own: NAME{weights=FILE}.")
    choices: dict[tuple[str, int], ModelChoice] = {}
    for name, own in specs:
        for seed in seeds:
            rest_of = {key: value for key, value in own.items() if key != "weights"}
            choice = select_model(name, rest_of, own.get("weights", weights), seed)
            choices.setdefault((choice.label, seed), choice)
    return list(choices.values())


def select_model(name: str, settings: Mapping[str, Any], weights: str, seed: int) -> ModelChoice:
    """One model. weights: "default", "random" or the path of a file."""
    if name.startswith("hear:"):
        return _select_hear(name.removeprefix("hear:"), settings, weights, seed)
    plugin = registry.model(name)
    owner = f'The model "{name}"'
    if not plugin.has_weights and weights not in ("default", "random"):
        raise UsageError(f"{owner} has no weights, so --weights FILE does not fit it.")
    path = None
    if plugin.has_weights and weights != "random":
        default = plugin.default_weights()
        path = Path(weights) if weights != "default" else (Path(default) if default else None)
    if path is None:
        config = make_config(plugin.config, settings, owner)
        label = label_of(name, config)
        if plugin.has_weights and plugin.default_weights() is not None:
            label += "@random"
        return PluginChoice(
            label, "random" if plugin.has_weights else "none", seed, plugin, config, path=None, sha256=None
        )
    config = _config_of_checkpoint(plugin, path, settings)
    sha256 = file_digest(path)
    return PluginChoice(
        f"{label_of(name, config)}@{sha256[:8]}", f"file:{sha256[:8]}", seed, plugin, config, path, sha256
    )


def select_tasks(texts: Sequence[str]) -> list[Task]:
    """Every task named, once, in the order named."""
    names = [one for text in split_names(texts) for one in _matching(text, registry.task_names(), "task")]
    return [registry.task(name) for name in dict.fromkeys(names)]


def _matching(text: str, known: Sequence[str], kind: str) -> list[str]:
    if text == "all":
        return list(known)
    if any(mark in text for mark in "*?["):
        found = fnmatch.filter(known, text)
        if not found:
            raise UsageError(f'No {kind} matches "{text}". There are: {", ".join(known)}.')
        return found
    return [text]


def _select_hear(module: str, settings: Mapping[str, Any], weights: str, seed: int) -> ModelChoice:
    if settings:
        raise UsageError(f'The HEAR module "{module}" has no settings, but "{next(iter(settings))}" is set.')
    if weights == "random":
        raise UsageError(f'The HEAR module "{module}" loads its own weights; --weights random does not fit it.')
    label = module.rpartition(".")[2]
    if weights == "default":
        return HearChoice(label, "module", seed, module, path=None, sha256=None)
    path = Path(weights)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}. Correct --weights.")
    sha256 = file_digest(path)
    return HearChoice(f"{label}@{sha256[:8]}", f"file:{sha256[:8]}", seed, module, path, sha256)


def _config_of_checkpoint(plugin: EncoderPlugin, path: Path, settings: Mapping[str, Any]) -> Any:
    """The checkpoint's own config; only settings of inference may be changed on top of it."""
    from aape_bench.checkpoint import read_header

    header = read_header(path)
    if header.model and header.model != plugin.name:
        raise CheckpointError(
            f'The checkpoint {path} is of the model "{header.model}", not "{plugin.name}". Name --model {header.model}.'
        )
    owner = f'The model "{plugin.name}"'
    asked = make_config(plugin.config, settings, owner)
    if not header.config:
        return asked
    try:
        trained = make_config(plugin.config, header.config, f"The checkpoint {path}")
    except UsageError as error:
        raise CheckpointError(f"{error} It was written by another version; use that one.") from None
    for field in fields(plugin.config):
        if field.name not in settings or field.metadata.get("inference"):
            continue
        if (own := getattr(trained, field.name)) != (new := getattr(asked, field.name)):
            raise CheckpointError(
                f"The checkpoint {path} was trained with {field.name}={own}, which --set {field.name}={new} "
                "contradicts. Leave the setting out, or use other weights."
            )
    changed = {key: value for key, value in settings.items() if key in header.config}
    return make_config(plugin.config, {**header.config, **changed}, owner)
