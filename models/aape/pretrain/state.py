"""A training run on disk: whose folder it is, checkpoints whole or absent, and which of them stay.

    config.json                the run: settings, seed and audio; another run is refused once there is a checkpoint
    teacher-STEP.safetensors   what `run --weights` evaluates, with config and card; `student-STEP` likewise
    state-STEP.pt              everything that `--resume` needs; written last, so that it marks a whole checkpoint

STEP is the number of steps done.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aape_bench.errors import BenchError, CheckpointError, StorageError, UsageError
from aape_bench.fitting.states import read_state, write_state
from aape_bench.models.aape.pretrain.log import BROKEN, LOG, MODES
from aape_bench.storage import check_writable, create_json, write_json

if TYPE_CHECKING:
    import torch

FORMAT = 1
SETTINGS = "config.json"
_FILES = {"teacher": "teacher-{}.safetensors", "student": "student-{}.safetensors", "state": "state-{}.pt"}
_BROKEN = re.compile(re.escape(BROKEN).replace(r"\{\}", r"(-\d+)?"))
#: What `atomic_write` calls a file that is not whole yet.
_DRAFT = re.compile(r"\.[0-9a-f]{16}\.tmp")
#: Bytes that a checkpoint leaves free on the disk, for the log and for whoever else writes there.
_RESERVE = 16 * 2**20


@dataclass(frozen=True)
class Folder:
    """The output folder of one run."""

    path: Path

    def file(self, kind: str, step: int) -> Path:
        """Where the checkpoint of a step has its `teacher`, `student` or `state`."""
        return self.path / _FILES[kind].format(step)

    def steps(self, kind: str = "state") -> list[int]:
        """Steps after which there is a file of that kind, in order."""
        pattern = re.compile(re.escape(_FILES[kind]).replace(r"\{\}", r"(\d+)"))
        return sorted(int(found[1]) for name in self._names() if (found := pattern.fullmatch(name)))

    def _names(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir()) if self.path.is_dir() else []

    def _begun(self) -> bool:
        """Whether there is any part of a checkpoint."""
        return any(self.steps(kind) for kind in _FILES)

    def check(self, run: Mapping[str, Any], resume: bool) -> None:
        """Raise UsageError where the folder belongs to another run, or to this one and it is not to go on.

        run: what decides the result, as JSON: nested settings by name. Settings without a checkpoint bind no one:
        that training failed before its first.
        """
        there = self._settings()
        if there is None:
            found = [f"{kind} files" for kind in _FILES if self.steps(kind)]
            found += [name for name in self._names() if name in (LOG, MODES) or _BROKEN.fullmatch(name)]
            if found:
                raise UsageError(
                    f"{self.path} holds {found[0]}, but no {SETTINGS} that says of what training. Choose another "
                    "folder with --out."
                )
            return
        wanted = json.loads(json.dumps(dict(run)))
        of_a_training = there.keys() == wanted.keys()  # and not of whatever else calls its settings so
        if (self._begun() or not of_a_training) and (difference := _difference(there, wanted)):
            raise UsageError(
                f"{self.path} belongs to another training: {difference}. Choose another folder with --out, or name "
                "the settings, the seed and the audio of that training."
            )
        if not resume and (done := self.steps()):
            raise UsageError(
                f"{self.path} holds this training already, {done[-1]} steps of it. Go on with --resume, or choose "
                "another folder with --out."
            )

    def _settings(self) -> dict[str, Any] | None:
        path = self.path / SETTINGS
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            return dict(settings["run"])
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            file = next((place for place in path.parents if place.is_file()), self.path)
            raise UsageError(f"{file} is a file, where --out wants a folder. Choose another with --out.") from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError(
                f"{path} cannot be read as the settings of a training ({error}). Choose another folder with --out."
            ) from None

    @contextmanager
    def claimed(self, run: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[None]:
        """Write the settings and keep other processes out of the folder until the block ends.

        about: what else config.json says; it decides nothing. Half-written files of a killed run are removed, and what
        one without a checkpoint has left. Raises UsageError where another process is there, StorageError where the
        folder cannot be written.
        """
        check_writable(self.path, "--out")
        settings = {"format": FORMAT, "run": dict(run), **about}
        new = create_json(self.path / SETTINGS, settings)
        with ExitStack() as held:
            held.enter_context(self._locked())
            if not new and not self._begun():
                write_json(self.path / SETTINGS, settings)
                held.enter_context(self._locked())  # the lock was on the file that this one has replaced
                for name in filter(_BROKEN.fullmatch, self._names()):  # would be continued, perhaps of other audio
                    (self.path / name).unlink()
            for name in filter(_DRAFT.fullmatch, self._names()):
                if (self.path / name).is_file():
                    (self.path / name).unlink()
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.path / SETTINGS).open() as handle:
            with suppress(ImportError):  # no such locks on Windows
                import fcntl

                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise UsageError(
                        f"Another process is training in {self.path}. Wait for it, or choose another folder with --out."
                    ) from None
                except OSError:  # a file system without locks
                    pass
            yield

    def check_room(self, size: int) -> None:
        """Raise StorageError where the disk has no room for `size` bytes and some more."""
        free = shutil.disk_usage(self.path).free
        if free < size + _RESERVE:
            raise StorageError(
                f"The disk that holds {self.path} is nearly full: a checkpoint takes {size / 2**20:.0f} MB and "
                f"{free / 2**20:.0f} MB are free. {self.last()} Free some space and run the same command with "
                "--resume, or lower keep_checkpoints."
            )

    def last(self) -> str:
        """A sentence on what there is."""
        done = self.steps()
        return f"The last checkpoint is that of step {done[-1]}." if done else "There is no checkpoint yet."

    def write_state(self, step: int, state: Mapping[str, Any]) -> None:
        """Write what resumes. Raises StorageError."""
        write_state(self.file("state", step), {"format": FORMAT, "step": step, **state})

    def read_state(self) -> dict[str, Any] | None:
        """The newest state, on the CPU, or None where there is none. Raises CheckpointError where it is damaged."""
        done = self.steps()
        if not done:
            return None
        path = self.file("state", done[-1])
        with self.intact():
            try:
                state = read_state(path)
            except OSError as error:
                raise CheckpointError(f"{path} cannot be read ({error.strerror or error}).") from None
            if state["format"] != FORMAT or state["step"] != done[-1]:
                raise ValueError("of another format or step")
            return {**state, "step": done[-1]}

    @contextmanager
    def intact(self) -> Iterator[None]:
        """Within the block the newest state is taken in: raises CheckpointError where something of it does not fit."""
        import torch

        try:
            yield
        except (BenchError, MemoryError, torch.cuda.OutOfMemoryError):  # no fault of the file
            raise
        except Exception as error:  # whatever a damaged archive leads to
            done = self.steps()
            before = f"step {done[-2]}" if len(done) > 1 else "the beginning"
            first, _, more = str(error).partition("\n")
            # torch's message on weights that do not fit begins with a line that says no more than that
            what = more.partition("\n")[0].strip() if first.endswith(":") and more else first
            what = f"it has no {what}" if isinstance(error, KeyError) else what[:200].rstrip(".")
            path = self.file("state", done[-1])
            raise CheckpointError(
                f"{path} is damaged ({what}). Delete it; --resume then goes on from {before}."
            ) from None

    def prune(self, keep: int) -> None:
        """Delete all but the newest `keep` checkpoints, with what is left of older ones."""
        stay = set(self.steps()[-keep:])
        for kind in _FILES:
            for step in self.steps(kind):
                if stay and step not in stay and step < max(stay):
                    self.file(kind, step).unlink(missing_ok=True)


def tensor_bytes(*tensors: torch.Tensor) -> int:
    """Bytes that the tensors take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _difference(there: Mapping[str, Any], wanted: Mapping[str, Any], where: str = "") -> str:
    """The first setting that differs, in words; "" where none does."""
    for name in sorted({*there, *wanted}):
        if name not in there or name not in wanted:
            return f"{where}{name} is {'missing' if name not in there else 'set'} there"
        one, other = there[name], wanted[name]
        if isinstance(one, dict) and isinstance(other, dict):
            if found := _difference(one, other, f"{where}{name}."):
                return found
        elif one != other:
            return f"{where}{name} is {one} there, not {other}"
    return ""
