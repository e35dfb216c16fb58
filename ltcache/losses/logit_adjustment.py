"""Logit adjustment in the loss (Menon et al., Long-tail learning via logit adjustment, ICLR 2021).

With tau = 1 it is balanced softmax (Ren et al., NeurIPS 2020). Test time uses the bare logits.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F

from ltcache.losses.base import OffsetCrossEntropy


def logit_adjustment(logits: Tensor, labels: Tensor, log_prior: Tensor, tau: float = 1.0) -> Tensor:
    """Return CE(logits + tau * log_prior, labels), (N,); see :class:`LogitAdjustment`."""
    return F.cross_entropy(logits + tau * log_prior.to(logits.dtype), labels, reduction="none")


class LogitAdjustment(OffsetCrossEntropy):
    """CE(z + tau * log pi): trained logits carry n**(1 - tau), balanced for tau = 1.

    Args:
        class_counts: (C,), as drawn by the sampler.
        tau: share of the log prior that the loss takes over.
        smooth_prior: see :class:`Loss`.
    """

    reference = "Menon et al., ICLR 2021; tau=1: Ren et al., NeurIPS 2020"
    equation = "CE(z + tau log pi, y)"
    corrects: ClassVar[Literal["none", "partial", "full"]] = "full"

    def __init__(
        self, class_counts: Tensor, *, tau: float = 1.0, smooth_prior: bool = False
    ) -> None:
        super().__init__(class_counts, smooth_prior=smooth_prior)
        self.tau = tau
        self.set_offset(tau * self.prior.log())

    def residual_prior(self, drawn: float) -> float:
        """See :meth:`Loss.residual_prior`."""
        return drawn * (1 - self.tau)
