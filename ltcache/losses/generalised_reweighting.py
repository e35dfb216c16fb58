"""Generalised re-weighting (Zhang et al., Distribution alignment, DisAlign, CVPR 2021)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from ltcache.losses.base import OffsetCrossEntropy


class GeneralisedReweighting(OffsetCrossEntropy):
    """w_y CE(z, y), w_c ~ pi_c**-rho with mean 1: rows count as if classes came up as n**(1 - rho).

    That exponent is the prior that the logits of the minimiser carry; rho > 1 turns it round.

    Args:
        class_counts: (C,), as drawn by the sampler.
        rho: 0 is cross entropy, 1 inverse frequency, 1.2 in DisAlign.
        smooth_prior: see :class:`Loss`.
    """

    reference = "Zhang et al. (DisAlign), CVPR 2021"
    equation = "w_y CE(z, y), w_c ~ pi_c^-rho"
    corrects: ClassVar[Literal["none", "partial", "full"]] = "full"

    def __init__(
        self, class_counts: Tensor, *, rho: float = 1.0, smooth_prior: bool = False
    ) -> None:
        super().__init__(class_counts, smooth_prior=smooth_prior)
        self.rho = rho
        weights = self.prior**-rho
        self.class_weights = weights / weights.mean()
        self.set_offset(None)

    def residual_prior(self, drawn: float) -> float:
        """See :meth:`Loss.residual_prior`."""
        return drawn * (1 - self.rho)
