"""A run whose pieces are done elsewhere: the same bytes, each embedding once, and failures where they belong."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hear_folders import SHORT, make_folder

from aape_bench import apart, cache, planning, runner, selection
from aape_bench.executor import Done, Executor, answer, understood
from aape_bench.probes import probe_of
from aape_bench.progress import Silent

#: What differs between two runs that came to the same.
OF_A_RUN = ("date", "stages", "seal")


class Posted(Executor):
    """Does pieces in this process, each as it would arrive in another one. dies: numbers of those that never answer."""

    processes = 3

    def __init__(self, dies: Sequence[int] = ()) -> None:
        self.dies, self.names = dies, list[str]()

    def map(self, work: Any, pieces: Any, names: Any, progress: Any = None) -> list[Done[Any]]:  # noqa: ARG002
        done = []
        for piece, name in zip(pieces, names, strict=True):
            self.names.append(name)
            assert pickle.loads(pickle.dumps(piece)) == piece
            said = ("failed", "died") if len(self.names) - 1 in self.dies else answer(*_sent(work, piece), Silent())
            done.append(understood(name, pickle.loads(pickle.dumps(said))))
        return done


def _sent(*what: Any) -> Any:
    return pickle.loads(pickle.dumps(what))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of little, many pieces."""
    monkeypatch.setattr(cache, "SHARD_CLIPS", 3)
    monkeypatch.setattr(apart, "_LEAST", 0.0)


def jobs(folder: Path, out: Path, *protocols: str, **settings: str) -> tuple[list[planning.Job], planning.Options]:
    options = planning.Options(folder.parent, out / "cache", out / "results")
    models = selection.select_models(["logmel"], {}, "default", [0, 1])
    chosen = [one for name in protocols for one in planning.choose_protocols([name], {**SHORT[name], **settings})]
    return planning.plan(models, selection.select_tasks([f"hear:{folder}"]), chosen, options)[0], options


def made(out: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    records = {path.name: json.loads(path.read_text()) for path in (out / "results" / "records").rglob("*.json")}
    stripped = {n: {key: v for key, v in one.items() if key not in OF_A_RUN} for n, one in records.items()}
    return stripped, {path.name: path.read_bytes() for path in (out / "results" / "predictions").rglob("*.gz")}


@pytest.mark.parametrize("kind", ["multilabel", "event"])
def test_a_run_in_pieces_comes_to_the_same_bytes(kind: Any, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "toy", kind, split_mode="new_split_kfold", clips=4)
    protocols = ("hear",) if kind == "event" else ("linear", "knn")  # knn has figures besides its scores
    todo, options = jobs(folder, tmp_path / "plain", *protocols)
    assert not runner.run(todo, options).failures
    todo, options = jobs(folder, tmp_path / "apart", *protocols)
    executor = Posted()
    finished = runner.run(todo, options, executor=executor)
    assert not finished.failures
    assert finished.computed == 2 * len(protocols)
    assert made(tmp_path / "apart") == made(tmp_path / "plain")
    # 12 clips are 4 shards, for two seeds and all protocols the same; then a piece for each fold of each result
    rounds = Counter("embedding" if "embedding" in name else "probes" for name in executor.names)
    assert rounds == {"embedding": 4, "probes": 3 * 2 * len(protocols)}
    assert not list((tmp_path / "apart" / "results" / "probes").rglob("*.npz"))


def test_what_is_there_is_taken_up(tmp_path: Path) -> None:
    """A driver that died: the next one finds shards and folds, in as many processes or in one."""
    folder = make_folder(tmp_path / "toy", split_mode="new_split_kfold", clips=4)
    todo, options = jobs(folder, tmp_path / "o", "linear")
    apart.do_apart(todo, options, Posted(), Silent())
    fits = {path: path.stat().st_mtime_ns for path in (tmp_path / "o").rglob("fold*.npz")}
    assert len(fits) == 6
    again = Posted()
    assert not apart.do_apart(todo, options, again, Silent())
    assert again.names == []
    assert {path: path.stat().st_mtime_ns for path in fits} == fits
    next(iter(fits)).write_bytes(b"damaged")
    assert apart.do_apart(todo, options, again, Silent()) == {}
    assert again.names == []  # a single one is left to the run
    assert len(list((tmp_path / "o").rglob("fold*.npz"))) == 5
    assert runner.run(todo, options).computed == 2
    assert not probe_of(todo[0], options).folder.exists()


def test_folds_that_need_each_other_are_one_piece(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "toy", split_mode="new_split_kfold", clips=4)
    grid = {"grid_points": "2", "learning_rates": "1e-2,1e-3", "as_published": "true"}
    for out, executor in (("plain", None), ("apart", Posted())):
        todo, options = jobs(folder, tmp_path / out, "hear", **grid)
        assert not runner.run(todo, options, executor=executor).failures
    assert made(tmp_path / "apart") == made(tmp_path / "plain")


def test_quick_probes_are_not_sent_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_LEAST", 1e6)
    todo, options = jobs(make_folder(tmp_path / "toy"), tmp_path / "o", "linear", "knn")
    executor = Posted()
    assert runner.run(todo, options, executor=executor).computed == 4
    assert all("embedding" in name for name in executor.names)


def test_what_a_dead_process_leaves_out_is_said_of_the_results_that_need_it(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "toy", split_mode="new_split_kfold", clips=4)
    todo, options = jobs(folder, tmp_path / "o", "linear", "knn")
    count = 4
    finished = runner.run(todo, options, executor=Posted(dies=[count]))  # the first probe
    assert len(finished.paths) == 3
    (failure,) = finished.failures
    assert "logmel on hear:toy, linear, fold" in str(failure)
    assert str(failure).endswith("died")
    assert runner.run(todo, options, executor=Posted()).computed == 1


def test_pieces_that_left_nothing_here_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that do not share the folders."""
    todo, options = jobs(make_folder(tmp_path / "toy"), tmp_path / "o", "linear")
    monkeypatch.setattr(apart.Embedding, "do", lambda *_: None)
    (failure,) = runner.run(todo, options, executor=Posted()).failures
    assert "what it made is not here" in str(failure)
