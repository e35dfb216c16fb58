"""LDAM with deferred re-weighting (Cao et al., Learning imbalanced datasets with
label-distribution-aware margin loss, NeurIPS 2019)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ltcache.losses.base import Loss
from ltcache.losses.class_balanced import effective_number_weights
from ltcache.losses.softmax import offset_cross_entropy_


def label_margin(logits: Tensor, labels: Tensor, margin: Tensor) -> Tensor:
    """Return CE of the logits (N, C) with margin (C,) taken off the label's own, (N,)."""
    lowered = margin.to(logits.dtype)[labels]
    rows = torch.arange(len(labels), device=logits.device)
    return F.cross_entropy(
        logits.index_put((rows, labels), -lowered, True), labels, reduction="none"
    )


class LDAM(Loss):
    """CE(z - s m_y onehot(y)), m_c = max_margin n_c**-1/4 / max_j n_j**-1/4, of scaled logits z.

    From ``weights_from`` on, rows carry class-balanced weights (DRW). How much of the prior margins
    and late weights take away depends on the fit, so it cannot be stated.

    Args:
        class_counts: (C,).
        max_margin: of the rarest class, on cosines.
        scale: s, that of the head, whose logits already contain it.
        beta: of the deferred weights; 0 weighs all classes alike, which leaves LDAM alone.
        weights_from: share of the training after which the weights count.
        smooth_prior: see :class:`Loss`; the counts are then n + 1 throughout.

    Attributes:
        margin: s m, buffer (C,), float64.
    """

    reference = "Cao et al., NeurIPS 2019"
    equation = "CE(z - s m_y onehot(y), y), m_c ~ n_c^(-1/4); late w_c ~ (1 - beta)/(1 - beta^n_c)"
    corrects: ClassVar[Literal["none", "partial", "full"]] = "partial"
    margin: Tensor

    def __init__(
        self,
        class_counts: Tensor,
        *,
        max_margin: float = 0.5,
        scale: float = 30.0,
        beta: float = 0.9999,
        weights_from: float = 0.8,
        smooth_prior: bool = False,
    ) -> None:
        super().__init__(class_counts, smooth_prior=smooth_prior)
        self.max_margin, self.scale = max_margin, scale
        self.beta, self.weights_from = beta, weights_from
        relative = (self.prior / self.prior.min()) ** -0.25
        self.register_buffer("margin", scale * max_margin * relative)
        self.class_weights = effective_number_weights(self.class_counts + smooth_prior, beta)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See :meth:`Loss.forward`."""
        return label_margin(logits, labels, self.margin)

    @torch.no_grad()
    def gradient(self, logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`OffsetCrossEntropy.gradient`."""
        rows = torch.arange(len(labels), device=logits.device)
        logits[rows, labels] -= self.margin.to(logits.dtype)[labels]
        return offset_cross_entropy_(logits, labels, weights), logits
