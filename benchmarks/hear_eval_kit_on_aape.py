"""Run hear-eval-kit 2021.1.3, as it was published, on a HEAR module of ours; then hold this project against it.

    python benchmarks/hear_eval_kit_on_aape.py TASK OUT --kit KIT/bin/python [--path FOLDER ...] [--model aape]

TASK is a folder in HEAR's layout of scenes in classes, KIT an environment of its own with heareval and what it needs;
FOLDERs go onto its PYTHONPATH: of pytorch-lightning 1.6.5, say, or of packages of ours that KIT lacks (safetensors).
This project comes from where this Python finds it, in a plain or strict editable install. Two things are arranged for
the kit at run time: `tf.Module`, which it asks whether our model is one of, and leave to load the checkpoints that it
has written itself, which torch no longer does unasked.

After the kit's own scores each line says in the end "equal" or "DIFFERS":

embeddings  of every clip: the kit's, of our module, against those of `aape-bench run` of the same model
metrics, linear, hear   of the kit's embeddings and predictions, as benchmarks/parity_hear.py
run         `aape-bench run` with protocol linear against the same of the kit's embeddings

Exit status 1 where something differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import parity_hear

import aape_bench

KIT = """
import contextlib, functools, warnings
import torch
from aape_bench.validation.peer import lent_tensorflow
warnings.filterwarnings("ignore")
torch.load = functools.partial(torch.load, weights_only=False)
with lent_tensorflow() if "{stage}" == "embeddings" else contextlib.nullcontext():
    from heareval.{stage}.runner import runner
runner()
"""


def run_kit(arguments: argparse.Namespace, module: str, embeddings: Path) -> None:
    """Both stages of the kit: embeddings of the task, then predictions with its default grid."""
    task = arguments.task.absolute()
    words = {
        "embeddings": [module, "--tasks-dir", task.parent, "--task", task.name, "--embeddings-dir", embeddings],
        "predictions": [embeddings / module / task.name, "--grid", "default", "--grid-points", "8"],
    }
    here = Path(aape_bench.__file__).parents[1]
    path = os.pathsep.join(str(folder) for folder in (*(folder.absolute() for folder in arguments.path), here))
    for stage, more in words.items():
        line = [arguments.kit.absolute(), "-c", KIT.format(stage=stage), *more]
        with (arguments.out / f"{stage}.log").open("w") as log:
            environment = {**os.environ, "PYTHONPATH": path}
            subprocess.run(
                [str(word) for word in line],
                env=environment, cwd=arguments.out, stdout=log, stderr=subprocess.STDOUT, check=True,
            )  # fmt: skip


def run_here(arguments: argparse.Namespace) -> tuple[npt.NDArray[np.float32], float]:
    """Embeddings in clip-table order, and the score of protocol linear, by the command `run`."""
    line = [sys.executable, "-P", "-m", "aape_bench", "run", "--model", arguments.model]
    line += ["--task", f"hear:{arguments.task.absolute()}", "--protocol", "linear"]
    line += ["--cache-dir", str(arguments.out / "cache"), "--results-dir", str(arguments.out / "results")]
    subprocess.run(line, check=True, capture_output=True)
    shards = sorted((arguments.out / "cache").rglob("[0-9]*.npy"))
    (record,) = (arguments.out / "results" / "records").rglob("*.json")
    return np.concatenate([np.load(shard) for shard in shards]), json.loads(record.read_text())["scores"]["score"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path)
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--kit", type=Path, required=True, help="the Python of hear-eval-kit's environment")
    parser.add_argument("--path", type=Path, action="append", default=[])
    parser.add_argument("--model", default="aape")
    arguments = parser.parse_args()
    arguments.out = arguments.out.absolute()
    arguments.out.mkdir(parents=True)

    module = f"aape_bench.models.{arguments.model}"
    run_kit(arguments, module, arguments.out / "embeddings")
    left = arguments.out / "embeddings" / module
    run = parity_hear.read_run(left / arguments.task.name, arguments.task.parent)
    print(f"hear-eval-kit 2021.1.3 ran {module} on {arguments.task.name}")
    for metric in (run.task.metric, *run.task.metrics):
        print(f"  its mean {metric} over {len(run.rotations)} folds: {run.kit_score(metric):.4f}")

    theirs = parity_hear.problem_of_clips(run)
    ours, score = run_here(arguments)
    worst = float(np.abs(ours - theirs.embeddings).max())
    text = f"embeddings of {len(ours)} clips, {ours.shape[1]} values each, up to {np.abs(ours).max():.2f}"
    results = [parity_hear.same(f"{text}: they differ by {worst:.1e} at most", worst < 1e-5)]
    fits = parity_hear.linear.fit(theirs, parity_hear.linear.Settings(), 0, lambda _: None)
    right = [
        np.mean(fit.test[0].argmax(axis=1) == theirs.labels[rotation.test])
        for rotation, fit in zip(run.rotations, fits, strict=True)
    ]
    text = f"run --protocol linear: {score:.6f}, of the kit's embeddings {np.mean(right):.6f}"
    results.append(parity_hear.same(text, abs(score - float(np.mean(right))) < 1e-9))
    return parity_hear.main([str(left), str(arguments.task.parent)]) or int(not all(results))


if __name__ == "__main__":
    sys.exit(main())
