"""The default objective: the weighted mean of the loss over the rows of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from ltcache.objectives.base import Batch, Objective, Outputs


class WeightedMean(Objective):
    """sum(w * loss) / sum(w), with the sample weights of the batch or equal ones."""

    def forward(self, outputs: Outputs, batch: Batch, progress: float) -> Tensor:
        """See :meth:`Objective.forward`."""
        losses = self.loss(outputs.logits, batch.labels)
        return losses @ self.row_weights(batch, progress).to(losses.dtype)

    def row_weights(self, batch: Batch, progress: float) -> Tensor:
        """See :meth:`Objective.row_weights`."""
        if batch.weights is not None:
            return batch.weights / batch.weights.sum()
        rows = len(batch.labels)
        return torch.full((rows,), 1 / rows, device=batch.labels.device)
