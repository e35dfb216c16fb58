"""The head with normalised weights only (L2NormedClassifier of LIFT, Shi et al., ICML 2024)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ltcache.heads.base import AffineWeights, HeadContext
from ltcache.heads.linear import LinearHead


class L2NormLinearHead(LinearHead):
    """z_c = <f, W_c/|W_c|>: features keep their length, no bias."""

    equation = "z_c = <f, W_c/|W_c|>"

    def __init__(self, context: HeadContext) -> None:
        super().__init__(context, bias=False)

    def classify(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.classify`."""
        return F.linear(representation, self.affine().weight)

    def affine(self) -> AffineWeights:
        """See :meth:`Head.affine`."""
        return AffineWeights(F.normalize(self.weight, dim=1), None)
