"""hearvalidator, the validator of HEAR 2021, as a second opinion: its `ValidateModel` in a process of its own.

https://github.com/hearbenchmark/hear-validator, version 2021.0.6. It imports TensorFlow for one `isinstance`; where
TensorFlow is not installed it is lent a module with that one class while it is imported. As a dependency it would bring
TensorFlow, so it is none: `pip install --no-deps --ignore-requires-python hearvalidator==2021.0.6`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aape_bench.validation.answers import Outcome
    from aape_bench.validation.subject import Subject

INSTALL = "pip install --no-deps --ignore-requires-python hearvalidator==2021.0.6"
SECONDS = 900
#: The warning that it always gives: drift over long audio, which it does not look for.
_STANDING = "IMPORTANT: A common bug"


def hearvalidator_verdicts(subjects: Sequence[Subject]) -> list[Outcome]:
    """What hearvalidator says of models that are named and loaded alike in one other process."""
    from aape_bench.validation.answers import Outcome

    if find_spec("hearvalidator") is None:
        return [Outcome("skip", f"not installed: {INSTALL}")] * len(subjects)
    words = [[one.name, dict(one.settings), one.weights, one.seed, one.device] for one in subjects]
    # -P: a checkout's bare folders must not come before the installed package
    line = [sys.executable, "-P", "-m", "aape_bench.validation.peer", json.dumps(words)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            line, env=environment, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False
        )
        found = json.loads(done.stdout.rpartition("\n")[2])
    except subprocess.TimeoutExpired:
        return [Outcome("fail", f"it did not end within {SECONDS} s")] * len(subjects)
    except ValueError:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return [Outcome("fail", f"it ended without a verdict: {last[:300]}")] * len(subjects)
    return [Outcome(verdict, f"{_release()}: {reason}") for verdict, reason in found]


def main(words: str) -> None:
    """Print hearvalidator's verdicts as the last line, JSON."""
    validator = import_hearvalidator()
    with contextlib.redirect_stdout(sys.stderr):
        found = [_verdict(validator, *each) for each in json.loads(words)]
    print("\n" + json.dumps(found), end="", flush=True)
    os._exit(0)  # threads of a foreign module cannot delay it, nor print after it


def _verdict(
    validator: Any, name: str, settings: dict[str, Any], weights: str, seed: int, device: str
) -> tuple[str, str]:
    from aape_bench.validation.subject import open_subject

    module: Any = ModuleType("validated")
    if name.startswith("hear:"):
        module, path = importlib.import_module(name.removeprefix("hear:")), "" if weights == "default" else weights
    else:
        subject, path = open_subject(name, settings, weights, seed, device), ""
        if subject.failure:
            return "fail", subject.failure
        module.load_model = subject.load
        module.get_scene_embeddings = lambda audio, model: subject.scenes(audio, model=model)
        module.get_timestamp_embeddings = lambda audio, _: subject.moments(audio)
    sys.modules["aape_bench_validated"] = module  # where importlib finds it by name
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            validator.ValidateModel("aape_bench_validated", path, device)()
        except validator.ModelError as error:  # a BaseException
            return "fail", _line(error)
        except (Exception, SystemExit) as error:
            return "fail", f"{type(error).__name__}: {_line(error)}"
    advice = sorted({_line(one.message) for one in heard if one.filename == validator.__file__})
    advice = [text for text in advice if not text.startswith(_STANDING)]
    return ("warn", " ".join(advice)) if advice else ("pass", "no complaint")


def import_hearvalidator() -> Any:
    """The module with `ValidateModel` and `ModelError`."""
    with lent_tensorflow():
        return importlib.import_module("hearvalidator.validate")


@contextlib.contextmanager
def lent_tensorflow() -> Iterator[None]:
    """`import tensorflow` gives `tf.Module` and nothing else inside the block, where TensorFlow is not installed.

    HEAR's tools ask whether a model is one. Whatever is imported later finds no TensorFlow that is not there.
    """
    lent = find_spec("tensorflow") is None
    if lent:
        stand_in = ModuleType("tensorflow")
        stand_in.__spec__ = ModuleSpec("tensorflow", loader=None)
        stand_in.__dict__["Module"] = type("Module", (), {})
        sys.modules["tensorflow"] = stand_in
    try:
        yield
    finally:
        if lent:
            del sys.modules["tensorflow"]


def _release() -> str:
    try:
        return version("hearvalidator")
    except PackageNotFoundError:
        return "of unknown version"


def _line(message: object) -> str:
    return " ".join(str(message).split())


if __name__ == "__main__":
    main(sys.argv[1])
