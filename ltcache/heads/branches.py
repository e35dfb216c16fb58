"""Two branches whose logits add up: the classifier of BBN (Zhou et al., CVPR 2020) on features."""

from __future__ import annotations

from torch import Tensor

from ltcache.heads.base import HeadContext
from ltcache.heads.experts import ExpertsHead


class BranchesHead(ExpertsHead):
    """z = W [r_1 ; r_2] + b, r_e = f + MLP_e(f).

    A classifier on the concatenation is the sum of one on each branch. The original's branches are
    residual blocks of the network's last stage.

    Args:
        bottleneck: width of a branch's hidden layer; None: D / 4.
    """

    equation = "z = W [f + MLP_1(f) ; f + MLP_2(f)] + b"

    def __init__(self, context: HeadContext, *, bottleneck: int | None = None) -> None:
        super().__init__(context, experts=2, bottleneck=bottleneck)

    def combine(self, logits: Tensor) -> Tensor:
        """Return (N, C) for the parts (2, N, C) of the two branches: their sum."""
        return logits.sum(dim=0)
