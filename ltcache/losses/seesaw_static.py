"""The simplified seesaw of TIN: static counts, mitigation alone, O(C) state.

Its published form is -log e^{z_y} / (sum_{j != y} M_yj e^{z_j} + e^{z_y}) with
M_yj = min(1, n_j / n_y)**p, which is cross entropy on z_j + min(0, p log(n_j / n_y)). The offset of
a row is min(l_j, l_y) - l_y with l = p log pi, and l_y cancels: no (C, C) table, no gather. The
epsilon of the paper's denominator guards its exponentials; the log form needs none, and with it the
loss would depend on a shift of z.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ltcache.losses.base import Loss
from ltcache.losses.softmax import offset_cross_entropy_, rows_in_cache


def seesaw_static(logits: Tensor, labels: Tensor, scaled_log_prior: Tensor) -> Tensor:
    """Return CE(z_j + min(l_j, l_y)), (N,), for l = ``scaled_log_prior`` (C,)."""
    own = scaled_log_prior.to(logits.dtype)
    return F.cross_entropy(logits + torch.minimum(own, own[labels, None]), labels, reduction="none")


@torch.no_grad()
def add_smaller_(logits: Tensor, labels: Tensor, values: Tensor) -> None:
    """Add min(values_j, values_y) to the logits (N, C) in place, a block of rows at a time."""
    rows = rows_in_cache(logits)
    buffer = logits.new_empty((min(rows, len(logits)), logits.shape[1]))
    for block, own in zip(logits.split(rows), values[labels, None].split(rows), strict=True):
        block += torch.minimum(values, own, out=buffer[: len(block)])


class SeesawStatic(Loss):
    """CE(z_j + min(0, p log(n_j / n_y)), y): a row pushes classes rarer than its own less.

    Rare classes are spared but get no margin of their own, so an unknown part of the prior stays.

    Args:
        class_counts: (C,).
        p: 0 is cross entropy; 0.7 in TIN.
        smooth_prior: see :class:`Loss`.

    Attributes:
        scaled_log_prior: p log pi, buffer (C,), float64.
    """

    reference = "TIN's form of Wang et al., CVPR 2021"
    equation = "CE(z_j + min(0, p log(n_j / n_y)), y)"
    corrects: ClassVar[Literal["none", "partial", "full"]] = "partial"
    scaled_log_prior: Tensor

    def __init__(self, class_counts: Tensor, *, p: float = 0.7, smooth_prior: bool = False) -> None:
        super().__init__(class_counts, smooth_prior=smooth_prior)
        self.p = p
        self.register_buffer("scaled_log_prior", p * self.prior.log())

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See :meth:`Loss.forward`."""
        return seesaw_static(logits, labels, self.scaled_log_prior)

    @torch.no_grad()
    def gradient(self, logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`OffsetCrossEntropy.gradient`."""
        add_smaller_(logits, labels, self.scaled_log_prior.to(logits.dtype))
        return offset_cross_entropy_(logits, labels, weights), logits
