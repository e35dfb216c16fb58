"""The linear head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ltcache.errors import FitError
from ltcache.heads.base import AffineWeights, Head, HeadContext


class LinearHead(Head):
    """z = W f + b; of tokens (N, T, D), f is what the rest of the encoder makes of them.

    Args:
        bias: whether there is a b.
    """

    fixed_representation = True
    equation = "z = W f + b"

    def __init__(self, context: HeadContext, *, bias: bool = True) -> None:
        super().__init__(context)
        self._map = context.tokens
        self.weight = nn.Parameter(torch.zeros(context.num_classes, self.width))
        self.bias_vector = nn.Parameter(torch.zeros(context.num_classes)) if bias else None
        self.bias = bias

    def represent(self, features: Tensor) -> Tensor:
        """See :meth:`Head.represent`."""
        return (features if self._map is None else self._map.vectors(features))[None]

    def classify(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.classify`."""
        return nn.functional.linear(representation, self.weight, self.bias_vector)

    def affine(self) -> AffineWeights:
        """See :meth:`Head.affine`."""
        return AffineWeights(self.weight, self.bias_vector)

    def set_weight(self, weight: Tensor) -> None:
        """See :meth:`Head.set_weight`; the bias starts at zero."""
        self.weight.copy_(weight)
        if self.bias_vector is not None:
            self.bias_vector.zero_()

    @torch.no_grad()
    def adopt(self, previous: Head) -> None:
        """See :meth:`Head.adopt`; takes over any head that is one product.

        One on unit rows is scaled down by sqrt(D), the length of standardised rows.
        """
        product = previous.affine()
        if product is None or product.weight.shape != self.weight.shape:
            raise FitError(f"LinearHead cannot start from a {type(previous).__name__}")
        length = self.width**0.5 if previous.unit_rows else 1.0
        self.set_weight(product.weight / length)
        if self.bias_vector is not None and product.bias is not None:
            self.bias_vector.copy_(product.bias)
