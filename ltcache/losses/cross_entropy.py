"""Softmax cross entropy: the loss that corrects nothing; logits keep the prior that was drawn."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ltcache.losses.base import OffsetCrossEntropy
from ltcache.losses.softmax import offset_cross_entropy_ as cross_entropy_gradient_

__all__ = ["CrossEntropy", "cross_entropy", "cross_entropy_gradient_"]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -log softmax(logits)[label], (N,)."""
    return F.cross_entropy(logits, labels, reduction="none")


class CrossEntropy(OffsetCrossEntropy):
    """-log softmax(z)[y]."""

    reference = "textbook"
    equation = "CE(z, y) = -log softmax(z)_y"

    def __init__(self, class_counts: Tensor, *, smooth_prior: bool = False) -> None:
        super().__init__(class_counts, smooth_prior=smooth_prior)
        self.set_offset(None)
