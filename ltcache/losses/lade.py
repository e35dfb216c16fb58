"""LADE: label distribution disentangling (Hong et al., CVPR 2021)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ltcache.losses.base import Loss

_IN_LOG, _IN_COUNT = 1e-9, 1e-8


def lade_regulariser(logits: Tensor, labels: Tensor, prior: Tensor, lam: float) -> Tensor:
    """Return the regularised Donsker-Varadhan term of a batch, a scalar to be added to a mean loss.

    R = -sum_c pi_c (first_c - second_c - lam second_c**2), where first_c is the mean of z_c over
    the rows of class c, and second_c the log of the mean over all rows of exp(z_c) / (C pi_c). As
    in the released code every row is corrected by the prior of class c, not of its own.

    Args:
        logits: (N, C). labels: (N,). prior: (C,). lam: weight of the square.
    """
    rows, classes = logits.shape
    own = logits.gather(1, labels[:, None]).squeeze(1)  # (N,)
    empty = logits.new_zeros(classes)
    counts = empty.index_add(0, labels, torch.ones_like(own))
    first = empty.index_add(0, labels, own) / (counts + _IN_COUNT)
    shift = (prior + _IN_LOG).log().to(logits.dtype) + math.log(classes)
    second = torch.logsumexp(logits - shift, dim=0) - math.log(rows)
    return -(prior.to(logits.dtype) * (first - second - lam * second**2)).sum()


class LADE(Loss):
    """CE(z + log pi) + alpha R, R of the whole batch (:func:`lade_regulariser`).

    R is added to every row, so that means with weights that sum to 1 contain it once. Its square
    pulls some of the prior back: on features that say nothing, n**0.02 is left with the defaults,
    n**0.05 with ImageNet-LT's setting (0.05, 0.5), and most of it with both at 1. The loss has been
    reported to collapse on CLIP features: alpha is best kept low.

    Args:
        class_counts: (C,), as drawn by the sampler.
        alpha: weight of R. lam: weight of its square; both 0.1 in LIFT.
        smooth_prior: see :class:`Loss`.
    """

    reference = "Hong et al., CVPR 2021"
    equation = "CE(z + log pi, y) + alpha R"
    corrects: ClassVar[Literal["none", "partial", "full"]] = "full"
    of_rows: ClassVar[bool] = False

    def __init__(
        self,
        class_counts: Tensor,
        *,
        alpha: float = 0.1,
        lam: float = 0.1,
        smooth_prior: bool = False,
    ) -> None:
        super().__init__(class_counts, smooth_prior=smooth_prior)
        self.alpha, self.lam = alpha, lam

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See :meth:`Loss.forward`."""
        adjusted = logits + self.prior.log().to(logits.dtype)
        losses = F.cross_entropy(adjusted, labels, reduction="none")
        return losses + self.alpha * lade_regulariser(logits, labels, self.prior, self.lam)

    def residual_prior(self, drawn: float) -> float:
        """See :meth:`Loss.residual_prior`."""
        return 0.0
