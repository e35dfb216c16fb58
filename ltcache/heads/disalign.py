"""DisAlign (Zhang et al., Distribution alignment, CVPR 2021): adaptive calibration of logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ltcache.heads.base import HeadContext
from ltcache.heads.recalibrated import RecalibratedHead


class DisAlignHead(RecalibratedHead):
    """z'_c = (1 + g alpha_c) z_c + g beta_c with g = sigmoid(v f + c), one number per row.

    alpha is 1 and beta 0 at first. v and c start at 0, so that g starts at 1/2 for every row and
    no draw is involved; the published code draws them as torch's Linear does.

    Args:
        classifier: see :class:`RecalibratedHead`.
    """

    equation = "z'_c = (1 + g alpha_c) z_c + g beta_c, g = sigmoid(v f + c)"

    def __init__(self, context: HeadContext, *, classifier: str = "linear") -> None:
        super().__init__(context, classifier)
        self.confidence = nn.Linear(context.dim, 1)
        nn.init.zeros_(self.confidence.weight)
        nn.init.zeros_(self.confidence.bias)
        self.alpha = nn.Parameter(torch.ones(context.num_classes))
        self.beta = nn.Parameter(torch.zeros(context.num_classes))

    def classify(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.classify`."""
        rows = self.normalise(representation)
        gate = torch.sigmoid(self.confidence(rows))  # (E, N, 1)
        return (1 + gate * self.alpha) * self.before(rows) + gate * self.beta

    def affine(self) -> None:
        """See :meth:`Head.affine`: the gate is not linear."""
