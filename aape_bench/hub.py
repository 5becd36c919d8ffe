"""Models of the Hugging Face hub, or of a folder in its layout: found, pinned and chosen without torch.

`hf:REPO[@REVISION]` or `hf:FOLDER`. How models of one architecture are run is a plugin, an entry point of the group
`aape_bench.hub` under transformers' own name of the architecture (the `model_type` in config.json). No code of a
repository is run but by `--trust-remote-code`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aape_bench import registry
from aape_bench.choices import ModelChoice
from aape_bench.errors import BenchError, ModelError, UsageError
from aape_bench.identity import digest, file_digest, source_digest
from aape_bench.selection import whole_path
from aape_bench.settings import EXECUTION, deciding, label_of, make_config

if TYPE_CHECKING:
    from aape_bench.encoder import Encoder

#: The family of architectures that transformers does not know, whose code comes with the weights.
REMOTE = "remote-code"

_ABOUT = ("config.json", "preprocessor_config.json", "processor_config.json")
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin")
#: Ends of the names of settings that decide how much is built, and the largest value taken: the largest models have
#: about a hundred layers that are some ten thousand wide.
_LARGEST = {
    ("layers", "depths"): 1000,
    ("hidden_size", "intermediate_size", "d_model", "ffn_dim", "conv_dim"): 65536,
    ("feature_size", "num_mel_bins", "max_source_positions", "max_length", "n_fft", "fft_window_size"): 65536,
}
_INSTALL = 'pip install "aape-bench[hf]"'


@dataclass(frozen=True)
class HubConfig:
    """Settings of every hub model.

    layer: which hidden states are pooled: "last", the encoder's own output; a number, transformers' `hidden_states` of
        that number, 0 being the input of the first block and N the output of block N; "mean" of these; or "all" of
        them side by side. Learned weights of layers are no part of a frozen embedding: with "all" a linear probe finds
        its own, one for every value, and every weighted sum of layers is among its choices.
    trust_remote_code: run Python code that comes with the weights, where transformers does not know the architecture.
    """

    layer: int | Literal["last", "mean", "all"] = "last"
    trust_remote_code: bool = field(default=False, metadata=EXECUTION)


@dataclass(frozen=True)
class HubSource:
    """A model on this disk.

    name: the repository, or the folder's name. place: what follows `hf:` to have the same again. folder: where its
    files are. revision: commit of the repository, or "sha256:<hash>" of the files that are used. config: config.json.
    front_end: preprocessor_config.json. pickled: its weights are no safetensors.
    """

    name: str
    place: str
    folder: Path
    revision: str
    config: Mapping[str, Any]
    front_end: Mapping[str, Any]
    pickled: bool

    @property
    def model_type(self) -> str:
        """transformers' name of the architecture."""
        return str(self.config.get("model_type", ""))

    @property
    def sample_rate(self) -> int:
        """Hz, of the model's own front end. Raises ModelError where it does not say."""
        rate = self.front_end.get("sampling_rate")
        if not isinstance(rate, int) or not 1000 <= rate <= 400_000:
            raise ModelError(
                f"The hub model {self.name} does not say its sample rate: preprocessor_config.json "
                f"({self.folder}) should have a sampling_rate in Hz, not {rate!r}."
            )
        return rate


@dataclass(frozen=True)
class HubFamily:
    """How models of one architecture are run.

    name: transformers' `model_type`. build: `(source, config, seed) -> Encoder`, of the stored weights or, with a seed,
    of random ones. sources: dotted names of the modules whose code decides its embeddings.
    """

    name: str
    title: str
    build: Callable[[HubSource, HubConfig, int | None], Encoder]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class HubChoice(ModelChoice):
    """A hub model at a fixed revision."""

    source: HubSource
    family: HubFamily
    config: HubConfig

    @property
    def sample_rate(self) -> int:
        return self.source.sample_rate

    @cached_property
    def lineage(self) -> str:  # type: ignore[override]
        return self._hash(deciding(self.config))

    def _hash(self, config: dict[str, Any]) -> str:
        return digest(
            {
                "revision": self.source.revision,
                "config": config,
                "weights": "random" if self.draws_from_seed else "stored",
                "code": source_digest(sorted({*self.family.sources, "aape_bench.hub"})),
                "transformers": version("transformers"),
            }
        )

    @property
    def settings(self) -> dict[str, Any]:
        where = {"repository": self.source.name, "revision": self.source.revision, "type": self.source.model_type}
        return {**asdict(self.config), **where}

    @property
    def words(self) -> tuple[str, dict[str, Any], str, int]:
        weights = "random" if self.draws_from_seed else "default"
        return f"hf:{self.source.place}", asdict(self.config), weights, self.seed

    @cached_property
    def reads_from(self) -> str | None:  # type: ignore[override]
        if self.family.name == REMOTE:  # nothing is known of the shapes of its layers
            return None
        config = {name: value for name, value in deciding(self.config).items() if name != "layer"}
        return digest([self._hash(config), self.seed if self.draws_from_seed else None])

    def build_beside(self, others: Sequence[ModelChoice]) -> tuple[Encoder, list[int | None]]:
        from aape_bench.models.hub.encoder import HubEncoder
        from aape_bench.models.hub.layers import Layers

        encoder = self.build()
        if not isinstance(encoder, HubEncoder):  # of another package's family
            return encoder, [None] * len(others)
        together = Layers(encoder, [one.settings["layer"] for one in (self, *others)]).eval()
        return together, together.sizes[1:]

    def build(self) -> Encoder:
        """The encoder. Raises ModelError, which names the model, whatever is wrong with its files."""
        try:
            return self.family.build(self.source, self.config, self.seed if self.draws_from_seed else None).eval()
        except BenchError:
            raise
        except Exception as error:
            from torch import OutOfMemoryError

            if isinstance(error, OutOfMemoryError):
                raise
            raise ModelError(
                f"The hub model {self.source.name} cannot be built as its config.json and preprocessor_config.json "
                f"({self.source.folder}) say: {type(error).__name__}: {error}. Download them again."
            ) from error


def choose_hub(place: str, settings: Mapping[str, Any], weights: str, seed: int) -> HubChoice:
    """A hub model: `place` is REPO[@REVISION] or a folder. Other arguments as `selection.select_model`."""
    if find_spec("transformers") is None:
        raise UsageError(f"Hub models need transformers, which is not installed here: {_INSTALL}")
    if weights not in ("default", "random"):
        raise UsageError(
            f"The hub model {place} brings its own weights, so --weights FILE does not fit it. To run others of the "
            "same architecture name their folder: --model hf:FOLDER."
        )
    _refuse_no_place(place)
    config = make_config(HubConfig, settings, f'The hub model "{place}"')
    source = _folder(whole_path(place), config.trust_remote_code) if _is_path(place) else _repository(place)
    family = _family(source, config)
    _ = source.sample_rate  # refused now where it is unknown
    _refuse_absurd(source)
    label = label_of(f"hf:{source.name}", config)
    if weights == "random":
        return HubChoice(f"{label}@random", "random", seed, None, None, source, family, config)
    short = source.revision.removeprefix("sha256:")[:8]
    return HubChoice(f"{label}@{short}", f"hub:{short}", seed, None, None, source, family, config)


def absolute_place(name: str) -> str:
    """`hf:FOLDER` with the folder's absolute path; `hf:REPO` as it is. Raises UsageError where it is neither."""
    place = name.removeprefix("hf:")
    _refuse_no_place(place)
    return f"hf:{whole_path(place)}" if _is_path(place) else name


def _refuse_no_place(place: str) -> None:
    before, at, revision = place.rpartition("@")
    if not place or (at and not (before and revision) and not Path(place).is_dir()):
        raise UsageError(
            f'"hf:{place}" names no model. Name a repository, hf:ORG/NAME or hf:ORG/NAME@REVISION, or a folder, '
            "hf:./NAME (the current one: hf:.)."
        )
    named_as_folder = before.startswith((".", "/", "~")) or "/" not in before
    if at and named_as_folder and whole_path(before).is_dir() and not whole_path(place).is_dir():
        raise UsageError(
            f'"hf:{place}" asks for a revision of the folder {before}, and a folder has none. Name it alone, '
            f"hf:{before}, or a repository with its organisation: hf:ORG/NAME@{revision}."
        )


def _is_path(place: str) -> bool:
    return place.startswith((".", "/", "~")) or Path(place).is_dir()


def _family(source: HubSource, config: HubConfig) -> HubFamily:
    known = [name for name in registry.hub_names() if name != REMOTE]
    if source.model_type in known:
        return registry.hub_family(source.model_type)
    if "auto_map" not in source.config:
        raise UsageError(
            f'The hub model {source.name} is of the architecture "{source.model_type}", for which there is no front '
            f"end here. Those that can be run: {', '.join(known)}."
        )
    if not config.trust_remote_code:
        raise UsageError(
            f"The hub model {source.name} brings code of its own, which was not run. Read it ({source.folder}), and "
            "if you trust it, run again with --trust-remote-code. Those that need none: " + ", ".join(known) + "."
        )
    return registry.hub_family(REMOTE)


def _repository(place: str) -> HubSource:
    repository, _, revision = place.partition("@")
    folder = _download(repository, revision or None, (*_ABOUT, *_SAFETENSORS))
    if _weights(folder)[0] is None:
        folder = _download(repository, folder.name, (*_ABOUT, *_PICKLES))
    config = _json(folder, "config.json", repository)
    if "auto_map" in config:
        folder = _download(repository, folder.name, (*_ABOUT, *_SAFETENSORS, *_PICKLES, "*.py"))
        _refuse_elsewhere(config, repository)
    return HubSource(
        repository,
        f"{repository}@{folder.name}",
        folder,
        folder.name,
        config,
        _front_end(folder, repository),
        pickled=_weights(folder, repository)[1],
    )


def _folder(folder: Path, with_code: bool) -> HubSource:
    if not folder.is_dir():
        raise UsageError(
            f"There is no folder {folder}. Name one with config.json and weights, or a repository: ORG/NAME."
        )
    config, front_end = _json(folder, "config.json", str(folder)), _front_end(folder, str(folder))
    files, pickled = _weights(folder, str(folder))
    used = [folder / name for name in _ABOUT if (folder / name).is_file()] + list(files or ())
    if with_code and "auto_map" in config:
        _refuse_elsewhere(config, str(folder))
        used += sorted(file for file in folder.glob("*.py") if file.is_file())
    prints = {file.name: _file_digest(file, file.stat().st_size, file.stat().st_mtime_ns) for file in used}
    return HubSource(folder.name, str(folder), folder, f"sha256:{digest(prints)}", config, front_end, pickled)


# the same weights are looked at for every seed
@functools.cache
def _file_digest(file: Path, size: int, changed: int) -> str:  # noqa: ARG001 - they tell a file that was changed
    return file_digest(file)


def _download(repository: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """The folder, named by its commit, that holds those files of a repository which match, as far as it has them."""
    from huggingface_hub import errors, snapshot_download

    named = repository + (f"@{revision}" if revision else "")
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except errors.HFValidationError:
        raise UsageError(
            f'"{repository}" is no name of a hub repository. Name ORG/NAME, or a folder: ./NAME.'
        ) from None
    except errors.GatedRepoError:
        raise UsageError(
            f"The hub repository {repository} asks for consent first. Give it at https://huggingface.co/{repository} "
            "and log in on this machine (hf auth login)."
        ) from None
    except errors.RepositoryNotFoundError:
        raise UsageError(
            f"There is no public hub repository {repository}. Correct the name, or log in (hf auth login)."
        ) from None
    except errors.RevisionNotFoundError:
        raise UsageError(f'The hub repository {repository} has no revision "{revision}". Correct it.') from None
    except Exception as error:  # no connection, in any of its forms
        option = f" --revision {revision}" if revision else ""
        raise ModelError(
            f"The hub model {named} is not on this machine and could not be fetched ({type(error).__name__}). Where "
            f"there is a connection: hf download {repository}{option}, then bring the folder named by HF_HOME (by "
            "default ~/.cache/huggingface) here, or name the folder of its files: --model hf:FOLDER."
        ) from error


def _json(folder: Path, name: str, owner: str) -> dict[str, Any]:
    if (folder / name).exists() and not (folder / name).is_file():  # to read a pipe would be to wait for ever
        raise ModelError(f"{folder / name} is no regular file. Download the hub model {owner} again.")
    try:
        value = json.loads((folder / name).read_bytes())
    except FileNotFoundError:
        raise ModelError(
            f"The hub model {owner} has no {name} ({folder}). Name a folder that transformers saved."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{folder / name} cannot be read ({type(error).__name__}). Download it again.") from None
    if not isinstance(value, dict):
        raise ModelError(f"{folder / name} holds no settings. Download it again.")
    return value


def _front_end(folder: Path, owner: str) -> dict[str, Any]:
    """Settings of the feature extractor: a file of their own, or in the processor's."""
    if not (folder / _ABOUT[1]).is_file() and (folder / _ABOUT[2]).is_file():
        nested = _json(folder, _ABOUT[2], owner).get("feature_extractor")
        return nested if isinstance(nested, dict) else {}
    return _json(folder, _ABOUT[1], owner)


def _weights(folder: Path, owner: str = "") -> tuple[list[Path] | None, bool]:
    """Files of weights, and whether they are pickles. None, or ModelError where an owner is named: there are none."""
    for (whole, index, _), pickled in ((_SAFETENSORS, False), (_PICKLES, True)):
        if (folder / whole).is_file():
            return [folder / whole], pickled
        if (folder / index).is_file():
            parts = _json(folder, index, owner).get("weight_map", {})
            names = sorted({str(name) for name in parts.values()}) if isinstance(parts, dict) else []
            if missing := [one for one in names if Path(one).name != one or not (folder / one).is_file()]:
                raise ModelError(f"{folder / index} names {missing[0]}, which is not there. Download the model again.")
            return [folder / index, *(folder / name for name in names)], pickled
    if owner:
        raise ModelError(
            f"The hub model {owner} has no weights that can be read here ({folder}): neither {_SAFETENSORS[0]} nor "
            f"{_PICKLES[0]}, whole or in parts."
        )
    return None, False


def _refuse_elsewhere(config: Mapping[str, Any], owner: str) -> None:
    names = config["auto_map"].values() if isinstance(config["auto_map"], dict) else []
    if other := [str(name) for name in names if "--" in str(name)]:
        raise ModelError(
            f"The hub model {owner} runs code of another repository ({other[0]}), which no revision pins. Put that "
            "code into a copy of the model's folder, and name the folder."
        )


def _refuse_absurd(source: HubSource) -> None:
    """ModelError where a model would be built until the memory ends."""
    for file, settings in zip(_ABOUT, (source.config, source.front_end), strict=False):
        left: list[tuple[str, Any]] = list(settings.items())
        while left:  # no recursion: how deep they are nested is not ours to say
            name, value = left.pop()
            if isinstance(value, dict):
                left += value.items()
            elif isinstance(value, list):
                left += [(name, one) for one in value]
            elif isinstance(value, (int, float)):
                largest = next((most for ends, most in _LARGEST.items() if name.endswith(ends)), None)
                if largest is not None and value > largest:
                    raise ModelError(
                        f"The hub model {source.name} cannot be built: {file} ({source.folder}) says {name}={value}, "
                        f"and more than {largest} is taken for a mistake. Download the model again."
                    )
