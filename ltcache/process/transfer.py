"""Tensors on their way to a device, for which the host must not wait."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

log = logging.getLogger(__name__)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, without a wait for what a GPU has still to do.

    From memory that is not pinned a GPU copies only once everything before is done, and meanwhile
    the host cannot tell it what comes next.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
    return pinned.to(device, non_blocking=True)


@contextmanager
def pinned_memory(memory: np.ndarray, device: torch.device) -> Iterator[None]:
    """Let a GPU copy straight from memory that is there already; elsewhere nothing is done.

    Where CUDA refuses, it is said, and what is copied goes through pinned memory of torch.

    Args:
        memory: contiguous; what the GPU was told to copy from it must be done at the end.
    """
    if device.type != "cuda":
        yield
        return
    import torch

    runtime, place = torch.cuda.cudart(), memory.ctypes.data
    with torch.cuda.device(device):  # else the first GPU would hold a context, too
        status = int(runtime.cudaHostRegister(place, memory.nbytes, 0))
        if status:
            _forget_error(device)
    if status:
        log.warning("CUDA does not pin %d MB (error %d)", memory.nbytes >> 20, status)
        yield
        return
    try:
        yield
    finally:
        torch.cuda.current_stream(device).synchronize()
        runtime.cudaHostUnregister(place)


def _forget_error(device: torch.device) -> None:
    """Let a kernel meet the error that CUDA keeps of a call, or a later one is blamed for it."""
    import torch

    with suppress(RuntimeError):
        torch.ones(1, device=device).add_(1)
