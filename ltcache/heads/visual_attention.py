"""Large-kernel attention on a map of visual tokens, as TIN applies it to CLIP (attention: Guo et
al., Visual attention network, 2023). TIN states no kernel sizes; VAN's are the defaults."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from torch import Generator, Tensor

from ltcache.errors import FitError
from ltcache.heads.base import HeadContext
from ltcache.heads.large_kernel import LargeKernel, gated_tokens, large_kernel, start_at_one
from ltcache.heads.scored import CLASSIFIERS, ScoredHead, check_choice

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

    inits_of_rows = ("class_mean",)
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
        self.near, self.far, self.pointwise = large_kernel(context.dim, kernel, dilation)
        self._rest: tuple[Callable[[Tensor], Tensor], ...] = ()
        start_at_one(self._layers, Generator().manual_seed(0))
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
        return gated_tokens(tokens, self._layers, self._grid(tokens, first), first)

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
        start_at_one(self._layers, generator)
        if self.width != self.dim:
            context = replace(context, dim=self.width, projection=None)
        super().initialise(how, features, labels, generator, context)

    @property
    def _layers(self) -> LargeKernel:
        return LargeKernel(self.near, self.far, self.pointwise)

    def _grid(self, tokens: Tensor, first: int) -> tuple[int, int]:
        if tokens.ndim != 3:
            raise FitError(f"this head needs tokens (N, T, D), not {tuple(tokens.shape)}")
        count = tokens.shape[1] - first
        side = math.isqrt(count)
        rows, columns = self.grid or (side, side)
        if rows * columns != count:
            raise FitError(f"{count} tokens are no map of {rows} x {columns}; set head.grid")
        return rows, columns
