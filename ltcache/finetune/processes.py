"""One process or several that train together, as torchrun and accelerate start them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ltcache.encoder import choose_device, own_device
from ltcache.errors import UsageError
from ltcache.process import TORCHRUN, LaunchedProcess, launched_process


@dataclass(frozen=True)
class ProcessRanks:
    """This process among those that train together.

    Attributes:
        device: of this process. rank: its number, from 0. ranks: how many there are.
    """

    device: torch.device
    rank: int = 0
    ranks: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    @property
    def on_gpu(self) -> bool:
        """Whether this process computes on a GPU."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.ranks > 1:
            nccl = self.on_gpu and dist.get_backend() == "nccl"  # which else guesses a GPU
            dist.barrier(device_ids=[self.device.index] if nccl else None)

    def wrapped(self, step: nn.Module) -> nn.Module:
        """Return a step whose gradients are the mean over all processes."""
        if self.ranks == 1:
            return step
        parallel: Any = nn.parallel.DistributedDataParallel
        known = inspect.signature(parallel).parameters  # torch 2.15 has given it another name
        still = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        # no device_ids: labels would be moved to the GPU, and fetched again after a wait for it
        wrapped: nn.Module = parallel(step, **{still: False})
        return wrapped


@contextmanager
def processes(device: str) -> Iterator[ProcessRanks]:
    """Join the processes that torchrun has started (RANK and WORLD_SIZE are set), if it has.

    A process group that is there is used; one that is made here ends here. GPUs talk through NCCL,
    each rank with its own, and CPUs through Gloo.

    Args:
        device: see :func:`ltcache.encoder.load_encoder`.

    Raises:
        UsageError: srun or mpirun has started this command several times.
    """
    there = dist.is_available() and dist.is_initialized()
    launched = launched_process()
    if not there:
        _require_torchrun(launched)
    if not there and launched.size == 1:
        yield ProcessRanks(choose_device(device))
        return
    place = choose_device(own_device(device, launched.local_rank))
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if not there:
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield ProcessRanks(place, dist.get_rank(), dist.get_world_size())
    finally:
        if not there:
            dist.destroy_process_group()


def _require_torchrun(launched: LaunchedProcess) -> None:
    """Refuse several processes that cannot meet: each would tune alone, into the same folder."""
    if launched.size == 1 or launched.launcher == TORCHRUN:
        return
    once = {"srun": "srun --ntasks-per-node 1", "mpirun": "mpirun --map-by ppr:1:node"}
    raise UsageError(
        f"{launched.launcher} has started this command {launched.size} times, and each would tune "
        f"an encoder of its own into the same folder. Let torchrun start the processes: "
        f"{once[launched.launcher]} torchrun --nnodes NODES --nproc-per-node GPUS --rdzv-backend "
        "c10d --rdzv-endpoint FIRST_NODE:29500 -m ltcache finetune ..., or on one machine torchrun "
        "--nproc-per-node GPUS -m ltcache finetune ..."
    )
