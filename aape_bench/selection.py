"""What a command line names -> what is to be run: models with their settings and weights, tasks, protocols.

A model is `NAME`, `NAME{key=value;...}`, `hear:MODULE`, `hf:REPO[@REVISION]`, `hf:FOLDER` or `FILE.py:FUNCTION`; a task
is a name or `hear:DIR[@RATE]`, a folder in HEAR's layout; names of both may be a glob or `all`, repeat, and split at
commas outside braces, of which a backslash makes a part of the name (see `escapes`).
"""

from __future__ import annotations

import fnmatch
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aape_bench import escapes, registry
from aape_bench.checkpoint import RANDOM_WEIGHTS, CheckpointHeader, load_checkpoint, read_header, save_checkpoint
from aape_bench.errors import CheckpointError, ModelError, UsageError
from aape_bench.identity import digest, file_digest, source_digest
from aape_bench.plugin import EncoderPlugin
from aape_bench.settings import deciding, label_of, make_config, split_assignments
from aape_bench.task import Task

if TYPE_CHECKING:
    from aape_bench.encoder import Encoder
    from aape_bench.overlap import Value


@dataclass(frozen=True)
class ModelChoice(ABC):
    """One encoder as it will be run.

    label: its name on the leaderboard. weights: where they are from, "none", "random", "module", "file:<hash>" or, of
    those that come with the encoder, "shipped:<hash>" or "package:<name>-<version>:<hash>".
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
        return self.weights == "random" and self.path is None

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
    def reads_from(self) -> str | None:
        """Hash of the model of which it reads a layer; others of the same can be read in one pass. None: of none."""
        return None

    def build_beside(self, others: Sequence[ModelChoice]) -> tuple[Encoder, list[int]]:
        """The encoder whose embeddings are its own and those of others that read from the same, side by side.

        Returns the size of each, too. Raises as `build`, and UsageError where one has nothing to read there.
        """
        raise NotImplementedError

    @property
    @abstractmethod
    def words(self) -> tuple[str, dict[str, Any], str, int]:
        """Arguments of `select_model` that choose it again, in another process."""

    def at_precision(self, precision: str) -> ModelChoice:
        """The same, called by the precision that it is run at where that is not float32."""
        return self if precision == "float32" else replace(self, label=f"{self.label}@{precision}")

    def pooled(self, pooling: str) -> ModelChoice:  # noqa: ARG002
        """The same with the scene embedding of that name, where it has the choice."""
        return self

    @property
    def card(self) -> dict[str, Any]:
        """What its checkpoint says of itself; nothing where there is none of ours."""
        return {}

    @property
    def declared(self) -> Mapping[str, Value] | None:
        """What its package's weights were trained on, None where it has none (see `packages.PackageWeights`)."""
        return None

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

    def untrained(self) -> Encoder:
        """The encoder with weights drawn from the seed. Raises ModelError in the name of another package's plugin."""
        if self.plugin.build.__module__.startswith("aape_bench."):
            return self.plugin.build(self.config, self.seed)
        from aape_bench.foreign_model import build_foreign

        return build_foreign(self.plugin, self.config, self.seed)

    def build(self) -> Encoder:
        encoder = self.untrained()
        if self.path is not None:
            load_checkpoint(encoder, self.path)
        if encoder.sample_rate != self.plugin.sample_rate:
            raise ModelError(
                f'The model "{self.plugin.name}" runs at {encoder.sample_rate} Hz but its plugin declares '
                f"{self.plugin.sample_rate} Hz."
            )
        return encoder.eval()

    @property
    def words(self) -> tuple[str, dict[str, Any], str, int]:
        own = not self.weights.startswith(("shipped:", "package:"))
        weights = "random" if self.path is None else str(self.path) if own else "default"
        return self.plugin.name, self.settings, weights, self.seed

    def pooled(self, pooling: str) -> ModelChoice:
        if "pooling" not in {field.name for field in fields(self.config)}:
            return self
        return replace(self, config=replace(self.config, pooling=pooling))

    @property
    def card(self) -> dict[str, Any]:
        return {} if self.path is None else dict(read_header(self.path).card)

    @property
    def declared(self) -> Mapping[str, Value] | None:
        return None if self.plugin.package is None else self.plugin.package.overlap

    def save(self, encoder: Encoder, path: Path, card: Mapping[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, encoder, self.plugin.name, self.settings, card)


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
