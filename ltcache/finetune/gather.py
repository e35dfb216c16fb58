"""One batch out of the shares of all ranks, so that each computes the loss of the joined batch.

Gradients flow back to the rank a row came from. Each rank's loss is the whole one, so a row gets
its gradient R times over, and the mean that DistributedDataParallel takes over R ranks makes it
right; what all ranks compute alike (class texts, scale, head) has the same gradient in all of them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def ranks() -> int:
    """Return the number of processes that train together, 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gathered_rows(*tensors: Tensor) -> list[Tensor]:
    """Return tensors with the rows of all ranks, in order of rank, differentiable.

    Shares may differ in length (the last batch, an image that could not be read). On one process
    the tensors come back as they are. A collective call: every rank has to make it.

    Args:
        tensors: (n, ...) each, n the rows of this rank's share, on any device.
    """
    if ranks() == 1:
        return list(tensors)
    place = _place()
    sizes = _sizes(len(tensors[0]), place)
    return [_joined(tensor.to(place), sizes).to(tensor.device) for tensor in tensors]


def gathered_failures(failures: dict[str, str]) -> dict[str, str]:
    """Return what failed on any rank, uri -> reason. A collective call, as above."""
    if ranks() == 1:
        return failures
    parts: list[dict[str, str]] = [{} for _ in range(ranks())]
    dist.all_gather_object(parts, failures)
    return {uri: reason for part in parts for uri, reason in part.items()}


def _place() -> torch.device:
    """Return where the processes exchange tensors."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def _sizes(own: int, device: torch.device) -> list[int]:
    """Return how many rows each rank has."""
    mine = torch.tensor([own], device=device)
    found = [torch.empty_like(mine) for _ in range(ranks())]
    dist.all_gather(found, mine)
    return [int(size) for size in torch.cat(found).tolist()]


def _joined(tensor: Tensor, sizes: list[int]) -> Tensor:
    missing = max(sizes) - len(tensor)
    if missing:
        tensor = torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])])
    parts = _AllGather.apply(tensor.contiguous())
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


class _AllGather(torch.autograd.Function):
    """(n, ...) of each rank -> (R, n, ...); a gradient is the sum of those of all ranks.

    torch.distributed.nn has one, which later versions of torch deprecate.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(ranks())]
        dist.all_gather(parts, tensor)
        return torch.stack(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient[dist.get_rank()]
