"""ResLT (Cui et al., Residual learning for long-tailed recognition, TPAMI 2022): three branches for
all, medium-and-few and few classes, scored by one classifier and added."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ltcache.heads.base import AffineWeights, HeadContext
from ltcache.heads.scored import ScoredHead, uniform

BRANCHES = 3


class ResLTHead(ScoredHead):
    """r = ReLU(BN(V f)) in R^3D, cut in three; z = sum of W r_k, at test with W_c / |W_c|^gamma.

    V is the 1 x 1 convolution of the paper, on one vector; it has no bias, nor has W.

    Args:
        gamma: exponent of the length that the weights lose at test; 0.7 in the paper.
        classifier: ``linear`` or ``cosine``, where no length is left to lose.
        scale: of the cosine.
    """

    num_experts = BRANCHES
    at_prediction = ("gamma",)
    inits = ("random",)
    inits_of_rows = ()
    equation = "z = sum_k W r_k, r = ReLU(BN(V f)); at test W_c / |W_c|^gamma"

    def __init__(
        self,
        context: HeadContext,
        *,
        gamma: float = 0.7,
        classifier: str = "linear",
        scale: float = 30.0,
    ) -> None:
        super().__init__(context, classifier, scale, bias=False)
        self.gamma = gamma
        self.branches = nn.Parameter(torch.zeros(BRANCHES * context.dim, context.dim))
        self.norm = nn.BatchNorm1d(BRANCHES * context.dim)

    def represent(self, features: Tensor) -> Tensor:
        """Return (3, N, D)."""
        rows = torch.relu(self.norm(F.linear(features, self.branches)))
        return torch.stack(rows.chunk(BRANCHES, dim=1))

    def train(self, mode: bool = True) -> ResLTHead:
        """Set the mode; a frozen normalisation keeps its statistics."""
        super().train(mode)
        self.norm.train(mode and self.norm.weight.requires_grad)
        return self

    def affine(self) -> AffineWeights:
        """See :meth:`Head.affine`; other weights in evaluation than in training."""
        if self.training or self.unit_rows:
            return super().affine()
        lengths = self.weight.norm(dim=1, keepdim=True).clamp(min=1e-12)
        return AffineWeights(self.weight / lengths**self.gamma, None)

    def combine(self, logits: Tensor) -> Tensor:
        """Return (N, C) for (3, N, C): the sum of the branches."""
        return logits.sum(dim=0)

    def initialise(
        self, how: str, features: Tensor, labels: Tensor, generator: Generator, context: Any
    ) -> None:
        """See :meth:`Head.initialise`; the normalisation starts afresh."""
        super().initialise(how, features, labels, generator, context)
        with torch.no_grad():
            self.branches.copy_(uniform(tuple(self.branches.shape), self.dim, generator))
            self.norm.reset_parameters()
