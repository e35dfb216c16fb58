"""Every expert learns by itself: the sum of their losses."""

from __future__ import annotations

import torch
from torch import Tensor

from ltcache.objectives.base import HeadOutputs, Objective, TrainingBatch


class EachExpertObjective(Objective):
    """sum_e L(z_e), as of the two classifiers of VL-LTR's head (Tian et al., ECCV 2022)."""

    def forward(self, outputs: HeadOutputs, batch: TrainingBatch, progress: float) -> Tensor:
        """See :meth:`Objective.forward`."""
        values = [self.mean_loss(logits, batch, progress) for logits in outputs.experts]
        return torch.stack(values).sum()
