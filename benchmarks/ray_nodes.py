"""Two Ray nodes of one processor against one, and what this machine allows: two plain processes against one.

    python benchmarks/ray_nodes.py [--quick]

Prints a table; `measure` gives the rows of `suite.py`. Both nodes are on this machine. The plan has 8 jobs: `vit` of 8
seeds embeds clips of noise, 5 s each, and is judged by `linear`. Each run is a whole command, from process start to the
leaderboard, with folders of its own; Ray runs already, as a cluster does. The ceiling is the same work without Ray: one
process that does all seeds, and two at once that do half of them each. Where both processors are threads of one core
that is far below 2, and `of the ceiling` says how much of it Ray reaches.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import itertools
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from common import Cost, Row, alternating, command, compared, table
from embedding import NAME, make_clips

CLIPS, QUICK_CLIPS = 256, 10
RUNS, QUICK_RUNS = 5, 1
JOBS = 8
MODEL = "vit{weights=random}"
#: A processor each, whatever the libraries would take.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
#: A node's shared memory, bytes: what is sent are words.
STORE = 100_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a try: few clips, one run")
    print(table(measure(parser.parse_args().quick)).drop(columns="benchmark").to_string(index=False))


def measure(quick: bool) -> list[Row]:
    """The suite's rows."""
    clips, runs = (QUICK_CLIPS, QUICK_RUNS) if quick else (CLIPS, RUNS)
    with tempfile.TemporaryDirectory(prefix="rn-") as folder:
        work = Work(Path(folder), make_clips(Path(folder) / "data" / NAME, clips, 16000))
        sides: list[Callable[[], Cost]] = [
            lambda: work.on_nodes(2),
            lambda: work.on_nodes(1),
            work.halves,
            lambda: work.cost([]),
        ]
        costs = alternating(runs, *sides)
        work.check()
    walls = [[cost.wall for cost in side] for side in costs]
    what, notes = f"{JOBS} jobs of {clips} clips", f"{os.cpu_count()} processors of this machine"
    ray = compared("ray_nodes", f"{what} on 2 Ray nodes, beside 1", walls[0], walls[1], "s", notes)
    ceiling = compared("ray_nodes", f"{what} in 2 plain processes, beside 1: the ceiling", *walls[2:], "s", notes)
    assert ray.ratio is not None
    assert ceiling.ratio is not None
    share = Row(
        "ray_nodes", "of the ceiling", ray.ratio, ceiling.ratio, "ratio", ray.ratio / ceiling.ratio, runs, notes
    )
    return [ray, ceiling, share]


class Work:
    """The plan, done anew each time; every leaderboard must be the same."""

    def __init__(self, folder: Path, task: Path) -> None:
        self.folder, self.task, self.number = folder, task, itertools.count()
        self.boards: list[list[dict[str, str]]] = []

    def cost(self, executor: Sequence[str], environment: Mapping[str, str] = ONE_THREAD) -> Cost:
        """Of one command with all seeds."""
        out = self._out()
        cost = command(self._command(out, range(JOBS), executor), environment, self.folder)
        with (out / "results" / "leaderboard.csv").open(newline="") as handle:
            rows = csv.DictReader(handle)
            self.boards.append([{key: row[key] for key in ("model", "task", "protocol", "score")} for row in rows])
        return cost

    def on_nodes(self, count: int) -> Cost:
        """The same by Ray, whose start is not counted; the CPU seconds of its nodes are not known."""
        with ray_nodes(count) as (address, environment):
            return self.cost(["--executor", "ray", "--address", address], environment)

    def halves(self) -> Cost:
        """Of two commands at once, of half the seeds each."""
        started = time.perf_counter()
        halves = [range(JOBS)[::2], range(JOBS)[1::2]]
        with ThreadPoolExecutor(2) as pool:
            costs = list(
                pool.map(lambda seeds: command(self._command(self._out(), seeds, []), ONE_THREAD, self.folder), halves)
            )
        return Cost(time.perf_counter() - started, sum(one.cpu for one in costs), max(one.peak for one in costs))

    def check(self) -> None:
        """Raise AssertionError where two runs differ."""
        assert all(board == self.boards[0] for board in self.boards), self.boards

    def _out(self) -> Path:
        out = self.folder / str(next(self.number))
        out.mkdir()
        return out

    def _command(self, out: Path, seeds: Sequence[int], executor: Sequence[str]) -> list[str | Path]:
        return [
            sys.executable, "-c", "from aape_bench.cli import main; main()", "run", "--model", MODEL,
            "--task", f"hear:{self.task}", "--seed", ",".join(map(str, seeds)), "--no-references",
            "--cache-dir", out / "cache", "--results-dir", out / "results", *executor,
        ]  # fmt: skip


@contextmanager
def ray_nodes(count: int) -> Iterator[tuple[str, dict[str, str]]]:
    """The address of a Ray cluster of so many nodes on this machine, a processor each, and what joins it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    environment = {**ONE_THREAD, "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    all_ = {**os.environ, **environment}
    with tempfile.TemporaryDirectory(prefix="rn-", ignore_cleanup_errors=True) as folder:
        head = ["--head", "--port", str(port), "--include-dashboard", "false", "--temp-dir", folder]
        nodes: list[subprocess.Popen[bytes]] = []
        try:
            for which in [head, *[["--address", address]] * (count - 1)]:
                start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--node-ip-address", "127.0.0.1"]
                start += [*which, "--num-cpus", "1", "--object-store-memory", str(STORE), "--block"]
                quiet = subprocess.DEVNULL
                nodes.append(subprocess.Popen(start, env=all_, stdout=quiet, stderr=quiet))
                _until_listening(port)
            _until_there(address, count, all_)
            yield address, environment
        finally:
            for node in nodes[::-1]:
                node.send_signal(signal.SIGTERM)
            for node in nodes:
                node.wait()


def _until_listening(port: int) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.1)
    raise TimeoutError("Ray has not started within a minute")


def _until_there(address: str, count: int, environment: Mapping[str, str]) -> None:
    """In a process of its own, as one can join one cluster only."""
    program = (
        "import ray, sys, time\n"
        "ray.init(address=sys.argv[1], log_to_driver=False, logging_level='error')\n"
        "while sum(one['Alive'] for one in ray.nodes()) < int(sys.argv[2]): time.sleep(0.2)\n"
    )
    join = [sys.executable, "-c", program, address, str(count)]
    subprocess.run(join, env=environment, timeout=120, check=True, capture_output=True)


if __name__ == "__main__":
    main()
