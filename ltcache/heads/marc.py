"""Margin calibration (Wang et al., Margin calibration for long-tailed visual recognition, 2021)."""

from __future__ import annotations

import torch
from torch import nn

from ltcache.heads.base import AffineWeights, HeadContext
from ltcache.heads.recalibrated import RecalibratedHead


class MARCHead(RecalibratedHead):
    """z'_c = a_c z_c + b_c |W_c|: a 1 and b 0 at first; z and W are those of the head before.

    Args:
        classifier: see :class:`RecalibratedHead`.
    """

    equation = "z'_c = a_c z_c + b_c |W_c|"

    def __init__(self, context: HeadContext, *, classifier: str = "linear") -> None:
        super().__init__(context, classifier)
        self.margin_scale = nn.Parameter(torch.ones(context.num_classes))
        self.margin_offset = nn.Parameter(torch.zeros(context.num_classes))

    def calibrated(self) -> AffineWeights:
        """See :meth:`RecalibratedHead.calibrated`."""
        offset = self.margin_offset * self.weight.norm(dim=1)
        scale = self.margin_scale
        return AffineWeights(scale[:, None] * self.weight, scale * self.bias_vector + offset)
