"""The plan: what names it, what it keeps, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from ablation_scores import plan as some_plan

from aape_bench.ablation.plan import (
    PlannedTask,
    answerable,
    choose_variants,
    endpoints_of,
    folder_of,
    read_plan,
    write_plan,
)
from aape_bench.errors import StorageError, UsageError
from aape_bench.training import Question, Variant

KNOWN = (Variant("plain", {"stem": "plain"}), Variant("full"), Variant("wide", {"width": 8}))


def chosen(*names: str, own: tuple[str, ...] = ()) -> list[str]:
    return [one.name for one in choose_variants(KNOWN, names, "full", own)]


def test_the_reference_comes_first_whether_named_or_not() -> None:
    assert chosen("wide", "plain") == ["full", "wide", "plain"]
    assert chosen("plain", "full", "plain") == ["full", "plain"]
    assert chosen("all") == ["full", "plain", "wide"]
    assert chosen() == ["full"]


def test_a_variant_of_ones_own() -> None:
    *_, own = choose_variants(KNOWN, ["plain"], "full", ["few: model.modes=4; steps=a:b"])
    assert own == Variant("few", {"model.modes": "4", "steps": "a:b"}, " model.modes=4; steps=a:b")
    assert chosen(own=("bare", "other:x=1")) == ["full", "bare", "other"]


@pytest.mark.parametrize(
    ("names", "own", "said"),
    [
        (["plane"], (), 'no variant "plane". Did you mean "plain"'),
        ([], ("plain:x=1",), 'The variant "plain" is there already'),
        ([], ("a:x=1", "a:x=2"), 'The variant "a" is there already'),
        ([], ("a b:x=1",), "letters, digits and _"),
        ([], ("../up:x=1",), "letters, digits and _"),
        ([], (":x=1",), "letters, digits and _"),
        ([], ("a:x",), "not of the form key=value"),
    ],
)
def test_other_names_are_refused(names: list[str], own: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        chosen(*names, own=own)
    assert said in str(refused.value)


def test_endpoints_leave_controls_out() -> None:
    tasks = [
        PlannedTask(name, name, domain, 10, 20)
        for name, domain in (("tremolo", "modulation"), ("pitch", "modulation"), ("esc50", "sound"), ("gtzan", "music"))
    ]
    assert endpoints_of(tasks, ["pitch"]) == {"modulation": ["tremolo"], "real": ["esc50", "gtzan"]}
    assert endpoints_of(tasks[1:2], ["pitch"]) == {"modulation": [], "real": []}


def test_a_question_is_asked_only_where_all_its_variants_are_there() -> None:
    question = Question("q", "It helps", "full", ("plain", "wide"), same_as=(("full33", "plain33"),))
    assert answerable([question], KNOWN) == [question]
    assert answerable([question], KNOWN[:2]) == []


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = replace(some_plan(), learning_rate=None)
    folder = folder_of(tmp_path, made)
    assert read_plan(folder) is None
    assert write_plan(folder, made) == made
    assert read_plan(folder) == made


def test_the_first_plan_of_a_request_stands(tmp_path: Path) -> None:
    first = replace(some_plan(), learning_rate=None)
    folder = folder_of(tmp_path, first)
    write_plan(folder, first)
    assert write_plan(folder, replace(first, steps=first.steps + 1)).steps == first.steps


def test_what_was_asked_names_the_folder_and_what_came_of_it_does_not(tmp_path: Path) -> None:
    made = some_plan()
    assert folder_of(tmp_path, made) == folder_of(tmp_path, replace(made, steps=999, learning_rate=0.3))
    for other in (
        replace(made, preset="other"),
        replace(made, variants=made.variants[:2]),
        replace(made, tasks=made.tasks[:1]),
        replace(made, questions=()),
        replace(made, asked={**made.asked, "steps": 17}),
        replace(made, audio_digest="another"),
        replace(made, stability="tremolo"),
    ):
        assert folder_of(tmp_path, other) != folder_of(tmp_path, made)


@pytest.mark.parametrize("damage", ["endpoint", "schema", "half", "missing"])
def test_a_plan_that_was_changed_is_refused(tmp_path: Path, damage: str) -> None:
    made = some_plan()
    folder = folder_of(tmp_path, made)
    write_plan(folder, made)
    file = folder / "plan.json"
    value = json.loads(file.read_text())
    if damage == "endpoint":
        value["endpoints"]["real"] = value["endpoints"]["real"][:1]
    if damage == "schema":
        value["schema"] = 0
    if damage == "missing":
        del value["tasks"]
    text = json.dumps(value)
    file.write_text(text[: len(text) // 2] if damage == "half" else text)
    with pytest.raises(StorageError, match=r"plan\.json is not a readable plan"):
        read_plan(folder)
