"""What pre-training reaches on one GPU: clips per second, peak memory, share of the peak; and a `node` run in pieces.

    python benchmarks/pretrain_gpu.py AUDIO OUT [--peak-tflops 989] [--minutes 20] [--pieces 3]

First a step of the preset `paper` (base, 48 clips x 16 masks, bf16), eager and with torch.compile, with the plain stem
and the SBLU, recomputed in backward or not; then `node` on AUDIO, in PIECES that go on from one another, and its
pictures. 989 TFLOP/s is the dense bf16 peak of an H100 SXM (NVIDIA's data sheet). Writes into OUT:

    step-eager.csv, step-compiled.csv    time and memory of a step; the notes have clips/s, TFLOP/s, share of the peak
    node/                                the training; log.csv has the share of time that it waited for audio
    inspect/                             its pictures
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio")
    parser.add_argument("out", type=Path)
    parser.add_argument("--peak-tflops", type=float, default=989.0)
    parser.add_argument("--minutes", type=float, default=20.0, help="of the node run, all pieces together")
    parser.add_argument("--pieces", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--profiled", default="paper", help="the preset whose step is measured")
    parser.add_argument("--trained", default="node", help="the preset that is trained")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, compiled in (("eager", "false"), ("compiled", "true")):
        command(
            *("profile", "--part", "step", "--preset", options.profiled, "--set", f"compile={compiled}"),
            *("--device", options.device, "--peak-tflops", str(options.peak_tflops)),
            *("--out", str(options.out / f"step-{name}.csv")),
        )
    for _ in range(options.pieces):
        command(
            *("pretrain", "--audio", options.audio, "--preset", options.trained, "--out", str(options.out / "node")),
            *("--minutes", str(options.minutes / options.pieces), "--resume", "--device", options.device),
        )
    checkpoints = (options.out / "node").glob("teacher-*.safetensors")
    newest = max(checkpoints, key=lambda path: int(path.stem.rpartition("-")[2]))
    command("inspect", str(newest), "--audio", options.audio, "--out", str(options.out / "inspect"))
    with (options.out / "node" / "log.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    shown = ("step", "loss", "target_token_variance", "clips_per_second", "waiting", "memory_mb", "seconds")
    for row in rows[:: max(1, len(rows) // 20)]:
        print({name: row[name] for name in shown})


def command(*arguments: str) -> None:
    """Run aape-bench."""
    print("aape-bench", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "aape_bench", *arguments], check=True)


if __name__ == "__main__":
    main()
