"""What an ablation is: variants, questions, endpoints, steps. Fixed and on disk before anything is trained.

`RESULTS_DIR/ablation/<model>-<preset>-<hash of the request>/plan.json`. Seeds are no part of it: more of them extend
the same ablation. The learning rate, chosen after, stands beside it in `learning_rate.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from aape_bench.errors import StorageError, UsageError
from aape_bench.identity import digest
from aape_bench.storage import create_json, safe_name
from aape_bench.training import Question, Setup, Variant

SCHEMA = 1
PLAN = "plan.json"
LEARNING_RATE = "learning_rate.json"


@dataclass(frozen=True)
class PlannedTask:
    """A task that judges. text: what --task calls it. clips: present, of `expected`."""

    text: str
    name: str
    domain: str
    clips: int
    expected: int


@dataclass(frozen=True)
class Request:
    """What the command asks for, resolved; its hash names the ablation.

    variants: the reference first. questions: those whose variants are all there (pairs of `same_as` may not be).
    endpoints: of each kind the names of the tasks whose mean score it is; perhaps none. protocols: labels; endpoints
    are of the first. stability: the name of the task that it is measured on, None where it is not asked for.
    audio: what to train on, without folders; audio_digest: hash of it. asked: steps, budget in minutes of a training
    of the slowest variant, learning rate; None where they were left to the preset or to be chosen.
    """

    model: str
    preset: str
    device: str
    reference: str
    variants: tuple[Variant, ...]
    questions: tuple[Question, ...]
    tasks: tuple[PlannedTask, ...]
    endpoints: dict[str, list[str]]
    protocols: tuple[str, ...]
    stability: str | None
    audio: tuple[str, ...]
    audio_digest: str
    asked: dict[str, float | None]

    @property
    def key(self) -> str:
        """8 hex digits over all of it."""
        about = {field.name: getattr(self, field.name) for field in fields(Request)}
        return digest({"schema": SCHEMA, **about})[:8]

    @property
    def protocol(self) -> str:
        """Label of the protocol that endpoints are of."""
        return self.protocols[0]

    def variant(self, name: str) -> Variant:
        """The variant of that name."""
        return next(one for one in self.variants if one.name == name)


@dataclass(frozen=True)
class Plan(Request):
    """A request with the steps that every variant takes.

    seconds_per_step: of every variant, as timed, where a budget was turned into steps; else empty. learning_rate:
    None: the preset's own, or not chosen yet.
    """

    steps: int
    seconds_per_step: dict[str, float]
    learning_rate: float | None = None

    def setup(self, variant: Variant, audio: Sequence[str]) -> Setup:
        """How a variant is trained."""
        return Setup(dict(variant.settings), self.preset, self.steps, self.learning_rate, tuple(audio))


def ablations(results_dir: Path) -> Path:
    """The folder of all ablations, and of the trainings that they share."""
    return results_dir / "ablation"


def folder_of(results_dir: Path, request: Request) -> Path:
    """The folder of one ablation."""
    return ablations(results_dir) / f"{safe_name(request.model)}-{safe_name(request.preset)}-{request.key}"


def make_plan(request: Request, steps: int, seconds_per_step: Mapping[str, float]) -> Plan:
    """The plan of a request."""
    about = {field.name: getattr(request, field.name) for field in fields(Request)}
    return Plan(**about, steps=steps, seconds_per_step=dict(seconds_per_step))


def write_plan(folder: Path, plan: Plan) -> Plan:
    """Write a plan where there is none yet; returns the one that is there then, which another process may have made."""
    content = asdict(plan)
    del content["learning_rate"]
    create_json(folder / PLAN, {"schema": SCHEMA, **content})
    there = read_plan(folder)
    assert there is not None
    return there


def read_plan(folder: Path) -> Plan | None:
    """The plan in a folder, None where there is none. Raises StorageError where it is not one, or was changed."""
    file = folder / PLAN
    if not file.is_file():
        return None
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        if value.pop("schema") != SCHEMA:
            raise ValueError("another version wrote it")
        value["variants"] = tuple(Variant(**one) for one in value["variants"])
        value["questions"] = tuple(map(_question, value["questions"]))
        value["tasks"] = tuple(PlannedTask(**one) for one in value["tasks"])
        value["protocols"], value["audio"] = tuple(value["protocols"]), tuple(value["audio"])
        plan = Plan(**value)
        if not folder.name.endswith(plan.key):
            raise ValueError("it was changed, or its folder renamed")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            f"{file} is not a readable plan ({type(error).__name__}: {error}). Move its folder away and run again."
        ) from None
    return plan


def choose_variants(
    known: Sequence[Variant], names: Sequence[str], reference: str, own: Sequence[str]
) -> list[Variant]:
    """The variants named, and those that the command line describes (`name:key=value;...`); the reference first.

    Raises UsageError where a name is not known, not a name, or given twice.
    """
    from aape_bench.settings import split_assignments, suggestion

    by_name = {one.name: one for one in known}
    chosen = {reference: by_name[reference]}
    for name in list(by_name) if "all" in names else names:
        if name not in by_name:
            raise UsageError(f'There is no variant "{name}".{suggestion(name, by_name)}')
        chosen[name] = by_name[name]
    for text in own:
        name, _, rest = text.partition(":")
        if not name.isascii() or not name.isidentifier():
            raise UsageError(f'--variant takes NAME:key=value;..., NAME of letters, digits and _, not "{text}".')
        if name in by_name or name in chosen:
            raise UsageError(f'The variant "{name}" is there already. Give that of --variant "{text}" another name.')
        chosen[name] = Variant(name, split_assignments(rest), rest)
    return list(chosen.values())


def endpoints_of(tasks: Sequence[PlannedTask], controls: Sequence[str]) -> dict[str, list[str]]:
    """The names of the tasks that each endpoint is the mean of."""
    counted = [task for task in tasks if task.name not in controls]
    return {
        "modulation": [task.name for task in counted if task.domain == "modulation"],
        "real": [task.name for task in counted if task.domain != "modulation"],
    }


def answerable(questions: Sequence[Question], variants: Sequence[Variant]) -> list[Question]:
    """The questions whose variants are all there."""
    names = {one.name for one in variants}
    return [question for question in questions if names >= {question.ahead, *question.of}]


def _question(value: dict[str, Any]) -> Question:
    return Question(**{**value, "of": tuple(value["of"]), "same_as": tuple(tuple(pair) for pair in value["same_as"])})
