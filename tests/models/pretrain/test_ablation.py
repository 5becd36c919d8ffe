"""AaPE's variants: fair to each other, trained by the real engine, and what the report draws of them."""

from __future__ import annotations

import dataclasses
import importlib.util
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrain_runs import write_audio

from aape_bench import registry
from aape_bench.checkpoint import read_header
from aape_bench.errors import UsageError
from aape_bench.models.aape import pretrain
from aape_bench.models.aape.config import AapeConfig
from aape_bench.models.aape.pretrain import ablation, engine, masks, trainer
from aape_bench.models.aape.pretrain.ablation import VARIANTS, AapeTraining
from aape_bench.models.aape.pretrain.flops import _count, size_of
from aape_bench.models.aape.pretrain.model import Pretrainer
from aape_bench.overlap import FIELD
from aape_bench.progress import Silent
from aape_bench.selection import select_model
from aape_bench.training import Interrupted, Run, Setup, Training, Variant

TRAINING = AapeTraining()
NAMES = [variant.name for variant in VARIANTS]
STEPS = 2


def setup(variant: str | dict[str, Any] = "full", steps: int = STEPS, **changed: Any) -> Setup:
    settings = next(v.settings for v in VARIANTS if v.name == variant) if isinstance(variant, str) else variant
    return Setup(**{
        **{"settings": {"batch": 4, **settings}, "preset": "smoke", "steps": steps, "learning_rate": 1e-3},
        **{"audio": ("generated:modulation:12",), **changed},
    })  # fmt: skip


def configs(variant: str) -> tuple[AapeConfig, Any]:
    return ablation._configs(setup(variant))


@dataclasses.dataclass
class Met:
    """What a training has met: per step its clips' numbers and audio, and the kept patches of every view."""

    clips: list[list[int]] = dataclasses.field(default_factory=list)
    audio: list[bytes] = dataclasses.field(default_factory=list)
    kept: list[torch.Tensor] = dataclasses.field(default_factory=list)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Run, Met]]:
    """Every variant after two steps."""
    folder, found = tmp_path_factory.mktemp("ablation"), {}
    step, draw = trainer.Trainer.step, masks.batch_masks
    with pytest.MonkeyPatch.context() as patch:
        for variant in VARIANTS:
            met = Met()

            def watched(self: Any, number: int, batch: Any, met: Met = met) -> Any:
                met.clips.append(batch.clip.tolist())
                met.audio.append(batch.audio.numpy().tobytes())
                return step(self, number, batch)

            def noted(*arguments: Any, met: Met = met) -> torch.Tensor:
                met.kept.append(draw(*arguments))
                return met.kept[-1]

            patch.setattr(trainer.Trainer, "step", watched)
            with patch.context() as only_while_training:
                only_while_training.setattr(masks, "batch_masks", noted)
                one, out = setup(variant.name), folder / variant.name
                done = TRAINING.train(one, 0, out, "cpu", Silent())
            found[variant.name] = (Run(variant, 0, one, out, done), met)
    return found


class Interrupting(Silent):
    """Raises a signal after a step, as a person at the keyboard might."""

    def __init__(self, step: int, number: signal.Signals) -> None:
        self.step, self.number = step, number

    @contextmanager
    def stage(self, title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:  # noqa: ARG002
        done = 0

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            if steps and done == self.step:
                signal.raise_signal(self.number)

        yield advance


def test_the_plugin_offers_it() -> None:
    offered = registry.model("aape").training
    assert offered is not None
    training: Training = offered()
    assert isinstance(training, AapeTraining)
    assert registry.model("vit").training is None


def test_questions_and_defaults_name_variants_that_there_are() -> None:
    assert len(set(NAMES)) == len(NAMES)
    defaults = TRAINING.default_variants
    assert defaults == ("full", "gaussian", "no_contrastive", "no_sblu", "lambda_only", "patch_mlp")
    for question in TRAINING.questions():
        assert {question.ahead, *question.of} <= set(defaults)
        assert {name for pair in question.same_as for name in pair} <= set(NAMES)
    assert {TRAINING.reference, TRAINING.tuned_on} <= set(defaults)
    assert TRAINING.default_preset in TRAINING.presets
    assert {TRAINING.stability_task, *TRAINING.controls} <= set(registry.task_names())
    assert [TRAINING.preset_steps(preset) for preset in TRAINING.presets] == [20, 1000, 50000, 400000]


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_differs_in_what_it_says_and_nothing_else(name: str) -> None:
    for mine, reference in zip(configs(name), configs("full"), strict=True):
        differ = {f.name for f in dataclasses.fields(mine) if getattr(mine, f.name) != getattr(reference, f.name)}
        prefix = "model." if isinstance(mine, AapeConfig) else ""
        said = {key.removeprefix("model.") for key in setup(name).settings if key.startswith("model.") == bool(prefix)}
        decoder = {"predictor_depth", "predictor_width"} if name == "conv_decoder" else set()
        assert differ == said - {"batch"} | (decoder & differ)


def test_variants_are_what_they_are_called() -> None:
    stems = {name: configs(name)[0].stem for name in NAMES}
    own = {"no_sblu": "plain", **{name: name for name in ("lambda_only", "patch_mlp", "static", "lowpass")}}
    assert stems == {name: own.get(name, "sblu") for name in NAMES}
    windows = {name: configs(name)[0].window for name in NAMES if stems[name] == "sblu"}
    own = {"gaussian": "gaussian", "gaussian_kernel33": "gaussian", "one_sided": "one_sided"}
    assert windows == {name: own.get(name, "bilateral") for name in windows}
    assert {name for name in NAMES if configs(name)[0].kernel_frames == 33} == {"kernel33", "gaussian_kernel33"}
    assert {name for name in NAMES if configs(name)[0].phase == "even"} == {"even_phase"}
    assert {name for name in NAMES if configs(name)[1].predictor == "conv"} == {"conv_decoder"}
    assert {name for name in NAMES if configs(name)[1].masks == 1} == {"single_mask"}


@pytest.mark.parametrize("name", NAMES)
def test_variants_share_every_initial_weight_that_they_have_in_common(name: str) -> None:
    mine, reference = (Pretrainer(*configs(variant), seed=3).state_dict() for variant in (name, "full"))
    common = {key for key in mine if key in reference and mine[key].shape == reference[key].shape}
    assert {key for key in common if key.startswith("student.backbone")} == {
        key for key in reference if key.startswith("student.backbone")
    }
    assert "student.stem.conv_token.weight" in common
    for key in sorted(common):
        if name == "patch_mlp" and key.endswith("fusion.weight.weight"):  # the same draws, scaled to its own features
            ratio = mine[key] / reference[key]
            torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))
        else:
            assert torch.equal(mine[key], reference[key]), key


@pytest.mark.parametrize("name", ["gaussian", "one_sided", "even_phase", "kernel33", "gaussian_kernel33"])
def test_windows_differ_in_shape_only(name: str) -> None:
    mine, reference = (Pretrainer(*configs(variant), seed=0) for variant in (name, "full"))
    assert mine.state_dict().keys() == reference.state_dict().keys()
    log_mel = torch.linspace(-1, 1, 128 * 128).sin().view(1, 1, 128, 128)
    assert not torch.allclose(mine.student.stem(log_mel), reference.student.stem(log_mel), atol=1e-4)
    plain = [model.student.stem.conv_token(log_mel) for model in (mine, reference)]
    assert torch.equal(*plain)


def test_variants_meet_the_same_audio_in_the_same_order_with_the_same_masks(
    trained: dict[str, tuple[Run, Met]],
) -> None:
    _, full = trained["full"]
    assert len(full.clips) == STEPS
    for name, (_, met) in trained.items():
        assert met.clips == full.clips, name
        assert met.audio == full.audio, name
        # after the steps' come those of counting FLOPs
        for mine, reference in zip(met.kept[:STEPS], full.kept[:STEPS], strict=True):
            views = 1 if name == "single_mask" else reference.shape[1]
            assert torch.equal(mine, reference[:, :views]), name


@pytest.mark.parametrize("name", NAMES)
def test_a_trained_variant_can_be_evaluated(name: str, trained: dict[str, tuple[Run, Met]]) -> None:
    run, _ = trained[name]
    assert sorted(path.name for path in run.out.iterdir()) == [
        *("config.json", "log.csv", "modes.csv", f"teacher-{STEPS}.safetensors")
    ]
    encoder = select_model("aape", {}, str(run.trained.checkpoint), 0).build()
    embeddings = encoder.scene_embeddings(torch.zeros(1, 16000), None)
    assert bool(torch.isfinite(embeddings).all())
    assert encoder.parameter_count == run.trained.parameters
    assert (run.trained.steps, run.trained.seconds > 0) == (STEPS, True)
    card = read_header(run.trained.checkpoint).card
    assert "aape_bench.tasks.modulation.generated" in card[FIELD]["generators"]


@pytest.mark.parametrize("name", ["no_contrastive", "single_mask"])
def test_without_the_contrastive_loss_there_is_none_of_it(name: str, trained: dict[str, tuple[Run, Met]]) -> None:
    model = Pretrainer(*configs(name), seed=0)
    assert model.projection is None
    assert not [key for key in model.state_dict() if key.startswith("projection")]
    (losses,) = [c for c in TRAINING.curves([trained[name][0]]) if c.name == "training"]
    assert set(losses.table["panel"]) == {"masked-token loss", "utterance loss"}
    (title,) = [variant.title for variant in VARIANTS if variant.name == name]
    assert "without the" in title
    assert "contrastive loss" in title


def test_stopped_and_called_again_it_ends_in_the_same_bytes(
    trained: dict[str, tuple[Run, Met]], tmp_path: Path
) -> None:
    one, out = setup(), tmp_path / "full"
    with pytest.raises(Interrupted) as interrupted:
        TRAINING.train(one, 0, out, "cpu", Interrupting(1, signal.SIGTERM))
    assert interrupted.value.number == signal.SIGTERM
    assert (out / "state-1.pt").is_file()
    done = TRAINING.train(one, 0, out, "cpu", Silent())
    assert done.checkpoint.read_bytes() == trained["full"][0].trained.checkpoint.read_bytes()
    assert not list(out.glob("state-*.pt"))


def test_a_finished_training_is_not_done_again(
    trained: dict[str, tuple[Run, Met]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = trained["full"]
    monkeypatch.setattr(engine, "train", lambda *_: pytest.fail("trained again"))
    assert TRAINING.train(run.setup, 0, run.out, "cpu", Silent()) == run.trained
    with pytest.raises(UsageError, match="another training: seed is 0 there, not 1"):
        TRAINING.train(run.setup, 1, run.out, "cpu", Silent())


def test_whatever_decides_a_checkpoint_decides_its_identity(tmp_path: Path) -> None:
    one = setup()
    others = [setup(name) for name in NAMES if name != "full"]
    others += [setup(steps=3), setup(learning_rate=2e-3), setup(learning_rate=None), setup(preset="laptop")]
    others += [setup(audio=("generated:modulation:13",)), setup(audio=(str(write_audio(tmp_path / "audio")),))]
    every = [TRAINING.identity(one, 0), TRAINING.identity(one, 1), *(TRAINING.identity(other, 0) for other in others)]
    assert len(set(every)) == len(every)
    assert TRAINING.identity(setup({"workers": 2, "log_every": 1}), 0) == every[0]
    assert TRAINING.identity(setup({"model.window": "bilateral"}), 0) == every[0]


def test_no_module_of_pretraining_is_forgotten_in_the_identity() -> None:
    """Those left out decide nothing of the weights: commands, watching, measuring, what an ablation draws."""
    there = {path.stem for folder in pretrain.__path__ for path in Path(folder).glob("*.py")}
    without_effect = {
        *("__init__", "ablation", "ablation_curves", "commands", "diagnostics", "drawings", "flops", "inspect", "log"),
        *("measuring", "profile", "recorder", "state", "warm_start"),
    }
    assert there == {*ablation.PRETRAINING, "modulated", *without_effect}


def test_the_code_that_generates_audio_counts_where_audio_is_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = setup(audio=(str(write_audio(tmp_path / "audio")),))
    before = TRAINING.identity(files, 0), TRAINING.identity(setup(), 0)
    monkeypatch.setattr(ablation, "GENERATING", ())
    assert TRAINING.identity(files, 0) == before[0]
    assert TRAINING.identity(setup(), 0) != before[1]


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys; from aape_bench import registry; from aape_bench.training import Setup; "
        "t = registry.model('aape').training(); s = Setup({}, 'laptop', 10, None, t.default_audio); "
        "t.check(s), t.identity(s, 0), t.questions(), t.development_tasks(), t.preset_steps('laptop'); "
        "assert not {'torch', 'sklearn', 'lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (setup({"steps": 5}), "A variant cannot set steps.*--steps"),
        (setup({"learning_rate": 1e-3}), "A variant cannot set learning_rate.*--learning-rate"),
        (setup({"preset": "paper"}), "A variant cannot set preset"),
        (setup({"windw": "gaussian"}), 'no setting "windw"'),
        (setup({"model.window": "triangle"}), 'model|window cannot be "triangle"'),
        (setup({"masks": 1}), "masks=1 leaves the contrastive loss without a positive"),
        (setup({"model.stem": "plain", "model.window": "gaussian"}), "window=gaussian has no effect"),
        (setup(preset="desktop"), 'cannot be "desktop"'),
        (setup(audio=("generated:speech",)), "no generated audio"),
    ],
)
def test_what_cannot_be_trained_is_refused_early(bad: Setup, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        TRAINING.check(bad)


def test_without_lightning_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "lightning" else find(name, *a))
    with pytest.raises(UsageError, match=r"pip install \"aape-bench\[pretrain\]\""):
        TRAINING.check(setup())


def test_timing_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert 0 < TRAINING.seconds_per_step(setup(), "cpu", Silent()) < 60
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["full", "conv_decoder", "kernel33"])
def test_flops_are_those_of_the_whole_batch(name: str) -> None:
    encoder_config, config = configs(name)
    config = dataclasses.replace(config, batch=6)
    counted = _count(Pretrainer(encoder_config, config, seed=1), 6)
    assert size_of(encoder_config, config).flops_per_step == counted
    parts = size_of(encoder_config, dataclasses.replace(config, accumulate=2)).flops_per_step
    assert 0.99 * counted < parts <= counted  # clips are compared within their part only


def test_the_control_costs_what_the_sblu_costs() -> None:
    size = {name: size_of(*configs(name)) for name in ("full", "patch_mlp", "no_sblu")}
    assert size["patch_mlp"].parameters == pytest.approx(size["full"].parameters, rel=0.01)
    assert size["patch_mlp"].flops_per_step == pytest.approx(size["full"].flops_per_step, rel=0.2)
    assert size["no_sblu"].flops_per_step < size["full"].flops_per_step


def test_development_tasks_are_the_suite_without_its_control() -> None:
    tasks = TRAINING.development_tasks()
    assert [task.name.removesuffix("-development") for task in tasks] == [
        *("tremolo", "alias", "clicks", "vibrato", "chirp")
    ]


def test_a_variant_of_ones_own_is_trained_alike(trained: dict[str, tuple[Run, Met]], tmp_path: Path) -> None:
    own = Variant("mine", {"model.window": "bilateral", "batch": "4"})
    done = TRAINING.train(setup(dict(own.settings)), 0, tmp_path / "mine", "cpu", Silent())
    assert done.checkpoint.read_bytes() == trained["full"][0].trained.checkpoint.read_bytes()


def test_generated_audio_is_said_to_mark_scores(tmp_path: Path) -> None:
    write_audio(tmp_path / "a", 3)
    (tmp_path / "a" / "b.m4a").touch()
    assert "same-generator" in TRAINING.audio_remarks(("generated:modulation:12",))[0]
    remarks = TRAINING.audio_remarks((str(tmp_path / "a"),))
    assert any(".m4a" in remark for remark in remarks)
    assert not any("same-generator" in remark for remark in remarks)
