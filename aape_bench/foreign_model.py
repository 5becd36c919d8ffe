"""Models that load themselves, HEAR modules first: what is run of them, and under which name and identity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

from aape_bench.choices import ModelChoice
from aape_bench.errors import CheckpointError, UsageError
from aape_bench.hear_in import (
    blamed,
    draws_weights,
    hear_identity,
    load_hear_encoder,
    owner_of,
    refuse_valueless,
    sizes_of,
)
from aape_bench.identity import digest, file_digest
from aape_bench.plugin import EncoderPlugin

if TYPE_CHECKING:
    from aape_bench.encoder import Encoder


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

    def load(self, seed: int) -> Encoder:
        """The encoder loaded anew, torch's global generator beginning at the seed."""
        return load_hear_encoder(self.module, self.path, seed)

    def identify(self, encoder: Encoder) -> str:
        """Hash of what decides the embeddings of what was loaded."""
        return hear_identity(self.module, encoder)

    @cached_property
    def lineage(self) -> str:  # type: ignore[override]
        # random weights of any seed are one lineage: that of seed 0
        first = self.load(0) if self.seeded else self.encoder
        return digest({"module": self.identify(first), "weights": self.sha256})

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def build(self) -> Encoder:
        return self.encoder

    def build_anew(self) -> Encoder:
        encoder = self.load(self.seed)
        # a module may hand out one object to all who load it
        shared = {id(one) for one in self.encoder.modules()} & {id(one) for one in encoder.modules()}
        return deepcopy(encoder) if shared else encoder


def choose_hear(module: str, settings: Mapping[str, Any], weights: str, seed: int) -> HearChoice:
    """The HEAR module of a dotted name; other arguments as `selection.select_model`."""
    owner = owner_of(module)
    path, sha256 = foreign_weights(owner, settings, weights)
    label = f"hear:{module}" + (f"@{sha256[:8]}" if sha256 else "")
    encoder = load_hear_encoder(module, path, seed)
    seeded = draws_weights(owner, lambda other: load_hear_encoder(module, path, other), encoder, seed)
    # our own encoders say of themselves that they are random, always of one seed
    random = seeded or getattr(encoder.model, "random_weights", False)
    return HearChoice(label, source_of(sha256, random), seed, path, sha256, module, encoder, seeded)


def foreign_weights(owner: str, settings: Mapping[str, Any], weights: str) -> tuple[Path | None, str | None]:
    """The checkpoint of a foreign model and its SHA-256, None where it loads its own.

    Raises UsageError where it cannot have what is asked for, CheckpointError where there is no such file.
    """
    if settings:
        raise UsageError(f'The {owner} has no settings, but "{next(iter(settings))}" is set.')
    if weights == "random":
        raise UsageError(f"The {owner} loads its own weights; --weights random does not fit it.")
    if weights == "default":
        return None, None
    path = Path(weights)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}. Correct --weights.")
    return path, file_digest(path)


def blaming(encoder: Encoder, owner: str) -> Encoder:
    """The same object; what its answers raise, its exit, or no tensor is an error that names the owner."""

    def asked(name: str) -> Callable[..., Any]:
        own = getattr(type(encoder), name)

        def answer(self: Any, *given: Any, **named: Any) -> Any:
            import torch

            with blamed(owner, name):
                made = own(self, *given, **named)
                if not all(isinstance(one, torch.Tensor) for one in (made if isinstance(made, tuple) else (made,))):
                    raise TypeError(f"it returns a {type(made).__name__}, not what aape_bench.encoder.Encoder asks for")
                return made

        return answer

    for name in ("scene_embeddings", "timestamp_embeddings"):
        if name not in vars(encoder):  # a function may return one object again and again
            # a bound method, not a class of our own: its class may count or compare, and a copy is bound to the copy
            setattr(encoder, name, MethodType(asked(name), encoder))
    return encoder


def build_foreign(plugin: EncoderPlugin, config: Any, seed: int) -> Encoder:
    """The encoder of another package's plugin. Raises ModelError, which names the plugin, whatever is wrong with it."""
    from aape_bench.encoder import Encoder

    owner = f'model "{plugin.name}"'
    with blamed(owner, "its build function"):
        encoder = plugin.build(config, seed)
        if not isinstance(encoder, Encoder):
            raise TypeError(f"it returns a {type(encoder).__name__}, not an aape_bench.encoder.Encoder")
        refuse_valueless(owner, encoder)
    sizes_of(owner, encoder)
    return blaming(encoder, owner)


def source_of(sha256: str | None, random: bool) -> str:
    """Where a foreign model's weights are from, as a record says it."""
    return "random" if random else f"file:{sha256[:8]}" if sha256 else "module"
