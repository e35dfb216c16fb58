"""Class-balanced loss by the effective number of samples (Cui et al., CVPR 2019)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from ltcache.errors import FitError
from ltcache.losses.focal import FocalLoss


def effective_number_weights(class_counts: Tensor, beta: float) -> Tensor:
    """Return (1 - beta) / (1 - beta**n) with mean 1 over classes, (C,), float64.

    Args:
        class_counts: positive, (C,).
        beta: 0 weighs all classes alike, towards 1 the weights approach 1 / n.

    Raises:
        FitError: beta outside 0 <= beta < 1.
    """
    if not 0 <= beta < 1:
        raise FitError(f"loss.beta={beta} must lie in 0 <= beta < 1")
    counts = class_counts.to(torch.float64)
    if beta == 0:
        return torch.ones_like(counts)
    weights = -1 / torch.expm1(counts * torch.log(torch.tensor(beta, dtype=torch.float64)))
    return weights / weights.mean()


class ClassBalanced(FocalLoss):
    """w_y CE(z, y), w_c ~ (1 - beta) / (1 - beta**n_c), mean 1; with gamma > 0 focal instead of CE.

    The weights lie between 1 and 1 / n in a way that no single exponent describes, so the prior
    that is left cannot be stated; it is at most the one that was drawn.

    Args:
        class_counts: (C,).
        beta: 0.9999, 0.999, 0.99 or 0.9 in the paper.
        gamma: of the focal loss; 0 is cross entropy.
        smooth_prior: see :class:`Loss`; the counts of the weights are then n + 1 as well.
    """

    reference = "Cui et al., CVPR 2019"
    equation = "w_y (1 - p_y)^gamma CE(z, y), w_c ~ (1 - beta) / (1 - beta^n_c)"
    corrects: ClassVar[Literal["none", "partial", "full"]] = "partial"

    def __init__(
        self,
        class_counts: Tensor,
        *,
        beta: float = 0.9999,
        gamma: float = 0.0,
        smooth_prior: bool = False,
    ) -> None:
        super().__init__(class_counts, gamma=gamma, smooth_prior=smooth_prior)
        self.beta = beta
        self.class_weights = effective_number_weights(self.class_counts + smooth_prior, beta)
