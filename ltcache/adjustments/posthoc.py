"""Post-hoc logit adjustment (Menon et al., Long-tail learning via logit adjustment, ICLR 2021)."""

from __future__ import annotations

from torch import Tensor

from ltcache.adjustments.base import Adjustment
from ltcache.heads import AffineWeights, Head, HeadContext
from ltcache.losses import class_prior


class PosthocLogitAdjustment(Adjustment):
    """z - tau residual log pi.

    Args:
        tau: share of what is left of the log prior that is subtracted.
        residual: exponent of the prior that the logits of ``base`` carry: 1 for cross entropy on
            rows as they come, 1/2 after square-root sampling.
        smooth_prior: take (n + 1) / sum(n + 1) as the prior; else a class without rows is refused.
    """

    at_prediction = ("tau",)
    equation = "z - tau a log pi"
    log_prior: Tensor

    def __init__(
        self,
        base: Head,
        context: HeadContext,
        *,
        tau: float = 1.0,
        residual: float = 1.0,
        smooth_prior: bool = False,
    ) -> None:
        super().__init__(base, context)
        self.tau, self.residual, self.smooth_prior = tau, residual, smooth_prior
        self.register_buffer("log_prior", class_prior(context.class_counts, smooth_prior).log())

    def offset(self) -> Tensor:
        """Return what is subtracted, (C,), float64."""
        assert self.residual is not None
        return self.tau * self.residual * self.log_prior

    def adjust(self, logits: Tensor, features: Tensor) -> Tensor:
        """See :meth:`Adjustment.adjust`."""
        return logits - self.offset().to(logits.dtype)

    def affine(self) -> AffineWeights | None:
        """See :meth:`Head.affine`: that of the head before with another bias."""
        before = self.base.affine()
        if before is None or self.num_experts > 1:
            return None
        offset = self.offset().to(before.weight.dtype)
        return AffineWeights(
            before.weight, -offset if before.bias is None else before.bias - offset
        )

    def residual_after(self, residual: float | None) -> float | None:
        """See :meth:`Adjustment.residual_after`."""
        return None if residual is None else residual - self.tau * (self.residual or 0.0)
