"""How an encoder is offered to the harness: a description that imports without torch.

The entry point of a model names an `EncoderPlugin`. Planning reads only this, so that a run with nothing
left to do ends at once; `build` imports torch and makes the encoder. (A plugin's module may import torch at
its top; planning is then two seconds slower, nothing else.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aape_bench.encoder import Encoder
    from aape_bench.packages import PackageWeights
    from aape_bench.published_weights import PublishedWeights
    from aape_bench.training import Training


@dataclass(frozen=True)
class NoSettings:
    """The config of an encoder that has nothing to set."""


def no_weights() -> str | None:
    """No checkpoint comes with the encoder."""
    return None


@dataclass(frozen=True)
class EncoderPlugin:
    """One encoder family.

    name:         what `--model` calls it.
    title:        one line for `aape-bench models`.
    build:        `(config, seed) -> Encoder`, weights drawn from the seed alone (see `randomness`).
    config:       frozen dataclass of its settings (see `settings`); all of them end up in the identity.
    sources:      dotted names of the modules whose code decides its embeddings, besides those of `build` and
                  `config`; they are hashed into its identity, so that changed code is never served old embeddings.
    sample_rate:  Hz, the rate of the audio it is given.
    has_weights:  False where there is nothing to draw, load or train (but what `package` always brings).
    default_weights: returns the path of a checkpoint that comes with it, used when none is named; None: there is none,
                  and seeded random weights are used.
    package:      the installed package that its default weights are read from; None: none.
    published:    weights that its authors published and the user has to get; without a file it is refused. None: none.
    training:     returns how it is trained and ablated (a function of a module, for other processes); None: it is not.
    """

    name: str
    title: str
    build: Callable[[Any, int], Encoder]
    config: type[Any] = NoSettings
    sources: tuple[str, ...] = ()
    sample_rate: int = 16000
    has_weights: bool = True
    default_weights: Callable[[], str | None] = no_weights
    package: PackageWeights | None = None
    published: PublishedWeights | None = None
    training: Callable[[], Training] | None = None
    licence: str = ""
    citation: str = ""
    homepage: str = ""

    @property
    def code(self) -> list[str]:
        """Every module whose code decides its embeddings, sorted."""
        return sorted({*self.sources, self.build.__module__, self.config.__module__})
