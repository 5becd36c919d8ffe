"""`aape-bench validate`: every form of a model, exit status, and hearvalidator beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from good_hear import GOOD
from small_models import small, usable
from toys import Cli, Moments

from aape_bench import registry
from aape_bench.validation import Report, open_subject, validate
from aape_bench.validation.peer import hearvalidator_verdicts
from aape_bench.validation.subject import Subject

needs_peer = pytest.mark.skipif(
    find_spec("hearvalidator") is None, reason="hearvalidator is not installed (the Makefile's environment has it)"
)


def table(out: str) -> dict[str, str]:
    """Check -> verdict, as printed."""
    lines = [line for line in out.splitlines() if line.split() and not line.startswith("check ")]
    found = {}
    for line in lines:
        check, _, rest = line.partition("  ")
        if rest.split()[:1] and rest.split()[0] in ("pass", "warn", "fail", "skip"):
            found[check] = rest.split()[0]
    return found


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for modules, on the import path."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    return tmp_path


@pytest.mark.parametrize("name", registry.model_names())
def test_every_encoder_is_valid(name: str) -> None:
    report = validate(open_subject(name, *small(usable(name)), 0, "cpu"), peer=False)
    assert {row.check: row.reason for row in report.rows if row.verdict == "fail"} == {}
    (memory,) = (row for row in report.rows if row.check == "memory")
    assert (memory.verdict, memory.reason) == ("pass", "calls keep nothing")


@needs_peer
def test_hearvalidator_takes_every_built_in_encoder_as_a_hear_module() -> None:
    subjects = []
    for name in registry.model_names():
        plugin = registry.model(name)
        if plugin.published is not None:  # its HEAR module asks for a file: the small, random one stands for it
            subjects.append(Subject(name, *small(plugin), 0, "cpu", name))
        elif plugin.code[0].startswith("aape_bench.") and (plugin.package is None or plugin.package.usable):
            module = f"hear:{plugin.build.__module__}"
            subjects.append(Subject(module, {}, "default", 0, "cpu", module))
    modules = {subject.label.rpartition(".")[2] for subject in subjects}
    assert {"aape", "vit", "logmel", "patch_conv", "patch_mean"} <= modules
    found = dict(zip((subject.label for subject in subjects), hearvalidator_verdicts(subjects), strict=True))
    assert {name: one.reason for name, one in found.items() if one.verdict not in ("pass", "warn")} == {}
    assert all(one.reason.startswith("2021.0.6: ") for one in found.values())


@needs_peer
def test_hearvalidator_s_verdict_stands_in_the_table(cli: Cli, modules: Path) -> None:
    """Of the modules that it finds bad, and of those that only we do."""
    (modules / "hear_fine.py").write_text(GOOD)
    (modules / "hear_rate.py").write_text(GOOD.replace("16000, 64, 64", "12000, 64, 64"))
    (modules / "hear_all_nan.py").write_text(GOOD.replace("return scenes", "return scenes * float('nan')"))
    (modules / "mine.py").write_text(GOOD.replace("load_model", "make").replace("times.exp", "(times / 1000 - 1).exp"))
    names = ["hear:hear_fine", "hear:hear_rate", "hear:hear_all_nan", f"{modules / 'mine.py'}:make"]
    subjects = [open_subject(name, {}, "default", 0, "cpu") for name in names]
    fine, rate, nan, mine = hearvalidator_verdicts(subjects)
    assert (fine.verdict, fine.reason) == ("pass", "2021.0.6: no complaint")
    assert (rate.verdict, rate.reason[:36]) == ("fail", "2021.0.6: Input sample rate of 12000")
    assert nan.verdict == "pass"
    assert mine.verdict == "warn", mine.reason
    assert "You won't have embeddings for events at the end" in mine.reason
    status, out, err = cli("validate", "--model", "hear:hear_fine")
    assert (status, table(out)["hearvalidator"]) == (0, "pass"), out + err


def test_hearvalidator_is_asked_without_tensorflow_and_leaves_none_behind() -> None:
    if find_spec("hearvalidator") is None or find_spec("tensorflow") is not None:
        pytest.skip("needs hearvalidator, and no TensorFlow")
    code = (
        "import sys, json\nfrom aape_bench.validation.peer import import_hearvalidator\n"
        "found = import_hearvalidator()\nprint(json.dumps([found.ValidateModel.__name__, 'tensorflow' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["ValidateModel", False]


def test_without_hearvalidator_a_row_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aape_bench.validation.peer.find_spec", lambda _: None)
    report = validate(open_subject("logmel", {"n_mels": "8"}, "default", 0, "cpu"))
    row = report.rows[-1]
    assert (row.check, row.verdict) == ("hearvalidator", "skip")
    assert "pip install --no-deps --ignore-requires-python hearvalidator==2021.0.6" in row.reason


def test_exit_status_is_1_for_a_finding_and_2_for_bad_input(
    cli: Cli, modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aape_bench.validation.peer.find_spec", lambda _: None)
    (modules / "mine.py").write_text(GOOD)
    (modules / "hear_double.py").write_text(GOOD.replace("return scenes", "return scenes.double()"))
    (modules / "hear_broken.py").write_text("1 / 0")
    monkeypatch.chdir(modules)
    status, out, err = cli("validate", "--model", "mine.py:load_model,logmel", "--set", "n_mels=8")
    assert (status, out) == (2, "")  # a file has no settings
    status, out, err = cli("validate", "--model", "mine.py:load_model,logmel{n_mels=8}")
    assert status == 0, out + err
    assert out.count("hearvalidator") == 4  # two rows, with the command that installs it
    assert "mine.py:load_model: 24 pass, 2 skip" in out
    assert "logmel[n_mels=8]: 24 pass, 2 skip" in out
    status, out, _ = cli("validate", "--model", "hear:hear_double,logmel{n_mels=8}")
    assert status == 1
    assert table(out)["dtype"] == "pass"  # logmel's, which came last: one bad model does not end it
    assert "scene embeddings are torch.float64, not torch.float32" in out
    status, out, _ = cli("validate", "--model", "hear:hear_broken")
    assert (status, table(out)) == (1, {"loading": "fail"})
    assert "ZeroDivisionError" in out
    for bad in ("hear:no_such_module", "logmul", "mine.py:nothing", "absent.py:make", "aape{weights=gone.safetensors}"):
        status, out, err = cli("validate", "--model", bad)
        assert (status, out) == (2, ""), bad
        assert "aape-bench: " in err


class Padded(Moments):
    """Takes lengths, and gives a moment every 25 ms."""

    def timestamp_embeddings(
        self, audio: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        frames = audio.unfold(1, 400, 400)
        times = (12.5 + 25 * torch.arange(frames.shape[1])).expand(len(audio), -1)
        if lengths is not None:
            times = times.masked_fill(times > lengths[:, None] / 16, torch.nan)
        return torch.stack([frames.mean(2), frames.std(2), frames.amax(2)], dim=2), times


class Unmasked(Padded):
    def timestamp_embeddings(
        self,
        audio: torch.Tensor,
        lengths: torch.Tensor | None = None,  # noqa: ARG002
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return super().timestamp_embeddings(audio)


class Deaf(Padded):
    def scene_embeddings(self, audio: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:  # noqa: ARG002
        return super().scene_embeddings(audio)


class Smeared(Padded):
    """Its moments hear the padding."""

    def timestamp_embeddings(
        self, audio: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        moments, times = super().timestamp_embeddings(audio, lengths)
        return moments + audio.mean(dim=1)[:, None, None], times


class Timeless(Padded):
    """Padded clips lose all their moments."""

    def timestamp_embeddings(
        self, audio: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        moments, times = super().timestamp_embeddings(audio, lengths)
        return moments, times.masked_fill(times.isnan().any(dim=1, keepdim=True), torch.nan)


@pytest.mark.parametrize(
    ("kind", "verdict", "reason"),
    [
        (Timeless, "fail", "a clip of 500 ms has 20 moments alone and 0 when padded"),
        (Smeared, "fail", "padded beside a longer one differ by"),
        (Padded, "pass", "differ by"),
        (Unmasked, "fail", "moments past a clip's end have times"),
        (Deaf, "fail", "padded beside a longer one differ by"),
    ],
)
def test_an_encoder_that_takes_lengths_must_heed_them(kind: type[Moments], verdict: str, reason: str) -> None:
    report: Report = validate(
        Subject("toy", {}, "default", 0, "cpu", "toy", model=kind().eval(), load=lambda: kind().eval()), peer=False
    )
    (row,) = (row for row in report.rows if row.check == "padding")
    assert row.verdict == verdict
    assert reason in row.reason


def test_the_help_does_not_import_torch() -> None:
    code = "import sys\nsys.argv = ['aape-bench', 'validate', '--help']\nfrom aape_bench.cli import main\n" + (
        "try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Exit status 1 where a check fails" in " ".join(done.stdout.replace("│", " ").split())
