"""What a process that computes asks of its C libraries, before it loads them."""

from __future__ import annotations

import contextlib
import os

#: glibc's `mallopt`: blocks from this size on come from the system one by one; so much may lie unused before it is
#: given back. The variables say the same to processes that this one starts.
_OPTIONS = {"MALLOC_MMAP_THRESHOLD_": (-3, 32 << 20), "MALLOC_TRIM_THRESHOLD_": (-1, 64 << 20)}


def keep_freed_memory() -> None:
    """Let the C library keep some of what is freed, for this process and those that it starts.

    An encoder frees at every step what it takes again at the next; until glibc has learned that, it asks the system for
    the same pages each time, which fills them with zeros: 5 to 17 % of an encoder's time on a CPU, half of the
    log-mel's. The sizes are where its learning ends (https://man7.org/linux/man-pages/man3/mallopt.3.html), so the peak
    stays. What the user has set in the environment stays, too; elsewhere than on glibc nothing happens.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name in os.environ for name in _OPTIONS):
        return
    import ctypes

    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library has its own ways
        mallopt = ctypes.CDLL(None).mallopt
        for name, (option, size) in _OPTIONS.items():
            mallopt(option, size)
            os.environ[name] = str(size)


def wait_briefly() -> None:
    """Before OpenMP is loaded: threads that wait for work spin for some hundred microseconds, then sleep.

    Spinning on, they would take the processors from those that decode; asleep at once (OMP_WAIT_POLICY=passive), they
    would be woken at every step: 1.3 times the time of AaPE's tiny encoder, 3 times the log-mel's.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # GNU's, turns
        os.environ.setdefault("KMP_BLOCKTIME", "1")  # Intel's and LLVM's, ms
