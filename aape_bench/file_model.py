"""A model in a file, for a quick try: `--model path/to/file.py:FUNCTION`. The file is run: name what you would run.

`FUNCTION()` returns an `Encoder`. In a file that has HEAR's `get_scene_embeddings` and `get_timestamp_embeddings` it
may return whatever these take as `model`, with HEAR's three attributes, so that a HEAR module runs as
`file.py:load_model`. `--weights FILE` is what such a function is called with; else safetensors of an Encoder's names.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import ModuleSpec, SourceFileLoader, all_suffixes
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from aape_bench.errors import ModelError, UsageError
from aape_bench.foreign_model import HearChoice, blaming, foreign_weights, source_of
from aape_bench.hear_in import as_loaded, draws_weights, load_seeded, package_version, sizes_of, wrap_hear_model
from aape_bench.identity import digest, files_digest, module_file
from aape_bench.selection import whole_path
from aape_bench.storage import safe_name

if TYPE_CHECKING:
    from aape_bench.encoder import Encoder

#: What the harness itself computes with: another version of it does not make another model.
_COMMON = {"torch", "numpy", "scipy", "pandas", "sklearn", "soundfile", "soxr"}


@dataclass(frozen=True)
class ModelFile:
    """A file that was run, and the name of a function in it that makes a model."""

    file: Path
    function: str
    module: ModuleType

    @property
    def name(self) -> str:
        """As people call it: no folder."""
        return f"{self.file.name}:{self.function}"

    @property
    def owner(self) -> str:
        """As messages call it."""
        return f"model file {self.file}"

    @property
    def is_hear(self) -> bool:
        """Whether the file has HEAR's two functions that take a model."""
        return all(hasattr(self.module, name) for name in ("get_scene_embeddings", "get_timestamp_embeddings"))

    def make(self, weights: Path | None, seed: int) -> Any:
        """What the function returns, torch's global generator beginning at the seed. Raises ModelError.

        That is an Encoder, with the weights loaded, or anything in a file that is a HEAR module.
        """
        from aape_bench.checkpoint import load_checkpoint
        from aape_bench.encoder import Encoder

        function = getattr(self.module, self.function)
        arguments = (str(weights),) if self.is_hear and weights is not None else ()
        made = load_seeded(self.owner, f"{self.function}({', '.join(arguments)})", lambda: function(*arguments), seed)
        self._check_imports()
        if not self.is_hear and not isinstance(made, Encoder):
            raise ModelError(
                f"{self.function}() in {self.file} returns a {type(made).__name__}, not an aape_bench.encoder.Encoder. "
                "Return one, or give the file HEAR's get_scene_embeddings and get_timestamp_embeddings."
            )
        if not self.is_hear and weights is not None:
            load_checkpoint(made, weights)
        return made

    def load(self, weights: Path | None, seed: int) -> Encoder:
        """The encoder, in evaluation mode. Arguments and errors as `make`."""
        from aape_bench.encoder import Encoder

        made = self.make(weights, seed)
        if not isinstance(made, Encoder):
            return wrap_hear_model(self.owner, self.module, made)
        sizes_of(self.owner, made)
        return blaming(made, self.owner).eval()

    @cached_property
    def code(self) -> str:
        """Hash of the code of the file and of what it imports from its own folder and from this package.

        Imports are followed to the end, wherever in the code they stand; of other packages the version counts. Not
        seen: what is imported by a name made at run time, and files that are read into anything but weights.
        """
        used = {name: files_digest([file], file.parent) for name, file in self._used.items()}
        versions = {top: package_version(top) for top in sorted(self._packages)}
        return digest({"function": self.function, "code": used, "versions": versions})

    @cached_property
    def _used(self) -> dict[str, Path]:
        """Modules whose code counts, by name; the file itself is ""."""
        found, waiting = {"": self.file}, [self.file]
        while waiting:
            reader = waiting.pop()
            for name in _imported_names(reader, self.file.parent):
                for module, file in _files_of(name, self.file.parent if self._is_beside(reader) else None):
                    if module not in found:
                        found[module] = file
                        if file.suffix == ".py":
                            waiting.append(file)
        return found

    @cached_property
    def _packages(self) -> set[str]:
        """Top-level names of packages from elsewhere that are imported."""
        own = [file for file in self._used.values() if self._is_beside(file) and file.suffix == ".py"]
        tops = {name.partition(".")[0] for file in own for name in _imported_names(file, self.file.parent)}
        beside = {name.partition(".")[0] for name in self._used}
        return tops - beside - _COMMON - sys.stdlib_module_names - {"aape_bench"}

    def _is_beside(self, file: Path) -> bool:
        return file.is_relative_to(self.file.parent)

    def _check_imports(self) -> None:
        """Raise UsageError where a module beside the file has the name of another that was imported in its stead."""
        for name, file in self._used.items():
            imported = getattr(sys.modules.get(name), "__file__", None)
            if imported is not None and Path(imported).resolve() != file.resolve():
                raise UsageError(
                    f'{self.file} imports "{name}", which here is {imported}, not {file} beside it. Rename the one '
                    "beside it, or run the models one after the other."
                )


@dataclass(frozen=True)
class FileChoice(HearChoice):
    """A model that a function in a file makes; `module` is its absolute path and the function."""

    source: ModelFile

    @property
    def words(self) -> tuple[str, dict[str, Any], str, int]:
        return self.module, {}, "default" if self.path is None else str(self.path), self.seed

    def load(self, seed: int) -> Encoder:
        """The encoder made anew, torch's global generator beginning at the seed."""
        return self.source.load(self.path, seed)

    def identify(self, encoder: Encoder) -> str:
        """Hash of the code, and of what was loaded."""
        return digest({"file": self.source.code, **as_loaded(self.source.owner, encoder)})


def choose_file(name: str, settings: Mapping[str, Any], weights: str, seed: int) -> FileChoice:
    """The model `FILE.py:FUNCTION`; other arguments as `selection.select_model`."""
    source = read_model_file(name)
    path, sha256 = foreign_weights(source.owner, settings, weights)
    encoder = source.load(path, seed)
    seeded = draws_weights(source.owner, lambda other: source.load(path, other), encoder, seed)
    label = source.name + (f"@{sha256[:8]}" if sha256 else "")
    random = seeded or encoder.random_weights
    words = f"{source.file}:{source.function}"
    return FileChoice(label, source_of(sha256, random), seed, path, sha256, words, encoder, seeded, source)


def read_model_file(name: str) -> ModelFile:
    """Run the file of `FILE.py:FUNCTION`. Raises UsageError where it or the function is missing, ModelError."""
    path, _, function = name.rpartition(":")
    if not function.isidentifier():
        raise UsageError(f'The model "{name}" names no function that makes it. Name it {name.rstrip(":")}:FUNCTION.')
    file = whole_path(path)
    if not file.is_file():
        raise UsageError(f"There is no file {file}. Correct --model.")
    # by its path: files of one name in two folders are two modules
    key = f"aape_bench_model_{safe_name(file.stem)}_{digest(str(file))[:8]}"
    loader = SourceFileLoader(key, str(file))
    spec = ModuleSpec(key, loader, origin=str(file))
    spec.has_location = True
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module  # as an import would: dataclasses and pickle look there
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))  # last, so that nothing beside the file hides what is installed
    load_seeded(f"model file {file}", "its own code", lambda: loader.exec_module(module), seed=0)
    if not callable(getattr(module, function, None)):
        raise UsageError(f'{file} has no function "{function}". Correct --model {file.name}:{function}.')
    return ModelFile(file, function, module)


def _imported_names(file: Path, root: Path) -> Iterator[str]:
    """Dotted names that a file may import, less what only type checkers see."""
    try:
        waiting: list[ast.AST] = [ast.parse(file.read_bytes())]
    except (SyntaxError, ValueError):
        return
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = _package_of(file, root, node.level) if node.level else []
            base = ".".join([*package, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)


def _package_of(file: Path, root: Path, level: int) -> list[str]:
    """The package that `level` dots stand for in a file below `root`."""
    folder = file.parents[level - 1]
    return list(folder.relative_to(root).parts) if folder.is_relative_to(root) else []


def _files_of(name: str, root: Path | None) -> Iterator[tuple[str, Path]]:
    """Every module on a dotted name that is a file below `root`, or of this package: its name and file."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        module = ".".join(parts[:count])
        if module == "aape_bench":
            continue  # it offers everything and computes nothing
        if parts[0] == "aape_bench":
            try:
                yield module, module_file(module)
            except ModelError:
                return  # a name in a module
        elif root is not None:
            place = root.joinpath(*parts[:count])
            candidates = [place / "__init__.py", *(place.with_name(place.name + suffix) for suffix in all_suffixes())]
            yield from ((module, file) for file in candidates if file.is_file())
