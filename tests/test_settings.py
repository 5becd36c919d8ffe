"""`key=value` text in, checked settings out; and what a command line names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from aape_bench.errors import UsageError
from aape_bench.selection import select_models, select_tasks, split_names
from aape_bench.settings import label_of, make_config, split_assignments


@dataclass(frozen=True)
class Toy:
    preset: Literal["small", "large"] = "small"
    width: int | None = None
    rate: float = 0.5
    fast: bool = False
    kind: Literal[1, 2] = 1

    def resolved(self) -> Toy:
        from dataclasses import replace

        return replace(self, width=self.width or {"small": 8, "large": 64}[self.preset])


def test_text_becomes_typed_values() -> None:
    config = make_config(Toy, {"width": "3", "rate": "1e-3", "fast": "true", "kind": "2"}, "toy")
    assert config == Toy(width=3, rate=1e-3, fast=True, kind=2)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"widht": "3"}, 'toy has no setting "widht". Did you mean "width"?'),
        ({"width": "3.5"}, "width must be int"),
        ({"rate": "nan"}, "rate must be finite"),
        ({"fast": "perhaps"}, "fast must be bool"),
        ({"kind": "3"}, 'kind cannot be "3"'),
        ({"preset": "smal"}, 'Did you mean "small"?'),
    ],
)
def test_what_does_not_fit_is_named(settings: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError) as refusal:
        make_config(Toy, settings, "toy")
    assert says in str(refusal.value)


def test_labels_carry_what_is_not_default() -> None:
    def label(**settings: object) -> str:
        return label_of("toy", make_config(Toy, settings, "toy"))

    assert label() == label(width=8, rate=0.5) == "toy"
    assert label(rate=0.25, preset="large") == "toy[preset=large,rate=0.25]"
    assert label(width=9) == "toy[width=9]"


def test_assignments_are_split_and_checked() -> None:
    assert split_assignments("a=1; b=x=y ;") == {"a": "1", "b": "x=y"}
    for bad in ("a", "=1", "a=1;a=2"):
        with pytest.raises(UsageError):
            split_assignments(bad)


def test_names_split_at_commas_outside_braces() -> None:
    assert split_names(["a,b{x=1,2;y=3}", "c"]) == ["a", "b{x=1,2;y=3}", "c"]
    with pytest.raises(UsageError, match="braces"):
        split_names(["a{x=1,b"])


def test_models_by_glob_braces_and_seed() -> None:
    choices = select_models(["logm*,logmel{n_mels=64}"], {}, "default", [0, 1])
    assert [(c.label, c.seed) for c in choices] == [
        ("logmel", 0), ("logmel", 1), ("logmel[n_mels=64]", 0), ("logmel[n_mels=64]", 1),
    ]  # fmt: skip
    assert len({c.identity for c in choices}) == 2  # nothing is drawn: the seed decides no embedding
    random = select_models(["vit"], {}, "default", [0, 1])
    assert len({c.identity for c in random}) == 2
    assert {c.weights for c in random} == {"random"}


@pytest.mark.parametrize(
    ("models", "settings", "weights", "says"),
    [
        (["logmell"], {}, "default", 'Did you mean "logmel"?'),
        (["x*"], {}, "default", "No model matches"),
        (["logmel,vit"], {"window": "gaussian"}, "default", "no setting"),
        (["vit,aape"], {}, "x.safetensors", "several are named"),
        (["logmel"], {}, "x.safetensors", "has no weights"),
        (["logmel{n_mels=64}"], {"n_mels": "32"}, "default", "set twice"),
        (["logmel{n_mels=64}x"], {}, "default", "closing brace"),
        (["hear:no.such.module"], {}, "x.pt", "There is no checkpoint"),
        (["hear:"], {}, "default", '"hear:" names no module'),
        (["hear:."], {}, "default", '"hear:." names no module'),
        (["hear:..a"], {}, "default", "names no module"),
        (["hear:a."], {}, "default", "names no module"),
        (["hear:no.such.module"], {"a": "1"}, "default", "has no settings"),
    ],
)
def test_models_that_do_not_fit_are_refused(
    models: list[str], settings: dict[str, str], weights: str, says: str
) -> None:
    with pytest.raises(UsageError if "checkpoint" not in says else Exception) as refusal:
        select_models(models, settings, weights, [0])
    assert says in str(refusal.value)


def test_tasks_by_name_and_glob() -> None:
    assert [task.name for task in select_tasks(["tremolo", "esc*,tremolo"])] == ["tremolo", "esc50"]
    assert {"esc50", "tremolo"} <= {task.name for task in select_tasks(["all"])}
    with pytest.raises(UsageError, match='Did you mean "esc50"'):
        select_tasks(["esc5"])
