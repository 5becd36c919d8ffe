"""Weights that lie among the files of an installed package: found, hashed and read; nothing of the package is imported.

Such a package may ask for others that are heavy or do not go together with ours; its files need none of them.

Not among the encoders: aisfx (sound effects). Its weights are CC BY 4.0, but its published embeddings come of
the mel bands of Essentia, which is AGPL, and with those of librosa, which its code takes as well, they are others.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aape_bench.checkpoint import why_not_unpickled
from aape_bench.errors import ModelError
from aape_bench.identity import digest, file_digest

if TYPE_CHECKING:
    import torch

    from aape_bench.encoder import Encoder
    from aape_bench.overlap import Value


@dataclass(frozen=True)
class PackageWeights:
    """Where an encoder's weights come from.

    distribution: the package's name on PyPI.
    files:   of the weights, relative to where packages are installed; `{key}` stands for a setting's value.
    read:    `(encoder, paths) -> None` puts the files' weights into the encoder; raises ModelError where they do not
             fit.
    install: arguments of `pip install` for the version that was tested.
    needs:   other modules that the encoder imports.
    overlap: task -> what of it the weights were trained on, "none", "train" or "test" (see `overlap.Overlap`), as far
             as it was published. Of tasks that are not named: "none" where our generators make them, else "unknown".
    """

    distribution: str
    files: tuple[str, ...]
    read: Callable[[Encoder, Sequence[Path]], None]
    install: str
    needs: tuple[str, ...] = ()
    overlap: Mapping[str, Value] = field(default_factory=dict)

    @property
    def version(self) -> str | None:
        """The version that is installed, None where none is."""
        try:
            return distribution(self.distribution).version
        except PackageNotFoundError:
            return None

    @property
    def usable(self) -> bool:
        """Whether the package, and what the encoder imports, is installed."""
        return self.version is not None and not self._missing()

    @property
    def prefix(self) -> str:
        """What `weights` of its encoders begins with in a record."""
        return f"package:{self.distribution}-"

    def locate(self, config: Any) -> list[Path]:
        """The files of an encoder with these settings. Raises ModelError where they or what they need is missing."""
        if self.version is None or self._missing():
            missing = [self.distribution] if self.version is None else self._missing()
            raise ModelError(
                f"The model needs {' and '.join(missing)}, which is not installed. Install it with: pip install "
                f"{self.install}"
            )
        settings = asdict(config)
        places = [distribution(self.distribution).locate_file(file.format(**settings)) for file in self.files]
        paths = [Path(str(place)) for place in places]
        if absent := [path for path in paths if not path.is_file()]:
            raise ModelError(
                f"The installed package {self.distribution} {self.version} has no file {absent[0].name}. Install the "
                f"version that was tested: pip install --force-reinstall {self.install}"
            )
        return paths

    def _missing(self) -> list[str]:
        return [module for module in self.needs if find_spec(module) is None]


def digest_of(paths: Sequence[Path]) -> str:
    """SHA-256 (hex) of one file, or over those of several."""
    each = [file_digest(path) for path in paths]
    return each[0] if len(each) == 1 else digest(each)


def read_pickled_tensors(path: Path, allowed: Sequence[Any] = ()) -> Any:
    """What a .pt or .pth file holds: tensors, numbers and containers. Nothing else is unpickled, no code is run.

    allowed: further globals that torch may call while unpickling, as `torch.serialization.safe_globals` takes them.
    Raises ModelError where the file holds anything else or is damaged.
    """
    import torch

    try:
        with torch.serialization.safe_globals(list(allowed)), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch's advice, which is not for our user
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may fail anywhere
        what = why_not_unpickled(error)
        raise ModelError(f"The weights {path.name} cannot be read ({what}). Install the package again.") from None


def fill(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Load a state dict of exactly the module's names and shapes. Raises ModelError where it is of something else."""
    import torch

    try:
        module.load_state_dict(dict(tensors))
    except (RuntimeError, TypeError, AttributeError) as error:
        what = str(error).strip().partition("\n")[2].partition("\n")[0].strip() or str(error)
        raise ModelError(
            f"The weights {path.name} are not those of the version that was tested ({what}). Install that version."
        ) from None
    if not all(torch.isfinite(tensor).all() for tensor in module.state_dict().values()):
        raise ModelError(f"The weights {path.name} hold NaN or infinite values. Install the package again.")
