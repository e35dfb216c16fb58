"""Learnable weight scaling (Kang et al., Decoupling representation and classifier, ICLR 2020).

With ``learn_weight`` it is the classifier of MiSLAS's second stage (Zhong et al., CVPR 2021), where
the weights move too, at a lower rate.
"""

from __future__ import annotations

import torch
from torch import nn

from ltcache.heads.base import AffineWeights, HeadContext
from ltcache.heads.recalibrated import RecalibratedHead


class LWSHead(RecalibratedHead):
    """z = s (W f + b): s per class, 1 at first; W and b are those of the head before.

    Args:
        classifier, learn_weight: see :class:`RecalibratedHead`.
    """

    equation = "z_c = s_c (W f + b)_c"

    def __init__(
        self, context: HeadContext, *, classifier: str = "linear", learn_weight: bool = False
    ) -> None:
        super().__init__(context, classifier, learn_weight)
        self.learn_weight = learn_weight
        self.class_scale = nn.Parameter(torch.ones(context.num_classes))

    def calibrated(self) -> AffineWeights:
        """See :meth:`RecalibratedHead.calibrated`."""
        return AffineWeights(
            self.class_scale[:, None] * self.weight, self.class_scale * self.bias_vector
        )
