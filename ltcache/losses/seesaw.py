"""Seesaw loss with online counts and compensation (Wang et al., CVPR 2021)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.losses.base import Loss
from ltcache.losses.softmax import offset_cross_entropy_, rows_in_cache


@torch.no_grad()
def seesaw_offset(
    logits: Tensor, labels: Tensor, counts: Tensor, p: float, q: float, floor: float
) -> Tensor:
    """Return log(M_yj C_yj), (N, C), zero at the label; no gradient goes through it.

    Mitigation M_yj = min(1, n_j / n_y)**p, compensation C_yj = max(1, s_j / s_y)**q, where s is the
    softmax and s_y is at least ``floor``.

    Args:
        logits: (N, C). labels: (N,). counts: positive, (C,).
    """
    log_counts = p * counts.log().to(logits.dtype)
    offset = (log_counts - log_counts[labels, None]).clamp(max=0)
    if q:
        scores = F.log_softmax(logits, dim=1)
        own = scores.gather(1, labels[:, None]).clamp(min=math.log(floor))
        offset += q * (scores - own).clamp_(min=0)
    return offset


class SeesawLoss(Loss):
    """CE(z + log(M C)): rarer classes are pushed less by a row, confused ones more.

    Counts are those of the training rows seen so far (:meth:`observe`), at least 1 each; the
    branch for objects against background of the detection original has no place here. Rare classes
    are spared but get no margin of their own, so an unknown part of the prior stays.

    Args:
        class_counts: (C,); only its length counts.
        p: of the mitigation. q: of the compensation. floor: of the label's softmax in it.
        smooth_prior: see :class:`Loss`.

    Attributes:
        seen: rows of each class observed so far, buffer (C,), float64.

    Raises:
        FitError: a floor outside 0 < floor <= 1.
    """

    reference = "Wang et al., CVPR 2021"
    equation = "CE(z_j + log(M_yj C_yj), y), M = min(1, N_j/N_y)^p, C = max(1, s_j/s_y)^q"
    corrects: ClassVar[Literal["none", "partial", "full"]] = "partial"
    seen: Tensor

    def __init__(
        self,
        class_counts: Tensor,
        *,
        p: float = 0.8,
        q: float = 2.0,
        floor: float = 1e-2,
        smooth_prior: bool = False,
    ) -> None:
        super().__init__(class_counts, smooth_prior=smooth_prior)
        if not 0 < floor <= 1:
            raise FitError(f"loss.floor={floor} must lie in 0 < floor <= 1")
        self.p, self.q, self.floor = p, q, floor
        self.register_buffer("seen", torch.zeros_like(self.prior))

    def observe(self, labels: Tensor) -> None:
        """See :meth:`Loss.observe`."""
        self.seen.index_add_(0, labels, self.seen.new_ones(len(labels)))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See :meth:`Loss.forward`."""
        return F.cross_entropy(logits + self._offset(logits, labels), labels, reduction="none")

    @torch.no_grad()
    def gradient(self, logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`OffsetCrossEntropy.gradient`."""
        rows = rows_in_cache(logits)
        for block, own in zip(logits.split(rows), labels.split(rows), strict=True):
            block += self._offset(block, own)
        return offset_cross_entropy_(logits, labels, weights), logits

    def _offset(self, logits: Tensor, labels: Tensor) -> Tensor:
        counts = self.seen.clamp(min=1)
        return seesaw_offset(logits, labels, counts, self.p, self.q, self.floor)
