"""What every registered encoder must do; a new plugin is tested here unasked."""

from __future__ import annotations

import importlib

import pytest
import torch
from small_models import small, usable

from aape_bench import registry
from aape_bench.choices import ModelChoice
from aape_bench.encoder import Encoder
from aape_bench.identity import source_digest
from aape_bench.selection import select_model

MODELS = registry.model_names()
#: Those that need a user's file: none is at hand.
NEEDING_A_FILE = {name for name in MODELS if registry.model(name).published is not None}
#: Those that bring weights; for the others small random ones stand.
BRINGING_WEIGHTS = {
    name for name in MODELS if registry.model(name).default_weights() is not None or registry.model(name).package
}


def chosen(name: str, weights: str = "default", seed: int = 0) -> ModelChoice:
    """The model, where it brings no weights or they are not asked for with settings that make it quick."""
    settings, small_weights = small(usable(name))
    if weights == "default" and registry.model(name).default_weights() is not None:
        return select_model(name, {}, weights, seed)
    return select_model(name, settings, weights if name in BRINGING_WEIGHTS else small_weights, seed)


def noise(n: int, seconds: float, rate: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(n, round(seconds * rate), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=MODELS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return chosen(request.param).build()


def test_shapes_sizes_and_finite_values(encoder: Encoder) -> None:
    audio = noise(2, 1.0, encoder.sample_rate)
    with torch.inference_mode():
        scene = encoder.scene_embeddings(audio)
        frames, times = encoder.timestamp_embeddings(audio)
    assert scene.shape == (2, encoder.scene_embedding_size)
    assert scene.dtype == frames.dtype == torch.float32
    assert frames.shape == (2, times.shape[1], encoder.timestamp_embedding_size)
    assert torch.isfinite(scene).all()
    assert torch.isfinite(frames).all()
    assert (times >= 0).all()
    assert (times <= 1000).all()
    steps = times.diff(dim=1)
    assert torch.allclose(steps, steps[:, :1].expand_as(steps), atol=1e-3)


@pytest.mark.parametrize("seconds", [0.025, 0.1, 0.33, 2.0, 11.0])
def test_any_length_and_silence(encoder: Encoder, seconds: float) -> None:
    with torch.inference_mode():
        for audio in (noise(1, seconds, encoder.sample_rate), torch.zeros(1, round(seconds * encoder.sample_rate))):
            assert torch.isfinite(encoder.scene_embeddings(audio)).all()


def test_a_clip_depends_on_nothing_but_itself(encoder: Encoder) -> None:
    rate = encoder.sample_rate
    audio = noise(4, 1.5, rate)
    lengths = torch.tensor([audio.shape[1], rate // 2, 777, rate + 13])
    for row, length in enumerate(lengths):
        audio[row, length:] = 0
    with torch.inference_mode():
        batch = encoder.scene_embeddings(audio, lengths)
        alone = torch.cat([encoder.scene_embeddings(audio[r : r + 1, :n]) for r, n in enumerate(lengths)])
        order = torch.tensor([2, 0, 3, 1])
        shuffled = encoder.scene_embeddings(audio[order], lengths[order])
        again = encoder.scene_embeddings(audio, lengths)
    assert torch.equal(batch, again)
    assert (batch - alone).abs().max() < 1e-5
    assert (batch[order] - shuffled).abs().max() < 1e-5


def test_the_input_is_not_changed_and_no_global_generator_moves(encoder: Encoder) -> None:
    audio = noise(2, 1.0, encoder.sample_rate)
    before, state = audio.clone(), torch.random.get_rng_state()
    with torch.inference_mode():
        encoder.scene_embeddings(audio)
    assert torch.equal(audio, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not encoder.training


@pytest.mark.parametrize(
    ("name", "weights"),
    [(name, weights) for name in MODELS for weights in ("default", "random")[name not in BRINGING_WEIGHTS :]],
)
def test_sources_and_weights(name: str, weights: str) -> None:
    plugin = usable(name)
    assert len(source_digest(plugin.code)) == 64
    assert plugin.build.__module__ in plugin.code
    one, two = (chosen(name, weights, seed) for seed in (0, 1))
    audio = noise(1, 0.5, plugin.sample_rate)
    with torch.inference_mode():
        equal = torch.equal(one.build().scene_embeddings(audio), two.build().scene_embeddings(audio))
        assert torch.equal(one.build().scene_embeddings(audio), one.build().scene_embeddings(audio))
    drawn = plugin.has_weights and (weights == "random" or name not in BRINGING_WEIGHTS)
    assert equal == (not drawn)
    assert (one.identity == two.identity) == equal


@pytest.mark.parametrize(
    "name",
    [name for name in MODELS if name not in NEEDING_A_FILE and registry.model(name).code[0].startswith("aape_bench.")],
)
def test_a_built_in_ones_module_is_a_hear_module(name: str) -> None:
    module = importlib.import_module(usable(name).build.__module__)
    model = module.load_model()
    audio = noise(2, 0.7, model.sample_rate)
    scene = module.get_scene_embeddings(audio, model)
    frames, times = module.get_timestamp_embeddings(audio, model)
    assert scene.shape == (2, model.scene_embedding_size)
    assert frames.shape[:2] == times.shape
    with torch.inference_mode():
        assert torch.equal(scene, select_model(name, {}, "default", 0).build().scene_embeddings(audio))
