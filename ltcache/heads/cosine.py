"""The cosine head: both sides normalised, a fixed scale, no bias (LIFT, Shi et al., ICML 2024)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ltcache.heads.base import AffineWeights, Head, HeadContext


class CosineHead(Head):
    """z_c = s <f / |f|, W_c / |W_c|>.

    Args:
        scale: s; 25 in LIFT, 16 in OLTR, 30 in LDAM, exp(logit_scale) for CLIP's zero-shot.
    """

    fixed_representation = True
    unit_rows = True
    equation = "z_c = s <f/|f|, W_c/|W_c|>"

    def __init__(self, context: HeadContext, *, scale: float = 25.0) -> None:
        super().__init__(context)
        self.scale = scale
        self.weight = nn.Parameter(torch.zeros(context.num_classes, context.dim))

    def normalise(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.normalise`: unit rows."""
        return F.normalize(representation, dim=-1)

    def classify(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.classify`."""
        return nn.functional.linear(self.normalise(representation), self.affine().weight)

    def affine(self) -> AffineWeights:
        """See :meth:`Head.affine`."""
        return AffineWeights(self.scale * F.normalize(self.weight, dim=1), None)

    def random_weight(self, generator: Generator) -> Tensor:
        """Return (C, D) unit rows of random direction: one learning rate fits all starts."""
        weight = torch.randn(self.num_classes, self.dim, generator=generator)
        return F.normalize(weight, dim=1)

    def set_weight(self, weight: Tensor) -> None:
        """See :meth:`Head.set_weight`; an empty class keeps a zero row and scores zero."""
        self.weight.copy_(weight)
