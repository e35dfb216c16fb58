"""The large-kernel attention of Guo et al. (Visual attention network, 2023) as three convolutions:
a gate that the attention head and the adapter of an image tower share."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.heads.scored import uniform


class LargeKernel(NamedTuple):
    """near: depthwise (2 d - 1)^2. far: depthwise ceil(K / d)^2 with dilation d. pointwise: 1x1."""

    near: nn.Conv2d
    far: nn.Conv2d
    pointwise: nn.Conv2d


def large_kernel(dim: int, kernel: int, dilation: int) -> LargeKernel:
    """Return the layers that stand for one K x K kernel over maps of D channels.

    Args:
        dim: D. kernel: K. dilation: d.

    Raises:
        FitError: the kernels would have no centre.
    """
    if dilation < 1 or math.ceil(kernel / dilation) % 2 == 0:
        raise FitError(f"kernel {kernel} and dilation {dilation} give no odd kernel to centre")
    near, far = 2 * dilation - 1, math.ceil(kernel / dilation)
    return LargeKernel(
        nn.Conv2d(dim, dim, near, padding=near // 2, groups=dim),
        nn.Conv2d(dim, dim, far, padding=far // 2 * dilation, dilation=dilation, groups=dim),
        nn.Conv2d(dim, dim, 1),
    )


def gated(field: Tensor, layers: LargeKernel) -> Tensor:
    """Return field * (P * D2 * D1 * field) for maps (N, D, H, W)."""
    near = convolved_within(layers.near, field)
    gate: Tensor = layers.pointwise(convolved_within(layers.far, near))
    return field * gate


def gated_tokens(tokens: Tensor, layers: LargeKernel, grid: tuple[int, int], first: int) -> Tensor:
    """Return tokens (N, T, D) with their map gated; the ``first`` tokens stand beside it."""
    field = tokens[:, first:].mT.unflatten(2, grid)  # (N, D, H, W)
    return torch.cat([tokens[:, :first], gated(field, layers).flatten(2).mT], dim=1)


@torch.no_grad()
def start_at_one(layers: LargeKernel, generator: Generator) -> None:
    """Draw the depthwise kernels; the pointwise weight 0 and bias 1 make the gate exactly one."""
    for layer in layers[:2]:
        inputs = layer.weight[0].numel()
        layer.weight.copy_(uniform(tuple(layer.weight.shape), inputs, generator))
        layer.bias.copy_(uniform(tuple(layer.bias.shape), inputs, generator))  # type: ignore[union-attr]
    nn.init.zeros_(layers.pointwise.weight)
    nn.init.ones_(layers.pointwise.bias)  # type: ignore[arg-type]


def convolved_within(layer: nn.Conv2d, field: Tensor) -> Tensor:
    """Return ``layer(field)`` for a depthwise layer that keeps the size of field (N, D, H, W).

    Taps that no position of the map brings onto the map meet padding alone and are left out: on
    3 x 3, 48 of the 49 taps of VAN's dilated kernel.
    """
    weight, padding = layer.weight, []
    for axis, size in ((2, field.shape[2]), (3, field.shape[3])):
        step, centre = layer.dilation[axis - 2], weight.shape[axis] // 2
        reach = min(centre, (size - 1) // step)
        weight = weight.narrow(axis, centre - reach, 2 * reach + 1)
        padding.append(reach * step)
    return F.conv2d(field, weight, layer.bias, 1, padding, layer.dilation, layer.groups)
