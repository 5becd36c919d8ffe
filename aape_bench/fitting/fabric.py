"""Lightning Fabric for a training run: device, processes, precision. (Imports torch and, on use, lightning.)

Processes are started in one of three ways, here for pre-training; `run --protocol finetune` takes the same:

    one process               aape-bench pretrain ...
    several on this machine   aape-bench pretrain ... --devices 4       (on CPUs too, over gloo)
    several machines          torchrun --nnodes 2 --nproc-per-node 8 ... -m aape_bench pretrain ...
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from aape_bench.errors import UsageError

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def require_lightning() -> None:
    """Raise UsageError with the line that installs it where Lightning is missing; nothing is imported."""
    from importlib.util import find_spec

    if find_spec("lightning") is None:
        raise UsageError(
            'Training needs Lightning, which is not installed. Install it with pip install "aape-bench[pretrain]".'
        )


def rank() -> int:
    """This process's number among all, also before Fabric is launched: 0 in the process that launches others."""
    return int(os.environ.get("RANK" if under_torchrun() else "LOCAL_RANK", "0"))


def under_torchrun() -> bool:
    """Whether torchrun started this process, and others."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launch(device: str, devices: int, precision: str, parts: bool = False) -> Fabric:
    """Fabric with its processes running: those of torchrun where it started this one, else `devices` on this machine.

    device: "cpu" or "cuda". precision: "32-true", "bf16-mixed" or "16-mixed". parts: whether some parameters may get no
    gradient, which DDP otherwise takes for a mistake. Raises UsageError.
    """
    require_lightning()
    import torch
    from lightning.fabric import Fabric
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning.fabric.strategies.ddp import DDPStrategy

    nodes = 1
    if under_torchrun():
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    elif device == "cuda" and devices > torch.cuda.device_count():
        raise UsageError(
            f"There are {torch.cuda.device_count()} GPUs, not {devices}. Lower --devices, or use --device cpu."
        )
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    # but not this one, which says why it ends all processes
    logging.getLogger("lightning.fabric.strategies.launchers.subprocess_script").setLevel(logging.INFO)
    fabric = Fabric(
        accelerator=device,
        devices=devices,
        num_nodes=nodes,
        strategy=DDPStrategy(find_unused_parameters=parts) if devices * nodes > 1 else "auto",
        # said, not guessed: inside a batch job Lightning would expect that job's system to start the processes
        plugins=[
            _precision(precision, device),
            TorchElasticEnvironment() if under_torchrun() else LightningEnvironment(),
        ],
    )
    fabric.launch()
    return fabric


def agree(fabric: Fabric, wish: int) -> int:
    """The largest of what the processes wish."""
    import torch

    if fabric.world_size == 1:
        return wish
    wishes = torch.tensor([wish], device=fabric.device)
    torch.distributed.all_reduce(wishes, torch.distributed.ReduceOp.MAX)
    return int(wishes.item())


def leave() -> None:
    """End this process's part in the group, if there is one: one that exits without may keep the others waiting."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _precision(name: str, device: str) -> Any:
    from lightning.fabric.plugins import MixedPrecision, Precision

    if name == "32-true":
        return Precision()

    class Mixed(MixedPrecision):
        """Autocast that leaves the inputs as they are: the stem measures in float32, so its log-mel must be."""

        def convert_input(self, data: Any) -> Any:
            return data

    return Mixed(name, device)  # type: ignore[arg-type]
