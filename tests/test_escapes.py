"""Names with marks in them: a backslash makes a mark a part of the name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hear_folders import make_folder
from toys import Cli

import aape_bench
from aape_bench.apart import _task_text
from aape_bench.errors import UsageError
from aape_bench.escapes import cut_settings, escaped, plain, split
from aape_bench.selection import read_models, select_tasks, split_names
from aape_bench.settings import split_assignments

ODD = "a,b{c};d\\e"

ENCODER = """
import torch
from aape_bench.encoder import Encoder

class Loudness(Encoder):
    sample_rate, scene_embedding_size, timestamp_embedding_size = 16000, 2, 2
    takes_lengths = False
    def scene_embeddings(self, audio, lengths=None):
        return torch.stack([audio.abs().mean(1), audio.std(1)], 1)
"""


@pytest.mark.parametrize("name", [ODD, "{", "}}", ",", "\\", "\\\\,", "a\\nb", "ordinary-name_1.py:make"])
def test_what_is_escaped_is_one_name_again(name: str) -> None:
    assert plain(escaped(name)) == name
    text = f"first,{escaped(name)}{{a={escaped(name)};b=2}},last"
    names = split(text, ",")
    assert [names[0], names[-1]] == ["first", "last"]
    assert len(names) == 3
    found, inside = cut_settings(names[1])
    assert found == name
    assert split_assignments(inside or "") == {"a": name, "b": "2"}
    assert split_names(names) == names  # splitting again changes nothing


def test_a_backslash_before_anything_else_is_one() -> None:
    assert split("a\\b,c\\", ",") == ["a\\b", "c\\"]
    assert plain("a\\b\\") == "a\\b\\"


@pytest.mark.parametrize("text", ["a{b", "a}b{", "a\\{b}", "a{b\\}"])
def test_braces_that_do_not_match_are_said_to_need_a_backslash(text: str) -> None:
    with pytest.raises(UsageError, match="takes it as it is"):
        read_models([text], {}, "default")


def test_models_and_weights_in_odd_places(cli: Cli, small_esc50: Path, tmp_path: Path) -> None:
    folder = tmp_path / ODD
    folder.mkdir()
    file = folder / "x,y.py"
    file.write_text(ENCODER + "make = Loudness\n")
    line = ("--task", "esc50", "--protocol", "knn", "--data-dir", small_esc50, "--allow-partial")
    status, out, err = cli("run", "--model", f"patch_mean,{escaped(str(file))}:make", *line)
    assert status == 0, err
    assert "2 results computed" in out
    # a Path is one name
    results = aape_bench.run(Path(f"{file}:make"), "esc50", "knn", data_dir=small_esc50, allow_partial=True)
    assert results.computed == 0
    assert results.record.model["label"] == "x,y.py:make"
    (model,) = read_models([f"aape{{weights={escaped(str(folder))}/w.safetensors}}"], {}, "default")
    assert model == ("aape", {}, f"{folder}/w.safetensors")


def test_tasks_in_odd_places(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / ODD)
    text = f"hear:{escaped(str(folder))}"
    (task,) = select_tasks([f"{text},{text}"])
    assert task.root == folder
    (again,) = select_tasks([_task_text(task)])  # as another process is told of it
    assert again.root == folder
