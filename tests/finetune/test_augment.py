"""Each augmentation on its own: what it changes, by how much, and what it leaves alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from aape_bench.finetune import augment
from aape_bench.finetune.augment import clip_streams, drop_path, magnitude, mixing, roll, spec_augment, white_noise
from aape_bench.randomness import torch_stream

QUIET = -4.25
LENGTHS = torch.tensor([1000, 37, 640, 1])
FRAMES = torch.tensor([40, 3, 25, 1])


def streams(name: str, clips: Sequence[int] = range(4), seed: int = 0, update: int = 0) -> list[np.random.Generator]:
    return clip_streams(seed, name, update, clips)


def waveforms(samples: int = 1000) -> Tensor:
    audio = torch.randn(4, samples, generator=torch_stream(0, "audio"))
    return audio * (torch.arange(samples) < LENGTHS[:, None])


def spectrograms(frames: Tensor = FRAMES, longest: int = 40, bins: int = 20) -> Tensor:
    values = torch.randn(len(frames), longest, bins, generator=torch_stream(0, "spectrogram"))
    return values * (torch.arange(longest) < frames[:, None])[..., None]


def mixup(
    spectrogram: Tensor,
    frames: Tensor,
    targets: Tensor,
    draws: list[np.random.Generator],
    *,
    quiet: float,
    **how: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return augment.mixup(spectrogram, frames, targets, *mixing(draws, **how), quiet=quiet)


def mixed(clips: int, strength: float = 0.8, probability: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Each clip's share in its own mixture (clips,), and its partner's number, from spectrograms that say both."""
    frames = torch.full((clips,), 2)
    spectrogram = torch.eye(clips)[:, None, :].expand(-1, 2, -1)
    _, _, shares = mixup(
        *(spectrogram, frames, torch.eye(clips), streams("mixup", range(clips), seed)),
        strength=strength,
        probability=probability,
        quiet=QUIET,
    )
    own = shares.diagonal()
    return own, (shares - torch.diag(own)).argmax(dim=1)


FUNCTIONS: dict[str, Callable[[Tensor, Tensor, list[np.random.Generator]], Tensor]] = {
    "roll": lambda audio, _, draws: roll(audio, LENGTHS[: len(audio)], draws),
    "magnitude": lambda audio, _, draws: magnitude(audio, draws),
    "noise": lambda audio, _, draws: white_noise(audio, LENGTHS[: len(audio)], draws, 0.5),
    "spec_augment": lambda _, spectrogram, draws: spec_augment(
        spectrogram, FRAMES[: len(spectrogram)], draws, time=0.5, frequency=0.5, quiet=QUIET
    ),
    "mixup": lambda _, spectrogram, draws: mixup(
        *(spectrogram, FRAMES[: len(spectrogram)], torch.eye(4)[: len(spectrogram)], draws),
        strength=0.8,
        probability=0.9,
        quiet=QUIET,
    )[0],
    "drop path": lambda _, __, draws: drop_path(draws, 0.5, 6),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_same_streams_give_the_same_bytes_and_others_do_not(name: str) -> None:
    function, state = FUNCTIONS[name], (torch.get_rng_state(), np.random.get_state()[1].tolist())  # noqa: NPY002
    audio, spectrogram = waveforms(), spectrograms()
    given = audio.clone(), spectrogram.clone()
    first = function(audio, spectrogram, streams(name))
    assert torch.equal(first, function(audio, spectrogram, streams(name)))
    for other in (streams(name, seed=1), streams(name, update=1), streams("other"), streams(name, range(4, 8))):
        assert not torch.equal(first, function(audio, spectrogram, other))
    assert torch.equal(audio, given[0])
    assert torch.equal(spectrogram, given[1])
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state()[1].tolist() == state[1]  # noqa: NPY002


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "mixup"])
def test_a_clip_draws_the_same_in_any_batch_and_with_any_padding(name: str) -> None:
    function = FUNCTIONS[name]
    together = function(waveforms(), spectrograms(), streams(name))
    alone = function(waveforms()[:1], spectrograms()[:1], streams(name)[:1])
    assert torch.equal(together[:1], alone)
    padding = torch.nn.functional.pad(waveforms(), (0, 50)), torch.nn.functional.pad(spectrograms(), (0, 0, 0, 7))
    longer = function(*padding, streams(name))
    if name != "drop path":
        assert (longer[:, together.shape[1] :] == 0).all()
    torch.testing.assert_close(longer[:, : together.shape[1]], together, atol=1e-6, rtol=0)


def test_a_clip_that_is_drawn_twice_has_other_numbers() -> None:
    first, again, other = (stream.random() for stream in clip_streams(0, "x", 0, [5, 5, 6]))
    assert first == clip_streams(0, "x", 0, [5])[0].random()
    assert len({first, again, other}) == 3


def test_nothing_is_read_back_from_the_device() -> None:
    """On torch's device without storage any such reading, and any mixing of devices, is an error."""
    audio, spectrogram = waveforms().to("meta"), spectrograms().to("meta")
    for lengths, frames in ((LENGTHS, FRAMES), (LENGTHS.to("meta"), FRAMES.to("meta"))):
        results = [
            roll(audio, lengths, streams("a")),
            magnitude(audio, streams("b")),
            white_noise(audio, lengths, streams("c"), 0.1),
            spec_augment(spectrogram, frames, streams("d"), time=0.2, frequency=3, quiet=QUIET),
            *mixup(
                *(spectrogram, frames, torch.eye(4).to("meta"), streams("e")),
                strength=0.8,
                probability=0.9,
                quiet=QUIET,
            ),
        ]
        assert all(result.is_meta for result in results)


def test_roll_is_a_circular_shift_of_the_real_samples() -> None:
    audio = waveforms()
    rolled = roll(audio, LENGTHS, streams("roll"))
    for row, (before, after, length) in enumerate(zip(audio, rolled, LENGTHS.tolist(), strict=True)):
        shift = int((after[:length] == before[0]).nonzero()[0])
        assert torch.equal(after[:length], before[:length].roll(shift))
        assert (after[length:] == 0).all()
        energies = [float(clip.double().square().sum()) for clip in (before, after)]
        assert energies[0] == pytest.approx(energies[1], rel=1e-12)
        assert row > 1 or shift > 0


def test_roll_shifts_by_any_number_of_samples_alike() -> None:
    n, length = 3000, 6
    audio = torch.arange(8.0).expand(n, -1)
    rolled = roll(audio, torch.full((n,), length), streams("roll", range(n)))
    assert (rolled[:, length:] == audio[:, length:]).all()
    counts = np.bincount((rolled[:, :length] == 0).nonzero()[:, 1].numpy(), minlength=length)
    assert np.abs(counts - n / length).max() < 4 * math.sqrt(n / length)


def test_magnitude_is_one_gain_per_clip_of_mean_one() -> None:
    audio = torch.ones(2000, 3)
    gains = magnitude(audio, streams("magnitude", range(2000)))
    assert (gains == gains[:, :1]).all()
    assert gains.min() > 0.5
    assert gains.max() < 1.5
    deviation = math.sqrt(1 / (4 * 21))  # of Beta(10, 10)
    assert float(gains[:, 0].mean()) == pytest.approx(1, abs=4 * deviation / math.sqrt(2000))
    assert float(gains[:, 0].std()) == pytest.approx(deviation, rel=0.08)


def test_noise_is_white_and_as_loud_as_the_clip_allows() -> None:
    n, samples, length, most = 400, 2000, 1600, 0.2
    loudness = torch.linspace(0.01, 1, n)[:, None]
    audio = loudness * torch.randn(n, samples, generator=torch_stream(0, "clips"))
    audio[:, length:] = 0
    audio[0] = 0
    noisy = white_noise(audio, torch.full((n,), length), streams("noise", range(n)), most)
    noise = (noisy - audio)[:, :length]
    assert (noisy[:, length:] == 0).all()
    assert (noisy[0] == 0).all()
    level = noise[1:].square().mean(dim=1).sqrt() / audio[1:, :length].square().mean(dim=1).sqrt()
    assert level.max() < 1.1 * most
    assert float(level.mean()) == pytest.approx(most / 2, rel=0.1)
    assert float(level.std()) == pytest.approx(most / math.sqrt(12), rel=0.1)
    unit = noise[1:] / noise[1:].std(dim=1, keepdim=True)
    assert abs(float(unit.mean())) < 0.01
    assert abs(float((unit[:, 1:] * unit[:, :-1]).mean())) < 0.01
    assert float((unit.abs() < 1).float().mean()) == pytest.approx(0.683, abs=0.005)  # Gaussian


def test_mixup_mixes_targets_as_it_mixes_spectrograms() -> None:
    frames = torch.tensor([30, 30, 30])
    spectrogram, targets = spectrograms(frames), torch.tensor([[1.0, 0, 0], [0, 1, 1], [0.05, 0.05, 0.9]])
    mixtures, lengths, soft = mixup(
        spectrogram, frames, targets, streams("mixup", range(3)), strength=2.0, probability=1.0, quiet=QUIET
    )
    assert torch.equal(lengths, frames)
    for row in range(3):
        found = []
        for partner in {0, 1, 2} - {row}:
            difference = spectrogram[row] - spectrogram[partner]
            share = ((mixtures[row] - spectrogram[partner]) * difference).sum() / difference.square().sum()
            mixture = share * spectrogram[row] + (1 - share) * spectrogram[partner]
            if torch.allclose(mixture, mixtures[row], atol=1e-5):
                assert 0 < share < 1
                found.append(share * targets[row] + (1 - share) * targets[partner])
        (expected,) = found
        torch.testing.assert_close(soft[row], expected, atol=1e-5, rtol=0)


def test_mixup_fills_up_the_shorter_clip() -> None:
    frames = torch.tensor([4, 9])
    spectrogram = spectrograms(frames, longest=12)
    mixtures, lengths, shares = mixup(
        spectrogram, frames, torch.eye(2), streams("mixup", [3, 4]), strength=0.8, probability=1.0, quiet=QUIET
    )
    assert lengths.tolist() == [9, 9]
    assert (mixtures[:, 9:] == 0).all()
    filled = spectrogram[0].clone()
    filled[4:9] = QUIET
    for row in range(2):
        expected = shares[row, 0] * filled[:9] + shares[row, 1] * spectrogram[1, :9]
        torch.testing.assert_close(mixtures[row, :9], expected)


def test_mixup_leaves_clips_alone_to_the_bit() -> None:
    spectrogram, targets = spectrograms(), torch.rand(4, 7, generator=torch_stream(0, "targets"))
    same = mixup(spectrogram, FRAMES, targets, streams("mixup"), strength=0.8, probability=0.0, quiet=QUIET)
    assert all(torch.equal(a, b) for a, b in zip(same, (spectrogram, FRAMES, targets), strict=True))
    first = spectrogram[:1], FRAMES[:1], targets[:1], streams("mixup")[:1]
    alone = mixup(*first, strength=0.8, probability=1.0, quiet=QUIET)
    assert all(torch.equal(a, b[:1]) for a, b in zip(alone, (spectrogram, FRAMES, targets), strict=True))


@pytest.mark.parametrize("strength", [0.3, 0.8, 10.0])
def test_mixup_draws_shares_from_beta_and_any_other_clip_as_partner(strength: float) -> None:
    share, partner = mixed(600, strength)
    assert (partner != torch.arange(600)).all()
    variance = 1 / (4 * (2 * strength + 1))
    assert float(share.mean()) == pytest.approx(0.5, abs=4 * math.sqrt(variance / 600))
    assert float(share.var()) == pytest.approx(variance, rel=0.15)
    partners = {int(mixed(4, seed=seed)[1][2]) for seed in range(40)}
    assert partners == {0, 1, 3}


def test_mixup_mixes_as_many_as_its_probability_says() -> None:
    share, _ = mixed(1000, 10.0, probability=0.7)
    assert float((share < 1).float().mean()) == pytest.approx(0.7, abs=4 * math.sqrt(0.21 / 1000))


@pytest.mark.parametrize(("time", "frequency"), [(0.4, 0.2), (0.5, 0.0), (0.0, 1.0), (7.0, 3.0), (500.0, 500.0)])
def test_spec_augment_hides_one_band_each_within_bounds(time: float, frequency: float) -> None:
    """Against the definition, clip by clip; over many clips every width up to the largest comes up, alike often."""
    n, longest, bins = 900, 30, 20
    frames = torch.arange(n) % 3 * 10 + 10
    spectrogram = spectrograms(frames, longest, bins)
    changed = spec_augment(spectrogram, frames, streams("spec", range(n)), time=time, frequency=frequency, quiet=QUIET)
    hidden = changed == QUIET
    assert torch.equal(changed[~hidden], spectrogram[~hidden])
    most_bins = round(frequency * bins) if frequency <= 1 else min(int(frequency), bins)
    seen: dict[str, list[int]] = {"time": [], "frequency": []}
    for row, count in enumerate(frames.tolist()):
        inside = hidden[row, :count]
        assert not hidden[row, count:].any()
        in_time, in_frequency = inside.all(dim=1), inside.all(dim=0)
        most = round(time * count) if time <= 1 else min(int(time), count)
        if in_time.all() or in_frequency.all():
            continue  # everything is hidden: by which band cannot be seen
        assert torch.equal(inside, in_time[:, None] | in_frequency[None])
        for band, limit, kind in ((in_time, most, "time"), (in_frequency, most_bins, "frequency")):
            places = band.nonzero().flatten()
            assert len(places) <= limit
            assert len(places) == 0 or int(places[-1] - places[0]) == len(places) - 1
            if count == 20:
                seen[kind].append(len(places))
    widest = {"time": round(20 * time) if time <= 1 else min(int(time), 20), "frequency": most_bins}
    for kind, widths in seen.items():
        limit = widest[kind]
        counts = np.bincount(widths, minlength=limit + 1)
        if limit < 20 and max(widest.values()) < 20:  # otherwise the widest were left out above
            expected = len(widths) / (limit + 1)
            assert np.abs(counts - expected).max() < 4 * math.sqrt(expected)


def test_spec_augment_hides_any_place_alike() -> None:
    n = 4000
    hidden = (
        spec_augment(
            torch.ones(n, 9, 4), torch.full((n,), 9), streams("spec", range(n)), time=1.5 - 0.5, frequency=0, quiet=0
        )
        == 0
    )
    # A band of width w starts at 0 .. 9 - w: frame t is hidden by the share of places that cover it.
    expected = [
        sum(sum(first <= t < first + w for first in range(10 - w)) / (10 - w) for w in range(10)) / 10 for t in range(9)
    ]
    assert hidden.all(dim=2).float().mean(dim=0).tolist() == pytest.approx(expected, abs=0.03)


def test_drop_path_rises_linearly_and_keeps_the_mean() -> None:
    n, rate, blocks = 4000, 0.4, 5
    factors = drop_path(streams("drop path", range(n)), rate, blocks)
    assert factors.shape == (n, blocks, 2)
    for index in range(blocks):
        dropped = rate * index / (blocks - 1)
        values = factors[:, index].unique().tolist()  # ascending
        assert values == ([1.0] if index == 0 else [0.0, pytest.approx(1 / (1 - dropped), rel=1e-6)])
        for branch in range(2):
            share = float((factors[:, index, branch] == 0).float().mean())
            assert share == pytest.approx(dropped, abs=4 * math.sqrt(dropped * (1 - dropped) / n))
            error = math.sqrt(dropped / (1 - dropped) / n)
            assert float(factors[:, index, branch].mean()) == pytest.approx(1, abs=4 * error)
    both = ((factors[:, 4, 0] == 0) & (factors[:, 4, 1] == 0)).float().mean()
    assert float(both) == pytest.approx(rate**2, abs=0.03)  # each branch for itself
    assert (drop_path(streams("drop path"), 0.0, 3) == 1).all()
    assert (drop_path(streams("drop path"), 0.5, 1) == 1).all()


def test_draws_never_reach_the_limit() -> None:
    largest = torch.tensor([1 - 2**-24])
    drawn = torch.randint(1, 2**24, (1000,), generator=torch_stream(0, "limits"))
    limits = torch.cat([torch.arange(1, 100_000), drawn])
    assert largest < 1
    assert torch.equal(augment._below(largest, limits), limits - 1)
    assert (augment._below(torch.zeros(1), limits) == 0).all()
