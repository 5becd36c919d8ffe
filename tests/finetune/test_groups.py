"""Layer decay, weight decay and freezing against the rules written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aape_bench.encoder import Encoder
from aape_bench.errors import ModelError, UsageError
from aape_bench.finetune.groups import parameter_groups
from aape_bench.finetune.objective import Head
from aape_bench.finetune.recipe import Recipe
from aape_bench.models import aape, vit
from aape_bench.models.aape.encoder import AapeEncoder
from aape_bench.plugin import EncoderPlugin
from aape_bench.settings import make_config


def encoder(plugin: EncoderPlugin = vit.plugin, **settings: Any) -> AapeEncoder:
    settings = {"blocks": 4, "width": 32, "heads": 2, "clip_frames": 64, **settings}
    built = plugin.build(make_config(plugin.config, settings, plugin.name), 0)
    assert isinstance(built, AapeEncoder)
    return built


def recipe(**settings: Any) -> Recipe:
    return make_config(Recipe, {"preset": "other", **settings}, "finetune")


def head() -> Head:
    return Head(32, 5, 0)


def scales(model: Encoder, groups: list[dict[str, Any]]) -> dict[str, float]:
    """The scale of every parameter that is in a group, by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names.get(id(p), "head"): group["scale"] for group in groups for p in group["params"]}


def test_rates_of_four_blocks_written_out() -> None:
    model = encoder(aape.plugin)
    found = scales(model, parameter_groups(model, head(), recipe(layer_decay=0.5)))
    for index, expected in enumerate((0.0625, 0.125, 0.25, 0.5)):
        of_block = {scale for name, scale in found.items() if name.startswith(f"backbone.blocks.{index}.")}
        assert of_block == {expected}
    assert {scale for name, scale in found.items() if not name.startswith("backbone.blocks.")} == {1.0}
    assert set(found) == {"head", *(name for name, _ in model.named_parameters())}


def test_the_stem_is_a_layer_of_its_own_if_asked() -> None:
    for norm in ("pre", "post"):
        model = encoder(aape.plugin, norm=norm)
        found = scales(model, parameter_groups(model, head(), recipe(layer_decay=0.5, stem_decay=True)))
        assert found["stem.conv_token.weight"] == found["backbone.cls"] == 0.5**5
        assert found["stem.fusion.weight.weight"] == 0.5**5
        assert found["backbone.norm.weight"] == (1.0 if norm == "pre" else 0.5**5)
        assert found["backbone.blocks.0.qkv.weight"] == 0.5**4
        assert found["head"] == 1.0


def test_every_parameter_is_trained_once_and_vectors_do_not_decay() -> None:
    model, top = encoder(aape.plugin), head()
    groups = parameter_groups(model, top, recipe(weight_decay=0.07))
    trained = [parameter for group in groups for parameter in group["params"]]
    everything = [*model.parameters(), *top.parameters()]
    assert sorted(map(id, trained)) == sorted(map(id, everything))
    for group in groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.07 if parameter.ndim > 1 else 0.0)
    assert {group["name"] for group in groups} == {"stem", "rest", "head", *(f"layer {index}" for index in range(4))}
    optimiser = torch.optim.AdamW(groups, lr=1e-3)
    assert [group["scale"] for group in optimiser.param_groups] == [group["scale"] for group in groups]


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_what_is_frozen_gets_no_gradient_and_no_group(count: int) -> None:
    model, top = encoder(aape.plugin), head()
    groups = parameter_groups(model, top, recipe(freeze=count))
    audio = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    top(model.scene_embeddings(audio)).square().sum().backward()
    frozen = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    blocks = {name for name, _ in model.named_parameters() if name.startswith("backbone.blocks.")}
    expected = {name for name in blocks if int(name.split(".")[2]) < count}
    if count:
        expected |= {name for name, _ in model.named_parameters() if name not in blocks} - {
            "backbone.norm.weight",
            "backbone.norm.bias",
        }
    assert frozen == expected
    assert scales(model, groups).keys() == {"head", *(name for name, _ in model.named_parameters())} - frozen
    assert top.linear.weight.grad is not None
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.optim.AdamW(groups, lr=1e-2).step()
    assert {name for name, value in model.state_dict().items() if torch.equal(value, before[name])} == frozen


def test_more_layers_than_there_are_cannot_be_frozen() -> None:
    with pytest.raises(UsageError, match=r"freeze=5 .* 4 layer groups"):
        parameter_groups(encoder(), head(), recipe(freeze=5))


class Plain(Encoder):
    """Two matrices and a vector, one matrix not trained; `names` are its layer groups."""

    def __init__(self, names: list[list[str]] | None = None, stem: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.names, self.stem = names, stem
        self.first = torch.nn.Linear(2, 2)
        self.table = torch.nn.Parameter(torch.ones(2, 2), requires_grad=False)

    def layer_groups(self) -> list[list[str]] | None:
        return self.names

    def stem_parameters(self) -> list[str]:
        return list(self.stem)


def test_an_encoder_without_groups_is_one_layer() -> None:
    model = Plain()
    assert scales(model, parameter_groups(model, head(), recipe(layer_decay=0.5))) == {
        "first.weight": 0.5,
        "first.bias": 0.5,
        "head": 1.0,
    }
    assert scales(model, parameter_groups(model, head(), recipe(freeze=1))).keys() == {"head"}
    with pytest.raises(UsageError, match="freeze=2"):
        parameter_groups(model, head(), recipe(freeze=2))


@pytest.mark.parametrize(
    ("names", "stem", "message"),
    [
        ([["first.weights"]], (), '"first.weights" which it has not'),
        ([["first.weight"], ["first.weight"]], (), '"first.weight" 2 times'),
        ([["first.weight"]], ("first.weight",), '"first.weight" 2 times'),
        ([["first.weight"]], ("second",), '"second" which it has not'),
    ],
)
def test_names_that_do_not_fit_are_refused(names: list[list[str]], stem: tuple[str, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parameter_groups(Plain(names, stem), head(), recipe())
