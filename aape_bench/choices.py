"""One encoder as it will be run: what decides its embeddings, and how it is built again anywhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aape_bench.checkpoint import load_checkpoint, read_header, save_checkpoint
from aape_bench.errors import ModelError, UsageError
from aape_bench.identity import digest, source_digest
from aape_bench.plugin import EncoderPlugin
from aape_bench.settings import deciding

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

    def build_beside(self, others: Sequence[ModelChoice]) -> tuple[Encoder, list[int | None]]:
        """The encoder whose embeddings are its own and those of others that read from the same, side by side.

        Returns the size of each of the others', too; None where there is no such layer. Raises as `build`.
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
