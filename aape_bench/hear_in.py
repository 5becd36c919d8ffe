"""HEAR modules in: an Encoder of any module with the three functions of HEAR 2021.

https://hearbenchmark.com/hear-api.html. Importing this file does not import torch.
"""

from __future__ import annotations

import hashlib
import importlib
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from aape_bench.errors import BenchError, ModelError, UsageError
from aape_bench.identity import digest, files_digest, source_digest
from aape_bench.randomness import torch_stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from aape_bench.encoder import Encoder

_FUNCTIONS = ("load_model", "get_scene_embeddings", "get_timestamp_embeddings")
_SIZES = ("sample_rate", "scene_embedding_size", "timestamp_embedding_size")


def owner_of(name: str) -> str:
    """As messages call a HEAR module."""
    return f'HEAR module "{name}"'


def import_hear_module(name: str) -> ModuleType:
    """Import a HEAR module by dotted name. Raises UsageError or ModelError in plain words."""
    module = import_foreign(name)
    if missing := missing_functions(module):
        raise ModelError(f'"{name}" is not a HEAR module: it has no function {", ".join(missing)}.')
    return module


def missing_functions(module: ModuleType) -> list[str]:
    """Those of HEAR's three functions that a module does not have."""
    return [function for function in _FUNCTIONS if not callable(getattr(module, function, None))]


def import_foreign(name: str) -> ModuleType:
    """Import any module by dotted name. Raises UsageError or ModelError in plain words."""
    if not all(name.split(".")):
        raise UsageError(f'"hear:{name}" names no module. Name it by its dots: hear:MODULE or hear:PACKAGE.MODULE.')
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise UsageError(
                f'The HEAR module "{name}" is not installed here. Install it with pip, or put its folder on PYTHONPATH.'
            ) from None
        raise ModelError(f'The HEAR module "{name}" needs {error.name}, which is not installed.') from error
    except Exception as error:  # any module may fail in its own way
        raise ModelError(f'The HEAR module "{name}" cannot be imported: {type(error).__name__}: {error}') from error


def load_hear_encoder(name: str, weights: Path | None, seed: int) -> Encoder:
    """An Encoder around the HEAR module of that name, loaded with its own or the given weights.

    seed: of torch's global generator while it loads, for modules that draw what they do not load.
    """
    module, owner = import_hear_module(name), owner_of(name)
    doing = f"load_model({weights})" if weights else "load_model()"
    arguments = () if weights is None else (str(weights),)
    return wrap_hear_model(owner, module, load_seeded(owner, doing, lambda: module.load_model(*arguments), seed))


def load_seeded(owner: str, doing: str, load: Callable[[], Any], seed: int) -> Any:
    """What a foreign function returns, torch's global generator beginning at the seed and then put back.

    Raises ModelError in the owner's name for whatever it raises, and for a module whose parameters have no values.
    """
    import torch

    with torch.random.fork_rng(devices=[]), blamed(owner, doing):
        torch.manual_seed(seed)
        loaded = load()
        if isinstance(loaded, torch.nn.Module):
            refuse_valueless(owner, loaded)
        return loaded


def refuse_valueless(owner: str, model: torch.nn.Module) -> None:
    """Raise ModelError where a parameter or buffer is only promised."""
    from torch.nn.parameter import is_lazy

    for kind, named in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in named:
            if is_lazy(tensor) or tensor.is_meta:
                raise ModelError(
                    f"The {kind} {name} of the {owner} has no values: it belongs to a lazy layer that has met no audio "
                    'yet, or is on the device "meta". Give it values before the model is returned, a lazy layer by '
                    "one call with audio."
                )


#: Hz: what an encoder's sample rate may be.
LOWEST_RATE, HIGHEST_RATE = 1000, 400_000


def sizes_of(owner: str, model: Any) -> dict[str, int]:
    """HEAR's three attributes of a model. Raises ModelError where one is no positive whole number."""
    sizes = {}
    for size in _SIZES:
        with blamed(owner, size):
            value = getattr(model, size, None)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise ModelError(f"The model of the {owner} has no whole number {size}, as HEAR asks.")
        sizes[size] = value
    if not LOWEST_RATE <= sizes["sample_rate"] <= HIGHEST_RATE:
        raise ModelError(
            f"The model of the {owner} has a sample_rate of {sizes['sample_rate']} Hz, which should lie between "
            f"{LOWEST_RATE} and {HIGHEST_RATE}."
        )
    return sizes


def wrap_hear_model(owner: str, module: ModuleType, model: Any) -> Encoder:
    """An Encoder, in evaluation mode, of what a HEAR module has loaded."""
    import torch

    from aape_bench.encoder import Encoder

    sizes = sizes_of(owner, model)

    class HearEncoder(Encoder):
        takes_lengths = False

        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.sample_rate = sizes["sample_rate"]
            self.scene_embedding_size = sizes["scene_embedding_size"]
            self.timestamp_embedding_size = sizes["timestamp_embedding_size"]

        @property
        def parameter_count(self) -> int | None:
            return super().parameter_count if isinstance(model, torch.nn.Module) else None

        def scene_embeddings(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:  # noqa: ARG002
            with blamed(owner, "get_scene_embeddings"):
                return torch.as_tensor(module.get_scene_embeddings(audio, self.model))

        def timestamp_embeddings(
            self,
            audio: Tensor,
            lengths: Tensor | None = None,  # noqa: ARG002
        ) -> tuple[Tensor, Tensor]:
            with blamed(owner, "get_timestamp_embeddings"):
                embeddings, times = module.get_timestamp_embeddings(audio, self.model)
                return torch.as_tensor(embeddings), torch.as_tensor(times)

    return HearEncoder().eval()


@contextmanager
def blamed(owner: str, doing: str) -> Iterator[None]:
    """Whatever a foreign module raises, or its exit, becomes a ModelError that says where it came from."""
    import torch

    try:
        yield
    except (BenchError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise ModelError(
            f"The {owner} failed in {doing}: {in_words(error)} "
            f"({Path(last.filename).name}, line {last.lineno}). Mend the module, or use other weights."
        ) from error


def in_words(error: BaseException) -> str:
    """An exception's type and message, whatever its `__str__` does."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def draws_weights(owner: str, load: Callable[[int], Encoder], encoder: Encoder, seed: int) -> bool:
    """Whether a foreign model draws (some of) its weights from torch's seed: loaded with another, it is another model.

    encoder: what `load(seed)` returned. Raises ModelError where it is another one with the same seed too, since its
    results could not be repeated.
    """
    loaded = as_loaded(owner, encoder)
    if as_loaded(owner, load(seed + 1)) == loaded:
        return False
    if as_loaded(owner, load(seed)) != loaded:
        raise ModelError(
            f"The {owner} is another model each time it is loaded, so no result of it could be repeated. "
            "Name its weights with --weights, or mend what loads it."
        )
    return True


def hear_identity(name: str, encoder: Encoder) -> str:
    """Hash of what decides a loaded HEAR module's embeddings, as far as it can be seen.

    All Python code of the packages on its dotted path, and the version of the first; and what was loaded.
    """
    return digest(
        {
            "hear": name,
            "code": _code_of(name),
            "version": package_version(name.partition(".")[0]),
            **as_loaded(owner_of(name), encoder),
        }
    )


def as_loaded(owner: str, encoder: Encoder) -> dict[str, str | None]:
    """Hash of a model's parameters and buffers; of one without any (another framework's), of its answers.

    These are its embeddings of two fixed clips, to three digits. Raises ModelError in the owner's name.
    """
    with blamed(owner, "its state_dict()"):
        state = encoder.state_dict()
        found = _state_digest(state) if state else None
    return {"state": found, "answers": None if state else _answers_digest(encoder)}


def _code_of(name: str) -> dict[str, str]:
    parts = name.split(".")
    found = {name: source_digest([name])}
    for depth in range(1, len(parts) + 1):
        package = ".".join(parts[:depth])
        # a package's parts may lie anywhere (editable installs), so every folder that it names is looked into
        for at, folder in enumerate(getattr(importlib.import_module(package), "__path__", [])):
            found[f"{package} {at}"] = files_digest(sorted(Path(folder).rglob("*.py")), Path(folder))
    return found


def package_version(top: str) -> list[str]:
    """Name and version of what was installed with a top-level module of that name."""
    found = packages_distributions().get(top, [])
    return sorted(f"{distribution} {version(distribution)}" for distribution in set(found))


def _state_digest(state: Mapping[str, Any]) -> str:
    import torch

    total = hashlib.sha256()
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):  # a module's extra state
            total.update(f"{name} {tensor!r}".encode())
            continue
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        dense = tensor.detach() if tensor.layout == torch.strided else tensor.detach().to_dense()
        total.update(dense.cpu().resolve_conj().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _answers_digest(encoder: Encoder) -> str:
    import torch

    audio = 0.1 * torch.randn(2, encoder.sample_rate, generator=torch_stream(0, "hear", "answers"))
    with torch.inference_mode():
        answers = encoder.scene_embeddings(audio)
    # rounding noise is relative to the largest value: coarse enough for it, fine enough for another model
    scale = float(answers.abs().max()) or 1.0
    return digest([f"{scale:.3e}", [[f"{value / scale:.3f}" for value in row] for row in answers.tolist()]])
