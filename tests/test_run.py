"""`aape-bench run` as a user meets it: results, what is computed again, what is refused."""

from __future__ import annotations

import csv
import importlib
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from toys import write_meta

Cli = Callable[..., tuple[int, str, str]]


def run(cli: Cli, data: Path, *more: object, model: str = "logmel", partial: bool = True) -> tuple[int, str, str]:
    arguments = ["run", "--model", model, "--task", "esc50", "--data-dir", data, *more]
    return cli(*arguments, *(["--allow-partial"] if partial else []))


def rows(results: Path) -> list[dict[str, str]]:
    with (results / "leaderboard.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_run_ends_in_records_predictions_and_a_leaderboard(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    status, out, err = run(cli, small_esc50)
    assert status == 0
    assert "1 result computed, 0 already there" in out
    assert "45 of 2000" in out
    assert "esc50 is partial" in err
    (row,) = rows(tmp_path / "results")
    assert row["model"] == "logmel"
    assert row["partial"] == "45 of 2000"
    assert row["weights"] == "none"
    assert row["rank"] == ""
    assert float(row["ci_low"]) <= float(row["score"]) <= float(row["ci_high"])
    record = json.loads((tmp_path / "results" / row["record"]).read_text())
    assert record["scores"]["test_clips"] == 45
    assert len(record["protocol"]["choices"]) == 5
    import pandas as pd

    predictions = pd.read_csv(tmp_path / "results" / record["predictions"])
    by_fold = (predictions["truth"] == predictions["predicted"]).groupby(predictions["fold"]).mean()
    assert by_fold.mean() == pytest.approx(float(row["score"]), abs=1e-12)
    score = predictions[["score:dog", "score:rain", "score:siren"]]
    assert np.allclose(np.exp(score).sum(axis=1), 1, atol=1e-5)


def test_nothing_in_the_results_names_a_place(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    run(cli, small_esc50)
    for name, content in contents(tmp_path / "results").items():
        assert str(tmp_path).encode() not in content, name


def test_a_second_run_computes_nothing_and_changes_no_byte(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    run(cli, small_esc50)
    before = contents(tmp_path)
    status, out, err = run(cli, small_esc50)
    assert status == 0
    assert "0 results computed, 1 already there" in out
    assert "embedding" not in err
    assert contents(tmp_path) == before


def test_what_changes_decides_what_is_computed_again(cli: Cli, small_esc50: Path) -> None:
    def computed(*more: object, model: str = "logmel") -> tuple[bool, bool]:
        status, _, err = run(cli, small_esc50, *more, model=model)
        assert status == 0, err
        return "embedding" in err, "linear" in err

    assert computed() == (True, True)
    assert computed() == (False, False)
    assert computed("--seed", 1) == (False, True)  # logmel draws nothing: only the bootstrap depends on the seed
    assert computed("--protocol-set", "c_max=2") == (False, True)
    assert computed("--set", "n_mels=64") == (True, True)
    vit = "vit{blocks=1;width=96}"
    assert computed(model=vit) == (True, True)
    assert computed("--seed", 1, model=vit) == (True, True)  # other random weights
    assert computed("--set", "pooling=cls", model=vit) == (True, True)
    assert computed(model=vit) == (False, False)
    wav = next((small_esc50 / "esc50" / "audio").iterdir())
    os.utime(wav, ns=(1, 1))
    assert computed() == (False, False)  # touched, but equal
    samples, rate = soundfile.read(wav)
    soundfile.write(wav, samples / 2, rate)
    assert computed() == (True, True)


def test_a_dry_run_says_what_would_be_done_and_does_nothing(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    status, out, _ = run(cli, small_esc50, "--dry-run")
    assert status == 0
    assert "read new files first" in out
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "cache").exists()
    run(cli, small_esc50)
    assert "the result is there" in run(cli, small_esc50, "--dry-run")[1]
    assert "embeddings are cached" in run(cli, small_esc50, "--dry-run", "--seed", 3)[1]
    assert "embed and fit" in run(cli, small_esc50, "--dry-run", model="vit")[1]


def test_random_weights_are_said_everywhere(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    status, out, err = run(cli, small_esc50, model="vit{blocks=1}")
    assert status == 0
    assert "random" in err
    assert "random" in out
    (row,) = rows(tmp_path / "results")
    assert row["weights"] == "random"
    assert row["model"] == "vit[blocks=1]"
    assert json.loads((tmp_path / "results" / row["record"]).read_text())["model"]["weights"] == "random"


def test_seeds_share_a_row(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    status, *_ = run(cli, small_esc50, "--seed", "0,1,2", model="vit{blocks=1;width=96}")
    assert status == 0
    (row,) = rows(tmp_path / "results")
    assert row["seeds"] == "3"
    scores = [json.loads(p.read_text())["scores"]["score"] for p in (tmp_path / "results").glob("records/*/*/*.json")]
    assert float(row["score"]) == pytest.approx(np.mean(scores))
    assert float(row["seed_sd"]) == pytest.approx(np.std(scores, ddof=1))
    assert float(row["ci_low"]) <= float(row["score"]) <= float(row["ci_high"])


def test_a_partial_copy_needs_leave(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    status, _, err = run(cli, small_esc50, partial=False)
    assert status == 2
    assert "45 of 2000 clips are there" in err
    assert "--allow-partial" in err
    assert not (tmp_path / "results").exists()


def test_the_right_count_of_the_wrong_classes_is_no_whole_data_set(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from aape_bench import registry, selection

    known = registry.task
    monkeypatch.setattr(selection.registry, "task", lambda name: replace(known(name), clips=45))
    status, _, err = run(cli, small_esc50, partial=False)
    assert status == 2
    assert "They are of 3 classes, not 50" in err
    status, *_ = run(cli, small_esc50)
    assert status == 0
    (row,) = rows(tmp_path / "results")
    assert row["partial"] == "3 of 50 classes"
    assert row["rank"] == ""


def test_a_task_without_data_does_not_stop_the_others(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from aape_bench import registry, selection

    known = registry.task

    def short(name: str):  # type: ignore[no-untyped-def]
        task = known(name)
        if task.generator is None:
            return task
        rows = list(range(0, task.clips, 24))
        generator = replace(task.generator, clip=lambda index: task.generator.clip(rows[index]))
        return replace(task, generator=generator, read=lambda root: task.read(root).iloc[rows])

    monkeypatch.setattr(selection.registry, "task", short)
    status, out, err = cli("run", "--model", "logmel", "--task", "tremolo,esc50", "--data-dir", tmp_path)
    assert status == 2
    assert "1 result computed" in out
    assert "no folder esc50" in err


def test_equal_files_on_both_sides_of_a_split_are_said(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    first, *_, last = sorted((small_esc50 / "esc50" / "audio").iterdir())
    shutil.copy(first, last)
    status, _, err = run(cli, small_esc50)
    assert status == 0
    assert "2 clips are, byte for byte, on several sides of splits" in err
    (record,) = (tmp_path / "results").rglob("*.json")
    assert json.loads(record.read_text())["task"]["repeated"] == 2


def test_a_single_group_per_fold_has_no_interval(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    with (small_esc50 / "esc50" / "meta" / "esc50.csv").open(newline="") as handle:
        _, *table = list(csv.reader(handle))
    write_meta(small_esc50 / "esc50", [(*line[:5], f"source {line[1]}", line[6]) for line in table])
    status, out, _ = run(cli, small_esc50)
    assert status == 0
    assert "undefined" in out
    (row,) = rows(tmp_path / "results")
    assert row["ci_low"] == ""
    record = json.loads((tmp_path / "results" / row["record"]).read_text())
    assert record["scores"]["interval"] is None
    assert "single group" in record["scores"]["interval_reason"]


def test_a_corrected_label_is_judged_again_not_embedded_again(cli: Cli, small_esc50: Path) -> None:
    run(cli, small_esc50)
    _spoil_meta(small_esc50, 4, 3, "siren")
    _, _, err = run(cli, small_esc50)
    assert "linear" in err
    assert "embedding" not in err


def test_a_broken_clip_may_be_skipped_and_is_recorded(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    wav = sorted((small_esc50 / "esc50" / "audio").iterdir())[7]
    wav.write_bytes(b"")
    status, _, err = run(cli, small_esc50)
    assert status == 2
    assert wav.name in err
    status, *_ = run(cli, small_esc50, "--skip-broken")
    assert status == 0
    (row,) = rows(tmp_path / "results")
    assert row["partial"] == "44 of 2000"
    record = json.loads((tmp_path / "results" / row["record"]).read_text())
    assert record["task"]["skipped"] == [{"clip": wav.name, "reason": "is empty"}]
    # without the option the result that skipped a clip is none
    status, _, err = run(cli, small_esc50)
    assert status == 2
    assert wav.name in err


def _spoil_wav(data: Path, content: bytes) -> None:
    sorted((data / "esc50" / "audio").iterdir())[20].write_bytes(content)


def _spoil_samples(data: Path, samples: np.ndarray) -> None:
    soundfile.write(sorted((data / "esc50" / "audio").iterdir())[20], samples, 16000, subtype="FLOAT")


def _spoil_meta(data: Path, row: int, column: int, value: str) -> None:
    with (data / "esc50" / "meta" / "esc50.csv").open(newline="") as handle:
        _, *table = list(csv.reader(handle))
    table[row][column] = value
    write_meta(data / "esc50", [tuple(line) for line in table])


def _first_name(data: Path) -> str:
    return (data / "esc50" / "meta" / "esc50.csv").read_text().splitlines()[1].split(",")[0]


def _truncate(data: Path) -> None:
    wav = sorted((data / "esc50" / "audio").iterdir())[20]
    wav.write_bytes(wav.read_bytes()[:3000])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no data directory": (shutil.rmtree, "does not exist"),
    "no task folder": (lambda data: shutil.move(data / "esc50", data / "other"), "no folder esc50 or"),
    "no metadata": (lambda data: (data / "esc50/meta/esc50.csv").unlink(), "esc50.csv is missing"),
    "empty metadata": (lambda data: (data / "esc50/meta/esc50.csv").write_text(""), "not a readable CSV"),
    "no audio": (lambda data: shutil.rmtree(data / "esc50" / "audio"), "none of the 45 clips"),
    "empty WAV": (lambda data: _spoil_wav(data, b""), "is empty"),
    "truncated WAV": (_truncate, "is truncated"),
    "text named .wav": (lambda data: _spoil_wav(data, b"hello " * 1000), "is not audio"),
    "NaN samples": (lambda data: _spoil_samples(data, np.full(4000, np.nan)), "NaN or infinite"),
    "0.01 s": (lambda data: _spoil_samples(data, np.ones(160) / 9), "too short"),
    "label missing": (lambda data: _spoil_meta(data, 4, 3, ""), "has no label"),
    "fold missing": (lambda data: _spoil_meta(data, 4, 1, ""), "has no fold"),
    "clip in two folds": (lambda data: _spoil_meta(data, 40, 0, _first_name(data)), "is listed in folds 1 and 5"),
    "source in two folds": (lambda data: _spoil_meta(data, 40, 5, "1065"), "stands in folds 1 and 5"),
    "path leaves": (lambda data: _spoil_meta(data, 4, 0, "../../../../etc/passwd"), "leaves the data folder"),
    "one fold": (
        lambda data: [p.unlink() for p in (data / "esc50/audio").iterdir() if p.name[0] != "1"], "need 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_refused_in_plain_words(cli: Cli, small_esc50: Path, tmp_path: Path, case: str) -> None:
    spoil, says = BAD[case]
    spoil(small_esc50)
    status, out, err = run(cli, small_esc50)
    assert status == 2
    assert says in err
    assert "Traceback" not in out + err
    assert not list((tmp_path / "results").rglob("*.json")) + list((tmp_path / "results").rglob("*.csv*"))
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "aap"], 'Did you mean "aape"?'),
        (["--task", "esc51"], 'Did you mean "esc50"?'),
        (["--protocol", "liner"], 'Did you mean "linear"?'),
        (["--set", "window=triangle", "--model", "aape"], 'window cannot be "triangle"'),
        (["--set", "widnow=gaussian", "--model", "aape"], 'Did you mean "window"?'),
        (["--protocol-set", "c_max=99"], "must lie in"),
        (["--seed", "one"], "--seed takes whole numbers"),
        (["--seed", "-1"], "--seed takes whole numbers"),
        (["--device", "tpu"], 'no device "tpu"'),
        (["--weights", "none.safetensors", "--model", "vit"], "none.safetensors. Correct --weights"),
        (["--model", "hear:no.such.module"], "is not installed here"),
        (["--model", ","], "No model is named"),
        (["--task", ""], "No task is named"),
        (["--protocol", ""], "No protocol is named"),
    ],
)
def test_bad_options_are_refused_with_a_suggestion(
    cli: Cli, small_esc50: Path, tmp_path: Path, arguments: list[str], says: str
) -> None:
    line = ["--model", "logmel", "--task", "esc50"]
    for option in ("--model", "--task"):
        if option in arguments:
            del line[line.index(option) : line.index(option) + 2]
    status, out, err = cli("run", *line, *arguments, "--data-dir", small_esc50, "--allow-partial")
    assert status == 2
    assert says in err
    assert "Traceback" not in out + err
    assert not (tmp_path / "results").exists()


def test_a_pickle_is_never_opened(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(pickle.dumps({"w": 1}))
    status, _, err = run(cli, small_esc50, "--weights", tmp_path / "weights.pt", model="vit")
    assert status == 2
    assert "weights.pt is a pickle" in err


def test_results_that_cannot_be_written_stop_the_run_before_it_computes(
    cli: Cli, small_esc50: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    status, _, err = run(cli, small_esc50, "--results-dir", tmp_path / "file" / "results")
    assert status == 2
    assert "--results-dir" in err
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_a_disk_that_fills_up_loses_nothing(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC at the n-th fsync, for every n: a plain message, no rest, and the next run is as if nothing was."""
    import errno

    run(cli, small_esc50, "--results-dir", tmp_path / "undisturbed")
    whole = {n: c for n, c in contents(tmp_path / "undisturbed").items() if n.startswith("predictions")}
    shutil.rmtree(tmp_path / "cache")
    fsync = os.fsync
    for n in range(100):
        left = n

        def failing(descriptor: int) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", failing)
        status, _, err = run(cli, small_esc50)
        assert not list(tmp_path.rglob("*.tmp"))
        if n > 0 and status == 0:
            break
        if n > 0:
            assert status == 2
            assert "disk is full" in err
        monkeypatch.setattr(os, "fsync", fsync)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        shutil.rmtree(tmp_path / "results", ignore_errors=True)
    assert n > 5
    assert {k: c for k, c in contents(tmp_path / "results").items() if k.startswith("predictions")} == whole


def test_what_finished_before_a_failure_is_on_the_leaderboard(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    status, _, err = run(cli, small_esc50, model="logmel,vit{pooling=cls;width=96;blocks=1},logmel{n_mels=4}")
    assert status == 0, err
    bad = tmp_path / "hear_nan.py"
    bad.write_text(HEAR.replace("audio.mean", "float('nan') * audio.mean"))
    sys.path.insert(0, str(tmp_path))
    try:
        status, _, err = run(cli, small_esc50, model="hear:hear_nan,logmel{n_mels=8}")
    finally:
        sys.path.remove(str(tmp_path))
    assert status == 2
    assert "NaN or infinite" in err
    assert {row["model"] for row in rows(tmp_path / "results")} >= {"logmel", "logmel[n_mels=8]"}


HEAR = """
import torch

class Model(torch.nn.Module):
    sample_rate, scene_embedding_size, timestamp_embedding_size = 22050, 2, 2
    def __init__(self, path):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(float(open(path).read()) if path else 1.0))

def load_model(model_file_path=""):
    return Model(model_file_path)

def get_scene_embeddings(audio, model):
    assert audio.shape[1] == 5 * 22050
    return torch.stack([audio.mean(1), audio.std(1)], 1) * model.gain

def get_timestamp_embeddings(audio, model):
    raise RuntimeError("not needed")
"""


def test_any_hear_module_by_name(cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hear_toy.py").write_text(HEAR)
    (tmp_path / "gain.txt").write_text("3.0")
    monkeypatch.syspath_prepend(tmp_path)
    status, _, err = run(cli, small_esc50, model="hear:hear_toy")
    assert status == 0, err
    status, _, err = run(cli, small_esc50, "--weights", tmp_path / "gain.txt", model="hear:hear_toy")
    assert status == 0, err
    assert "embedding" in err
    labels = {row["model"]: row for row in rows(tmp_path / "results")}
    assert set(labels) == {"hear:hear_toy", f"hear:hear_toy@{labels[max(labels)]['weights'][5:]}"}
    assert labels["hear:hear_toy"]["pretrain_overlap"] == "unknown"
    assert labels["hear:hear_toy"]["parameters"] == "1"
    assert "0 results computed" in run(cli, small_esc50, model="hear:hear_toy")[1]


def forget(*names: str) -> None:
    """Let a module be imported, and its code be read, as in a new process."""
    from aape_bench import identity

    for name in list(sys.modules):
        if name.split(".")[0] in names:
            del sys.modules[name]
    identity._code_digest.cache_clear()
    importlib.invalidate_caches()


def test_hear_modules_of_one_name_are_two_models(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("first_hear", "second_hear"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
        (tmp_path / package / "toy.py").write_text(HEAR)
    monkeypatch.syspath_prepend(tmp_path)
    status, _, err = run(cli, small_esc50, model="hear:first_hear.toy,hear:second_hear.toy")
    assert status == 0, err
    assert {row["model"] for row in rows(tmp_path / "results")} == {"hear:first_hear.toy", "hear:second_hear.toy"}


@pytest.mark.parametrize("opaque", [False, True])
def test_a_hear_module_whose_code_or_answers_change_is_computed_again(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opaque: bool
) -> None:
    """Its own file is the same: a helper beside it changes, or a model that is no torch module answers otherwise."""
    package = tmp_path / "changing_hear"
    package.mkdir()
    (package / "__init__.py").write_text("")
    text = HEAR.replace("import torch", "import torch\nfrom changing_hear.core import gain", 1)
    text = text.replace("* model.gain", "* gain()")
    if opaque:
        text = text.replace("    assert audio.shape[1] == 5 * 22050\n", "")
        text = text.replace("torch.nn.Module", "object").replace("super().__init__()", "pass")
        text = text.replace(
            "self.gain = torch.nn.Parameter(torch.tensor(float(open(path).read()) if path else 1.0))", ""
        )
    (package / "toy.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "gain.txt").write_text("1")
    code = f"def gain(): return float(open({str(tmp_path / 'gain.txt')!r}).read())"
    (package / "core.py").write_text(code)
    forget("changing_hear")
    assert "embedding" in run(cli, small_esc50, model="hear:changing_hear.toy")[2]
    forget("changing_hear")
    assert "embedding" not in run(cli, small_esc50, model="hear:changing_hear.toy")[2]
    if opaque:
        (tmp_path / "gain.txt").write_text("-7")
    else:
        (package / "core.py").write_text(code + " * 2")
    forget("changing_hear")
    status, _, err = run(cli, small_esc50, model="hear:changing_hear.toy")
    assert status == 0, err
    assert "embedding" in err
    (row,) = rows(tmp_path / "results")
    assert row["parameters"] == ("" if opaque else "1")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAR.replace("* model.gain", "* exit()"), "failed in get_scene_embeddings: SystemExit"),
        (HEAR.replace("* model.gain", "* None"), "failed in get_scene_embeddings: TypeError"),
        (HEAR.replace("* model.gain", "* 1j"), "not real numbers"),
        (HEAR.replace("* model.gain", "* model.gain.to(torch.int32)").replace("audio.", "audio.int()."), "failed in"),
        ("x = 1", "is not a HEAR module"),
        ("import nothing_of_the_kind", "needs nothing_of_the_kind"),
        ("raise ValueError('oh')", "cannot be imported: ValueError: oh"),
        (HEAR.replace("22050, 2, 2", "22050, None, 2"), "no whole number scene_embedding_size"),
        (
            HEAR.replace("return Model(model_file_path)", "raise OSError('no weights here')"),
            "failed in load_model(): OSError: no weights here",
        ),
        (HEAR.replace("audio.std(1)], 1)", "audio.std(1)], 0)"), "shape (2, 32), not (32, 2)"),
    ],
)
def test_modules_that_are_none_are_refused(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, says: str
) -> None:
    name = f"hear_bad_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    status, _, err = run(cli, small_esc50, model=f"hear:{name}")
    assert status == 2
    assert says in err


@pytest.mark.slow
def test_logmel_on_real_clips_equals_a_plain_script(cli: Cli, real_data: Path, tmp_path: Path) -> None:
    """ESC-10's 100 clips: our predictions are those of hand-written scikit-learn on the cached embeddings."""
    import pandas as pd
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    status, _, err = run(cli, real_data)
    assert status == 0, err
    (row,) = rows(tmp_path / "results")
    assert float(row["score"]) >= 0.6
    (shard,) = (tmp_path / "cache").rglob("*.npy")
    x = np.load(shard).astype(float)
    meta = pd.read_csv(real_data / "esc50" / "meta" / "esc50.csv")
    y, fold = meta["category"].to_numpy(str), meta["fold"].to_numpy()
    predicted = np.empty_like(y)
    for test in range(1, 6):
        validation = test % 5 + 1
        train = (fold != test) & (fold != validation)
        scaler = StandardScaler().fit(x[train])
        accuracies = []
        for c in 10.0 ** np.arange(-4, 4):
            fit = LogisticRegression(C=c, max_iter=10000).fit(scaler.transform(x[train]), y[train])
            accuracies.append(fit.score(scaler.transform(x[fold == validation]), y[fold == validation]))
        c = 10.0 ** (int(np.argmax(accuracies)) - 4)
        scaler = StandardScaler().fit(x[fold != test])
        fit = LogisticRegression(C=c, max_iter=10000).fit(scaler.transform(x[fold != test]), y[fold != test])
        predicted[fold == test] = fit.predict(scaler.transform(x[fold == test]))
    record = json.loads((tmp_path / "results" / row["record"]).read_text())
    ours = pd.read_csv(tmp_path / "results" / record["predictions"])
    assert list(ours["predicted"]) == list(predicted)


RANDOM_HEAR = """
import itertools, torch
count = itertools.count(1)

class Model(torch.nn.Module):
    sample_rate, scene_embedding_size, timestamp_embedding_size = 16000, 4, 4
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 4)

def load_model(model_file_path=""):
    return Model()

def get_scene_embeddings(audio, model):
    return model.layer(torch.stack([audio.abs().mean(1), audio.std(1)], 1))

get_timestamp_embeddings = get_scene_embeddings
"""


def test_a_hear_module_with_random_weights_is_marked_and_repeats(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random_hear.py").write_text(RANDOM_HEAR)
    monkeypatch.syspath_prepend(tmp_path)
    status, _, err = run(cli, small_esc50, "--seed", "0,1", model="hear:random_hear")
    assert status == 0, err
    assert "seeded random weights" in err
    (row,) = rows(tmp_path / "results")
    assert row["weights"] == "random"
    assert row["seeds"] == "2"
    assert "0 results computed, 2 already there" in run(cli, small_esc50, "--seed", "0,1", model="hear:random_hear")[1]


def test_our_own_hear_modules_say_that_their_weights_are_random(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    status, _, err = run(cli, small_esc50, "--seed", "0,1", model="hear:aape_bench.models.vit")
    assert status == 0, err
    assert err.count("embedding") == 1  # HEAR's load_model knows no seed: it is one model
    (row,) = rows(tmp_path / "results")
    assert (row["model"], row["weights"]) == ("hear:aape_bench.models.vit", "random")
    assert row["seed_sd"] == ""


def test_a_hear_module_that_is_another_each_time_is_refused(
    cli: Cli, small_esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fickle_hear.py").write_text(
        RANDOM_HEAR.replace("return Model()", "m = Model()\n    m.layer.bias.data.fill_(next(count))\n    return m")
    )
    monkeypatch.syspath_prepend(tmp_path)
    status, _, err = run(cli, small_esc50, model="hear:fickle_hear")
    assert status == 2
    assert "another model each time it is loaded" in err


@pytest.mark.parametrize("damage", ["values", "columns"])
def test_damaged_embeddings_are_computed_again(cli: Cli, small_esc50: Path, tmp_path: Path, damage: str) -> None:
    run(cli, small_esc50)
    before = contents(tmp_path / "results")
    (shard,) = (tmp_path / "cache").rglob("*.npy")
    rows_there = np.load(shard)
    np.save(shard, rows_there[::-1] if damage == "values" else rows_there[:, :9])
    for record in (tmp_path / "results" / "records").rglob("*.json"):
        record.unlink()
    status, _, err = run(cli, small_esc50)
    assert status == 0, err
    assert "1 cached part(s) were damaged and are computed again" in err
    after = contents(tmp_path / "results")
    assert {n: c for n, c in after.items() if "predictions" in n} == {
        n: c for n, c in before.items() if "predictions" in n
    }


@pytest.mark.parametrize("file", ["entry.json", "00000.json", "complete.json"])
@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"batch_size": 0}'])
def test_a_damaged_cache_says_which_folder_to_delete(
    cli: Cli, small_esc50: Path, tmp_path: Path, file: str, content: str
) -> None:
    run(cli, small_esc50)
    shutil.rmtree(tmp_path / "results")
    (path,) = (tmp_path / "cache").rglob(file)
    path.write_text(content)
    if file == "entry.json":
        next((tmp_path / "cache").rglob("*.npy")).unlink()
    status, _, err = run(cli, small_esc50)
    assert status == 2
    assert f"Delete the folder {path.parent}" in err
    shutil.rmtree(path.parent)
    assert run(cli, small_esc50)[0] == 0


def test_an_edited_record_or_damaged_predictions_are_no_result(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    run(cli, small_esc50)
    (record,) = (tmp_path / "results").rglob("*.json")
    score = json.loads(record.read_text())["scores"]["score"]
    record.write_text(record.read_text().replace(f'"score": {score}', '"score": 0.99'))
    status, _, err = cli("leaderboard")
    assert status == 0
    assert "is not as it was written" in err
    assert "1 result computed" in run(cli, small_esc50)[1]
    (predictions,) = (tmp_path / "results").rglob("*.csv.gz")
    whole = predictions.read_bytes()
    predictions.write_bytes(whole[:50])
    assert "1 result computed" in run(cli, small_esc50)[1]
    assert predictions.read_bytes() == whole


def test_a_result_on_other_data_can_be_told_from_the_first(cli: Cli, small_esc50: Path) -> None:
    run(cli, small_esc50)
    _spoil_meta(small_esc50, 4, 3, "siren")
    _, out, _ = run(cli, small_esc50)
    heads, first, second = out.splitlines()[:3]
    assert "data" in heads
    assert first != second


def test_pipes_and_devices_are_no_clips(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    """Nothing waits for ever on a file that is none."""
    clips = sorted((small_esc50 / "esc50" / "audio").iterdir())
    for clip in clips[:3]:
        clip.unlink()
    os.mkfifo(clips[0])
    clips[1].symlink_to("/dev/zero")
    clips[2].mkdir()
    status, *_ = run(cli, small_esc50)
    assert status == 0
    (row,) = rows(tmp_path / "results")
    assert row["partial"] == "42 of 2000"
    os.mkfifo(tmp_path / "weights")
    status, _, err = run(cli, small_esc50, "--weights", tmp_path / "weights", model="vit")
    assert status == 2
    assert "no regular file" in err
    meta = small_esc50 / "esc50" / "meta" / "esc50.csv"
    meta.unlink()
    os.mkfifo(meta)
    status, _, err = run(cli, small_esc50)
    assert status == 2
    assert "no regular file" in err


def test_a_path_that_cannot_be_looked_at_is_named(cli: Cli, small_esc50: Path) -> None:
    status, out, err = run(cli, small_esc50, "--results-dir", "x" * 300)
    assert status == 2
    assert "File name too long" in err
    assert "Traceback" not in out + err


def test_a_finished_run_shows_results_that_are_read_only(
    cli: Cli, small_esc50: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(cli, small_esc50)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "fsync", refuse)
    status, out, _ = run(cli, small_esc50)
    assert status == 0
    assert "1 already there" in out


@pytest.mark.usefixtures("small_esc50")
def test_a_module_that_changes_the_working_directory_moves_no_result(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "moving_hear.py").write_text(HEAR.replace("import torch", "import os, torch\nos.chdir('/')", 1))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    status, _, err = run(cli, Path("data"), "--results-dir", "mine", "--cache-dir", "own", model="hear:moving_hear")
    assert status == 0, err
    assert (tmp_path / "mine" / "leaderboard.csv").is_file()


def test_fits_that_do_not_converge_are_said(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    _, _, err = run(cli, small_esc50, "--protocol-set", "max_iterations=1")
    assert "fits did not converge" in err
    (record,) = (tmp_path / "results").rglob("*.json")
    assert "did not converge" in json.loads(record.read_text())["protocol"]["remarks"][0]
