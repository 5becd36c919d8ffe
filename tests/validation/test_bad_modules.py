"""`aape-bench validate` on HEAR modules that are bad in one way each: the check that is meant finds it, no other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from good_hear import GOOD

from aape_bench.validation import Report, open_subject, validate

SCENES = "    return scenes\n"
TIMES = "    return embeddings, times"

#: Name -> what is replaced in GOOD by what, the checks that fail and those that warn.
BAD = {
    # the six of the issue
    "nan": (SCENES, "    return scenes.where(scenes != scenes[0, 0], float('nan'))\n",
            ["finite", "silence", "full scale", "25 ms", "60 s"], []),
    "wrong_size": (SCENES, "    return scenes[:, :60]\n", ["shapes"], []),
    "seconds": (TIMES, "    times = times / 1000" + "\n" + TIMES, ["milliseconds"], []),
    "batch_dependent": (SCENES, "    return scenes / frames.amax()\n",
                        ["batch"], []),
    "random_answers": (SCENES, "    return scenes + 0.01 * torch.rand(64)\n",
                       ["two calls equal"], ["global generators"]),
    "slow_leak": (SCENES, "    kept.append(frames)\n" + SCENES, ["memory"], []),
    # and others
    "small_leak": (SCENES, "    kept.append(bytes(200 + len(kept) % 2))\n" + SCENES, [], ["memory"]),
    # fresh pages: what malloc gives may have been the process's already
    "native_leak": (SCENES, "    kept.append(mmap.mmap(-1, 1 << 20))\n    kept[-1].write(bytes(1 << 20))\n" + SCENES,
                    ["memory"], []),
    "graph_leak": (SCENES, "    with torch.inference_mode(False), torch.enable_grad():\n"
                   "        kept.append(model(audio.clone()).sum())\n" + SCENES, ["memory"], []),
    "no_function": ("def get_scene_embeddings", "def get_scene_embedding", ["functions"], []),
    "no_size": ("timestamp_embedding_size = 16000, 64, 64", "_ = 16000, 64, 64", ["attributes"], []),
    "size_of_text": ("16000, 64, 64", "16000, '64', 64", ["attributes"], []),
    "odd_rate": ("16000, 64, 64", "24000, 64, 64", [], ["attributes"]),
    "no_module": ("return model\n", "sizes = dict.fromkeys(['scene_embedding_size', 'timestamp_embedding_size'], 64)\n"
                  "    return type('Mine', (), {'sample_rate': 16000, **sizes})()\n", ["attributes"], []),
    "one_answer": (TIMES, "    return embeddings  #", ["shapes"], []),
    "times_of_one": ("times.expand(len(audio), -1)", "times", ["shapes"], []),
    "double": (SCENES, "    return scenes.double()\n", ["dtype"], []),
    "arrays": (SCENES, "    return scenes.detach().numpy()\n", ["dtype"], ["gradient"]),
    "another_each_time": ("    model = Model().eval()", "    torch.seed()\n    model = Model().eval()",
                          ["loaded twice"], []),
    "nan_later": (SCENES, "    model.calls = getattr(model, 'calls', 0) + 1\n"
                  "    return scenes * (float('nan') if model.calls == 2 else 1)\n", ["two calls equal"], []),
    "nan_alone": (SCENES, "    return scenes - 0 * scenes.std(0)\n", ["batch", "25 ms", "60 s"], []),
    "order_dependent": (SCENES, "    return scenes + 0.01 * torch.arange(len(scenes))[:, None]\n",
                        ["batch", "order"], []),
    "silence": ("padded[:, None]", "(padded / padded.std(1, keepdim=True))[:, None]",
                ["silence"], []),
    "full_scale": (SCENES, "    return scenes + torch.exp(audio.amax(1) * 99)[:, None] * 0\n", ["full scale"], []),
    "short": (SCENES, "    return scenes + 0 * audio[:, 1000:1001]\n", ["25 ms"], []),
    "long": (SCENES, "    assert audio.shape[1] < 500000\n" + SCENES, ["60 s"], []),
    "backwards": (TIMES, "    times = times.flip(0)\n" + TIMES, ["increasing"], []),
    "irregular": (TIMES, "    times = times + 3 * (torch.arange(len(times)) % 2)\n" + TIMES, ["regular"], []),
    "outside": (TIMES, "    times = times + 20\n" + TIMES, ["inside the clip"], []),
    "half": (TIMES, "    times = times / 2\n" + TIMES, [], ["inside the clip"]),
    "slow_moments": (TIMES, "    embeddings, times = embeddings[:, ::3], times[::3]\n" + TIMES, [], ["regular"]),
    "in_place": (SCENES, "    audio -= audio.mean(1, keepdim=True)\n" + SCENES, ["input unchanged"], []),
    "training": ("Model().eval()", "Model()", ["two calls equal", "evaluation mode"], ["global generators"]),
    "training_in_name": ("Model().eval()", "Model()\n    model.dropout.p = 0.0", [], ["evaluation mode"]),
    "global_draw": (SCENES, "    random.random()\n" + SCENES, [], ["global generators"]),
    "no_grad": ("def get_scene_embeddings", "@torch.no_grad()\ndef get_scene_embeddings", [], ["gradient"]),
    "infinite_gradient": (SCENES, "    return scenes + 0 * (frames - frames).pow(2).sum(1).sqrt()\n", ["gradient"], []),
    "raises": (SCENES, "    raise SystemExit('no weights')\n", ["shapes"], []),
    "does_not_load": ("    model = Model().eval()", "    raise OSError('no such file')", ["loading"], []),
}  # fmt: skip


def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> Report:
    """What is said of a HEAR module of that text."""
    (tmp_path / f"hear_{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, f"hear_{name}", raising=False)
    return validate(open_subject(f"hear:hear_{name}", {}, "default", 0, "cpu"), peer=False)


def test_a_good_module_has_no_complaint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = report(tmp_path, monkeypatch, "good", GOOD)
    assert {row.check: row.reason for row in found.rows if row.verdict not in ("pass", "skip")} == {}
    assert [row.check for row in found.rows if row.verdict == "skip"] == ["padding"]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_module_is_caught_by_the_right_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    old, new, fails, warns = BAD[name]
    assert GOOD.count(old) == 1
    found = report(tmp_path, monkeypatch, name, GOOD.replace(old, new))
    reasons = {row.check: row.reason for row in found.rows if row.verdict in ("fail", "warn")}
    assert [row.check for row in found.rows if row.verdict == "fail"] == fails, reasons
    assert [row.check for row in found.rows if row.verdict == "warn"] == warns, reasons
    assert found.failed == bool(fails)
