"""What a command line names -> what is to be run: models with their settings and weights, tasks, protocols.

A model is `NAME`, `NAME{key=value;...}` or `hear:MODULE`; a task is a name or `hear:DIR[@RATE]`, a folder in HEAR's
layout; names of both may be a glob or `all`, repeat, and split at commas outside braces.
"""

from __future__ import annotations

import fnmatch
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aape_bench import registry
from aape_bench.errors import CheckpointError, ModelError, UsageError
from aape_bench.identity import digest, file_digest, source_digest
from aape_bench.plugin import EncoderPlugin
from aape_bench.settings import deciding, label_of, make_config, split_assignments
from aape_bench.task import Task

if TYPE_CHECKING:
    from aape_bench.encoder import Encoder


@dataclass(frozen=True)
class ModelChoice(ABC):
    """One encoder as it will be run.

    label: its name on the leaderboard. weights: where they are from, "none", "random", "module", "file:<hash>" or, of
    those that come with the encoder, "shipped:<hash>".
    seed: of random weights and of the protocol. path, sha256: of the checkpoint, None where there is none.
    """

    label: str
    weights: str
    seed: int
    path: Path | None
    sha256: str | None

    @property
    @abstractmethod
    def sample_rate(self) -> int:
        """Hz."""

    @property
    def draws_from_seed(self) -> bool:
        """Whether another seed makes other weights."""
        return self.weights == "random"

    @property
    @abstractmethod
    def lineage(self) -> str:
        """Hash of everything that decides the embeddings of given audio, but the seed of random weights."""

    @property
    def identity(self) -> str:
        """Hash of everything that decides the embeddings of given audio."""
        return digest({"lineage": self.lineage, "seed": self.seed if self.draws_from_seed else None})

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The resolved config."""

    @property
    def checkpoint(self) -> dict[str, str] | None:
        """File name and SHA-256 of the checkpoint, None where there is none."""
        return {"file": self.path.name, "sha256": str(self.sha256)} if self.path else None

    @abstractmethod
    def build(self) -> Encoder:
        """The encoder with its weights, in evaluation mode on the CPU. Imports torch."""

    def build_anew(self) -> Encoder:
        """As `build`, and shared with no one: it may be trained."""
        return self.build()

    @property
    @abstractmethod
    def words(self) -> tuple[str, dict[str, Any], str, int]:
        """Arguments of `select_model` that choose it again, in another process."""

    def pooled(self, pooling: str) -> ModelChoice:  # noqa: ARG002
        """The same with the scene embedding of that name, where it has the choice."""
        return self

    @property
    def card(self) -> dict[str, Any]:
        """What its checkpoint says of itself; nothing where there is none of ours."""
        return {}

    def save(self, encoder: Encoder, path: Path, card: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Write weights that it builds from again. Raises UsageError where there is no form for them."""
        raise UsageError(f"The weights of {self.label}, a foreign module, have no form here: they cannot be kept.")


@dataclass(frozen=True)
class PluginChoice(ModelChoice):
    """An encoder plugin with a resolved config."""

    plugin: EncoderPlugin
    config: Any

    @property
    def sample_rate(self) -> int:
        return self.plugin.sample_rate

    @cached_property
    def lineage(self) -> str:  # type: ignore[override]
        return digest(
            {
                "model": self.plugin.name,
                "config": deciding(self.config),
                "weights": self.sha256 or self.weights,
                "code": source_digest(self.plugin.code),
            }
        )

    @property
    def settings(self) -> dict[str, Any]:
        return asdict(self.config)

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

    @property
    def words(self) -> tuple[str, dict[str, Any], str, int]:
        own = self.path is not None and self.weights.startswith("file:")
        weights = str(self.path) if own else "default" if self.path is not None else "random"
        return self.plugin.name, self.settings, weights, self.seed

    def pooled(self, pooling: str) -> ModelChoice:
        if "pooling" not in {field.name for field in fields(self.config)}:
            return self
        return replace(self, config=replace(self.config, pooling=pooling))

    @property
    def card(self) -> dict[str, Any]:
        from aape_bench.checkpoint import read_header

        return {} if self.path is None else dict(read_header(self.path).card)

    def save(self, encoder: Encoder, path: Path, card: Mapping[str, Any]) -> None:
        from aape_bench.checkpoint import save_checkpoint

        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, encoder, self.plugin.name, self.settings, card)


@dataclass(frozen=True)
class HearChoice(ModelChoice):
    """A HEAR module, loaded: its rate and identity cannot be known before."""

    module: str
    encoder: Encoder
    seeded: bool

    @property
    def draws_from_seed(self) -> bool:
        return self.seeded

    @property
    def sample_rate(self) -> int:
        return self.encoder.sample_rate

    @property
    def words(self) -> tuple[str, dict[str, Any], str, int]:
        return f"hear:{self.module}", {}, "default" if self.path is None else str(self.path), self.seed

    @cached_property
    def lineage(self) -> str:  # type: ignore[override]
        from aape_bench.hear_in import hear_identity, load_hear_encoder

        # random weights of any seed are one lineage: that of seed 0
        first = load_hear_encoder(self.module, self.path, 0) if self.seeded else self.encoder
        return digest({"module": hear_identity(self.module, first), "weights": self.sha256})

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def build(self) -> Encoder:
        return self.encoder

    def build_anew(self) -> Encoder:
        from copy import deepcopy

        from aape_bench.hear_in import load_hear_encoder

        encoder = load_hear_encoder(self.module, self.path, self.seed)
        # a module may hand out one object to all who load it
        return deepcopy(encoder) if encoder.model is self.encoder.model else encoder


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
    if not specs:
        raise UsageError("No model is named. Name one with --model; aape-bench models lists them.")
    if weights not in ("default", "random") and len({name for name, _ in specs}) > 1:
        raise UsageError("--weights FILE fits one model, but several are named. Give each its own: NAME{weights=FILE}.")
    choices: dict[tuple[str, int], ModelChoice] = {}
    # absolute before the first foreign module is loaded, which may change the working directory
    files = [_absolute(own.pop("weights", weights)) for _, own in specs]
    for (name, own), file in zip(specs, files, strict=True):
        for seed in seeds:
            choice = select_model(name, own, file, seed)
            choices.setdefault((choice.label, seed), choice)
    return list(choices.values())


def select_model(name: str, settings: Mapping[str, Any], weights: str, seed: int) -> ModelChoice:
    """One model. weights: "default", "random" or the path of a file."""
    if name.startswith("hear:"):
        return _choose_hear(name.removeprefix("hear:"), settings, weights, seed)
    return choose_plugin(registry.model(name), settings, weights, seed)


def choose_plugin(plugin: EncoderPlugin, settings: Mapping[str, Any], weights: str, seed: int) -> PluginChoice:
    """An encoder plugin, registered or not, with settings and weights. Arguments as `select_model`."""
    owner = f'The model "{plugin.name}"'
    if not plugin.has_weights and weights not in ("default", "random"):
        raise UsageError(f"{owner} has no weights, so --weights FILE does not fit it.")
    shipped = plugin.default_weights() if plugin.has_weights else None
    file = {"default": shipped, "random": None}.get(weights, weights)
    if file is None:
        config = make_config(plugin.config, settings, owner)
        label = label_of(plugin.name, config) + ("@random" if shipped else "")
        return PluginChoice(label, "random" if plugin.has_weights else "none", seed, None, None, plugin, config)
    path = Path(file)
    trained, config = _config_of_checkpoint(plugin, path, settings, shipped=weights == "default")
    sha256 = file_digest(path)
    if weights == "default":
        # what it was trained with is known by its hash, and by many: only what is set on top is said
        label = label_of(plugin.name, config, base=trained)
        return PluginChoice(f"{label}@{sha256[:8]}", f"shipped:{sha256[:8]}", seed, path, sha256, plugin, config)
    label = f"{label_of(plugin.name, config)}@{sha256[:8]}"
    return PluginChoice(label, f"file:{sha256[:8]}", seed, path, sha256, plugin, config)


def weights_of(plugin: EncoderPlugin) -> str:
    """Which weights an encoder has where none are named, in a sentence; "" where it has none."""
    if not plugin.has_weights:
        return ""
    if (shipped := plugin.default_weights()) is None:
        return "random, drawn from --seed, unless --weights names a checkpoint"
    trained, _ = _config_of_checkpoint(plugin, Path(shipped), {}, shipped=True)
    label = label_of(plugin.name, trained)
    return f"{Path(shipped).name}, which comes with it, of {label}; or --weights FILE or random"


def select_tasks(texts: Sequence[str]) -> list[Task]:
    """Every task named, once, in the order named: by name, glob or `all`, or `hear:DIR[@RATE]`."""
    tasks: dict[str, Task] = {}
    for text in split_names(texts):
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
    root = Path(folder).expanduser().absolute()
    return replace(read_hear_task(root, int(rate) if rate else None), root=root)


def _absolute(weights: str) -> str:
    return weights if weights in ("default", "random") else str(Path(weights).absolute())


def _matching(text: str, known: Sequence[str], kind: str) -> list[str]:
    if text == "all":
        return list(known)
    if any(mark in text for mark in "*?["):
        found = fnmatch.filter(known, text)
        if not found:
            raise UsageError(f'No {kind} matches "{text}". There are: {", ".join(known)}.')
        return found
    return [text]


def _choose_hear(module: str, settings: Mapping[str, Any], weights: str, seed: int) -> HearChoice:
    if settings:
        raise UsageError(f'The HEAR module "{module}" has no settings, but "{next(iter(settings))}" is set.')
    if weights == "random":
        raise UsageError(f'The HEAR module "{module}" loads its own weights; --weights random does not fit it.')
    from aape_bench.hear_in import draws_weights, load_hear_encoder

    path, sha256 = None, None
    if weights != "default":
        path = Path(weights)
        if not path.is_file():
            raise CheckpointError(f"There is no checkpoint {path}. Correct --weights.")
        sha256 = file_digest(path)
    label = f"hear:{module}" + (f"@{sha256[:8]}" if sha256 else "")
    encoder = load_hear_encoder(module, path, seed)
    seeded = draws_weights(module, encoder, path, seed)
    source = f"file:{sha256[:8]}" if sha256 else "module"
    # our own encoders say of themselves that they are random, always of one seed
    if seeded or getattr(encoder.model, "random_weights", False):
        source = "random"
    return HearChoice(label, source, seed, path, sha256, module, encoder, seeded)


def _config_of_checkpoint(
    plugin: EncoderPlugin, path: Path, settings: Mapping[str, Any], shipped: bool
) -> tuple[Any, Any]:
    """The checkpoint's own config, and the one asked for: only settings of inference may be changed on top of it."""
    from aape_bench.checkpoint import read_header

    header = read_header(path)
    if header.model and header.model != plugin.name:
        raise CheckpointError(
            f'The checkpoint {path} is of the model "{header.model}", not "{plugin.name}". Name --model {header.model}.'
        )
    owner = f'The model "{plugin.name}"'
    if not header.config:
        config = make_config(plugin.config, settings, owner)
        return config, config
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
    return trained, asked
