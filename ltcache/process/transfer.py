"""Tensors on their way to a device, for which the host must not wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, without a wait for what a GPU has still to do.

    From memory that is not pinned a GPU copies only once everything before is done, and meanwhile
    the host cannot tell it what comes next.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
    return pinned.to(device, non_blocking=True)
