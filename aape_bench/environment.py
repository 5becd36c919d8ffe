"""Where and with what a result was computed: folders, device, versions. Nothing that names a person or machine."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from numbers import Integral
from pathlib import Path

import aape_bench
from aape_bench.errors import UsageError

#: Of a frozen encoder's arithmetic. bf16: torch's autocast to bfloat16; its embeddings are stored as float32.
PRECISIONS = ("float32", "bf16")

_PACKAGES = ("torch", "numpy", "scipy", "pandas", "scikit-learn", "soundfile", "soxr", "safetensors")


def default_folder(kind: str) -> Path:
    """The `data`, `cache` or `results` folder: AAPE_BENCH_<KIND>_DIR, else the platform's (results: ./results)."""
    if given := os.environ.get(f"AAPE_BENCH_{kind.upper()}_DIR"):
        return Path(given)
    if kind == "results":
        return Path("results")
    import platformdirs

    place = platformdirs.user_cache_dir if kind == "cache" else platformdirs.user_data_dir
    return Path(place("aape-bench", appauthor=False))


def resolve_device(name: str) -> str:
    """`auto`, `cpu` or `cuda` -> the device type to use; torch is imported only where a GPU may be there."""
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f'There is no device "{name}". There are: auto, cpu, cuda.')
    if name == "cpu":
        return "cpu"
    may_be_there = sys.platform != "linux" or any(Path(p).exists() for p in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))
    if may_be_there:
        import torch

        if torch.cuda.is_available():
            return "cuda"
    if name == "cuda":
        raise UsageError("No CUDA device can be used on this machine. Use --device cpu, or mend the driver.")
    return "cpu"


def resolve_precision(name: str) -> str:
    """The precision of that name, one of PRECISIONS."""
    if name not in PRECISIONS:
        raise UsageError(f'There is no precision "{name}". There are: {", ".join(PRECISIONS)}.')
    return name


def resolve_batch_size(text: object) -> int | None:
    """A number from 1, or None for "auto"."""
    if text == "auto":
        return None
    number = int(text) if isinstance(text, str) and text.isascii() and text.isdecimal() else text
    if not isinstance(number, Integral) or isinstance(number, bool) or number < 1:
        raise UsageError(f'The batch size must be a whole number from 1, or "auto", not {text!r}.')
    return int(number)


@functools.cache
def versions() -> dict[str, str | None]:
    """Versions of Python, of this package with its git commit where it is a checkout, and of what it computes with."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "aape-bench": aape_bench.__version__,
        "git": _git_commit(),
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def stage_facts(threads: int) -> dict[str, object]:
    """What a record says of a stage besides its time: peak memory since `reset_peak_memory`, threads, versions."""
    return {"peak_memory_mb": peak_memory_mb(), "threads": threads, "versions": versions()}


def reset_peak_memory() -> None:
    """Begin to measure anew, where the system can (Linux); elsewhere the peak is that of the process so far."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb() -> float | None:
    """Largest resident memory since `reset_peak_memory`, None where the system does not tell."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return round(int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024, 1)
    with contextlib.suppress(ImportError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return round(peak / (1024 * 1024 if sys.platform == "darwin" else 1024), 1)
    return None


def _git_commit() -> str | None:
    root = Path(aape_bench.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True, text=True, timeout=30, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changed else "")
