"""Large-kernel attention on a map of visual tokens, as TIN applies it to CLIP (attention: Guo et
al., Visual attention network, 2023). TIN states no kernel sizes; VAN's are the defaults."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.heads.base import HeadContext
from ltcache.heads.scored import CLASSIFIERS, ScoredHead, check_choice, uniform

POOLS = ("mean", "class_token")


class VisualAttentionHead(ScoredHead):
    """tokens * (P * D2 * D1 * tokens), pooled, then a classifier: D1 is a depthwise convolution of
    (2 d - 1)^2, D2 one of ceil(K / d)^2 with dilation d, P pointwise, K the kernel, d the dilation.

    P starts as weight 0 and bias 1: the gate is one everywhere, the head an exact identity. The map
    is square, or ``grid``. A class token comes first and is not gated.

    Args:
        kernel: K. dilation: d. grid: rows and columns of the map; None: a square.
        class_token: whether the first token is one.
        pool: ``mean`` over the map, or the ``class_token`` after ``rest``; without a rest the gate
            could not reach it.
        width: D' of what is pooled, where ``rest`` changes it; None: D.
        classifier: ``cosine`` or ``linear``. scale: of the cosine.

    Attributes:
        rest: what of the encoder follows the map that is gated, tokens (N, T, D) -> tokens or
            vectors (N, D'), set by :meth:`attach`; None: nothing.
    """

    equation = "z = s <pool(A(tokens) tokens), W_c>, A = conv1x1(dwconv_d(dwconv(tokens)))"

    def __init__(
        self,
        context: HeadContext,
        *,
        kernel: int = 21,
        dilation: int = 3,
        grid: tuple[int, int] | None = None,
        class_token: bool = False,
        pool: str = "mean",
        width: int | None = None,
        classifier: str = "cosine",
        scale: float = 25.0,
    ) -> None:
        check_choice("pool", pool, POOLS)
        check_choice("classifier", classifier, CLASSIFIERS)
        near, far = 2 * dilation - 1, math.ceil(kernel / dilation)
        if dilation < 1 or far % 2 == 0:
            raise FitError(f"kernel {kernel} and dilation {dilation} give no odd kernel to centre")
        known = context.tokens
        if known is not None:  # what the cache says goes before what nobody has set
            grid = grid or known.grid
            class_token = class_token or known.class_token
            width = width or known.width
        if pool == "class_token" and not class_token:
            raise FitError("head.pool=class_token needs head.class_token=true")
        super().__init__(context, classifier, scale, width=width)
        self.kernel, self.dilation, self.grid = kernel, dilation, grid
        self.class_token, self.pool = class_token, pool
        dim = context.dim
        self.near = nn.Conv2d(dim, dim, near, padding=near // 2, groups=dim)
        self.far = nn.Conv2d(
            dim, dim, far, padding=far // 2 * dilation, dilation=dilation, groups=dim
        )
        self.pointwise = nn.Conv2d(dim, dim, 1)
        self._rest: tuple[Callable[[Tensor], Tensor], ...] = ()
        self._start(Generator().manual_seed(0))
        if known is not None:
            self.attach(known.rest)

    def attach(self, rest: Callable[[Tensor], Tensor] | None) -> None:
        """Set ``rest``; it is not part of the state, nor trained."""
        self._rest = () if rest is None else (rest,)  # in a tuple, out of reach of nn.Module

    @property
    def rest(self) -> Callable[[Tensor], Tensor] | None:
        """See the class."""
        return self._rest[0] if self._rest else None

    def gated(self, tokens: Tensor) -> Tensor:
        """Return tokens (N, T, D) with the map gated.

        Raises:
            FitError: the tokens are no such map.
        """
        first = int(self.class_token)
        rows, columns = self._grid(tokens, first)
        field = tokens[:, first:].mT.unflatten(2, (rows, columns))  # (N, D, H, W)
        near = convolved_within(self.near, field)
        field = field * self.pointwise(convolved_within(self.far, near))
        return torch.cat([tokens[:, :first], field.flatten(2).mT], dim=1)

    def represent(self, features: Tensor) -> Tensor:
        """Return (1, N, D') for tokens (N, T, D)."""
        tokens = self.gated(features)
        if self.rest is not None:
            tokens = self.rest(tokens)
        elif self.pool == "class_token":
            raise FitError("head.pool=class_token needs the rest of the encoder; see attach")
        if tokens.ndim == 3:
            first = int(self.class_token)
            tokens = tokens[:, 0] if self.pool == "class_token" else tokens[:, first:].mean(dim=1)
        return tokens[None]

    def initialise(
        self,
        how: str,
        features: Tensor,
        labels: Tensor,
        generator: Generator,
        context: HeadContext,
    ) -> None:
        """See :meth:`Head.initialise`; the gate starts at one, its inner kernels are drawn. What
        ``rest`` maps to another width is in the space of the class texts."""
        self._start(generator)
        if self.width != self.dim:
            context = replace(context, dim=self.width, projection=None)
        super().initialise(how, features, labels, generator, context)

    @torch.no_grad()
    def _start(self, generator: Generator) -> None:
        for layer in (self.near, self.far):
            inputs = layer.weight[0].numel()
            layer.weight.copy_(uniform(tuple(layer.weight.shape), inputs, generator))
            layer.bias.copy_(uniform(tuple(layer.bias.shape), inputs, generator))  # type: ignore[union-attr]
        nn.init.zeros_(self.pointwise.weight)
        nn.init.ones_(self.pointwise.bias)  # type: ignore[arg-type]

    def _grid(self, tokens: Tensor, first: int) -> tuple[int, int]:
        if tokens.ndim != 3:
            raise FitError(f"this head needs tokens (N, T, D), not {tuple(tokens.shape)}")
        count = tokens.shape[1] - first
        side = math.isqrt(count)
        rows, columns = self.grid or (side, side)
        if rows * columns != count:
            raise FitError(f"{count} tokens are no map of {rows} x {columns}; set head.grid")
        return rows, columns


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
