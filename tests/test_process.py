"""What a process asks of its C libraries: whether freed memory is kept, and whose word counts."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
if sys.argv[1] == "keep":
    from aape_bench.process import keep_freed_memory
    keep_freed_memory()
import numpy as np
for _ in range(50):
    steps = [np.ones(500_000) for _ in range(6)]  # 4 MB each
    del steps
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""
OF_MEMORY = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
OF_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def said(code: str, *arguments: str, **environment: str) -> str:
    """What a new Python prints, with none of our variables but those given."""
    clean = {name: value for name, value in os.environ.items() if name not in OF_MEMORY + OF_WAITING}
    line = [sys.executable, "-c", code, *arguments]
    return subprocess.run(line, env={**clean, **environment}, text=True, capture_output=True, check=True).stdout


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_freed_memory_is_taken_again_without_asking_the_system() -> None:
    assert int(said(FAULTS, "keep")) < int(said(FAULTS, "as it is")) / 3


ASKED = """
import json, os
from aape_bench.process import keep_freed_memory, wait_briefly
keep_freed_memory()
wait_briefly()
print(json.dumps({name: os.environ.get(name) for name in ("MALLOC_TRIM_THRESHOLD_", "GOMP_SPINCOUNT")}))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_processes_started_from_here_are_asked_the_same() -> None:
    assert json.loads(said(ASKED)) == {"MALLOC_TRIM_THRESHOLD_": str(64 << 20), "GOMP_SPINCOUNT": "10000"}


@pytest.mark.parametrize("name", OF_MEMORY)
def test_what_the_user_has_set_of_the_memory_stays(name: str) -> None:
    given = {name: "glibc.malloc.trim_threshold=131072" if name == "GLIBC_TUNABLES" else "131072"}
    expected = given.get("MALLOC_TRIM_THRESHOLD_")
    assert json.loads(said(ASKED, **given))["MALLOC_TRIM_THRESHOLD_"] == expected


def test_what_the_user_has_set_of_waiting_stays() -> None:
    assert json.loads(said(ASKED, OMP_WAIT_POLICY="active"))["GOMP_SPINCOUNT"] is None
    assert json.loads(said(ASKED, GOMP_SPINCOUNT="7"))["GOMP_SPINCOUNT"] == "7"
