"""Models and feature extractors of transformers, from files on this disk. (Imports torch and transformers.)

Weights are safetensors, or where there are none a pickle read with `weights_only`, which runs no code.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import transformers

from aape_bench.checkpoint import why_not_unpickled
from aape_bench.errors import BenchError, ModelError
from aape_bench.hub import HubSource

#: Only masked training reads it; checkpoints of fine-tuned models may lack it.
_UNREAD = "masked_spec_embed"


def load_model(
    source: HubSource, kind: str, part: str, changes: Mapping[str, Any], seed: int | None
) -> torch.nn.Module:
    """A part of a transformers model: `kind` is its class, `part` the name of the module in it, "" for all.

    changes: settings put in place of the stored ones. seed: of random weights; None: the stored weights, in float32.
    Raises ModelError where transformers cannot read them, or they are not all there.
    """
    make = getattr(transformers, kind)
    with blamed(source), torch.random.fork_rng(devices=[]):
        config = make.config_class.from_pretrained(source.folder, local_files_only=True)
        for name, value in changes.items():
            setattr(config, name, value)
        # named here, since a config may name a kernel that transformers would fetch
        attention = "sdpa" if getattr(make, "_supports_sdpa", False) else "eager"
        if seed is not None:
            torch.manual_seed(seed)
            model = make._from_config(config, attn_implementation=attention, dtype=torch.float32)
        else:
            model = stored(source, make, part, config=config, attn_implementation=attention)
    return model.get_submodule(part)  # type: ignore[no-any-return]


def stored(source: HubSource, make: Any, part: str = "", **settings: Any) -> Any:
    """A model with its stored weights in float32. Raises ModelError where some of those of its part are missing."""
    model, about = make.from_pretrained(
        source.folder,
        dtype=torch.float32,
        use_safetensors=not source.pickled,
        weights_only=True,
        local_files_only=True,
        ignore_mismatched_sizes=True,  # refused below
        output_loading_info=True,
        **settings,
    )
    absent = [str(name) for name in about["missing_keys"]]
    absent += [str(one[0] if isinstance(one, tuple) else one) for one in about["mismatched_keys"]]
    if lacking := sorted(name for name in absent if name.startswith(part) and not name.endswith(_UNREAD)):
        raise ModelError(
            f"The weights of the hub model {source.name} do not fit its config.json: {lacking[0]} is missing or of "
            "another shape, and transformers would draw random ones. Download the model again."
        )
    return model


def load_extractor(source: HubSource, kind: str) -> Any:
    """A feature extractor with the model's settings. Raises ModelError where its settings are of another kind."""
    stored = source.front_end.get("feature_extractor_type", kind)
    if stored != kind:
        raise ModelError(
            f"The hub model {source.name} ({source.model_type}) has the front end {stored}, not {kind}, which is the "
            "one that can be run here."
        )
    with blamed(source), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of an empty mel filter, as those models have it
        return getattr(transformers, kind).from_pretrained(source.folder, local_files_only=True)


@contextmanager
def blamed(source: HubSource) -> Iterator[None]:
    """Whatever transformers raises becomes a ModelError that names the model; it prints nothing meanwhile."""
    log: Any = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    except (BenchError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        pickled = "weights_only" in str(error)
        what = why_not_unpickled(error) if pickled else f"{type(error).__name__}: {error}"
        raise ModelError(
            f"transformers {transformers.__version__} cannot load the hub model {source.name} from {source.folder}: "
            f"{what}"
        ) from error
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
