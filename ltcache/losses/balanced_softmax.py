"""Balanced softmax (Ren et al., Balanced meta-softmax, NeurIPS 2020): logit adjustment, tau = 1."""

from __future__ import annotations

from torch import Tensor

from ltcache.losses.logit_adjustment import LogitAdjustment


class BalancedSoftmax(LogitAdjustment):
    """CE(z + log pi), which equals CE(z + log n): a constant over classes cancels.

    Args:
        class_counts: (C,), as drawn by the sampler.
        smooth_prior: see :class:`Loss`.
    """

    reference = "Ren et al., NeurIPS 2020"
    equation = "CE(z + log n, y)"

    def __init__(self, class_counts: Tensor, *, smooth_prior: bool = False) -> None:
        super().__init__(class_counts, tau=1.0, smooth_prior=smooth_prior)
