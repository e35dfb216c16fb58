"""Logit adjustment with compensation for class-conditional mismatch: a reconstruction.

Sage (Peng, Zhang and Cheung, arXiv 2507.12807) announces a "distribution mismatch-aware
compensation factor"; its formula is not public. This one follows from Bayes' rule. With
k_c(x) = p_target(x|c) / p_train(x|c), training on CE(z + a) gives
z_c = log p_train(x|c) + log pi_c - a_c, and z_c = log p_target(x|c) needs a_c = log pi_c - log k_c.
The mean of log k_c under the target is delta_c = KL(p_target(.|c) | p_train(.|c)) >= 0, larger for
rare classes. It enters the training logits with a minus, which raises rare classes at test time;
with a plus it would sink them.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from ltcache.errors import FitError
from ltcache.losses.base import OffsetCrossEntropy


class CompensatedLogitAdjustment(OffsetCrossEntropy):
    """CE(z + tau log pi - lam delta), delta estimated by an earlier stage.

    Args:
        class_counts: (C,), as drawn by the sampler.
        delta: mismatch of each class, (C,), in units of log probability.
        tau: share of the log prior that the loss takes over.
        lam: share of delta; 0 is logit adjustment. To be chosen on validation data.
        smooth_prior: see :class:`Loss`.

    Raises:
        FitError: delta does not have one finite value per class.
    """

    reference = "reconstruction after Sage, arXiv 2507.12807"
    equation = "CE(z + tau log pi - lam delta, y)"
    corrects: ClassVar[Literal["none", "partial", "full"]] = "full"
    needs = ("delta",)

    def __init__(
        self,
        class_counts: Tensor,
        *,
        delta: Tensor,
        tau: float = 1.0,
        lam: float = 0.5,
        smooth_prior: bool = False,
    ) -> None:
        super().__init__(class_counts, smooth_prior=smooth_prior)
        delta = torch.as_tensor(delta, dtype=torch.float64, device=self.prior.device)
        if delta.shape != self.prior.shape or not bool(torch.isfinite(delta).all()):
            raise FitError(
                f"delta must be one finite value for each of {len(self.prior)} classes, not a "
                f"tensor of shape {tuple(delta.shape)} with "
                f"{int((~torch.isfinite(delta)).sum())} values that are not finite"
            )
        self.tau, self.lam = tau, lam
        self.set_offset(tau * self.prior.log() - lam * delta)

    def residual_prior(self, drawn: float) -> float:
        """See :meth:`Loss.residual_prior`: of the prior alone; delta is no part of it."""
        return drawn * (1 - self.tau)
