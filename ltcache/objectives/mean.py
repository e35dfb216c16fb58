"""The default objective: the weighted mean of the loss over the rows of a batch."""

from __future__ import annotations

from torch import Tensor

from ltcache.objectives.base import HeadOutputs, Objective, TrainingBatch


class WeightedMean(Objective):
    """sum(w * loss) / sum(w), w = sample weight times class weight, on the combined logits."""

    def forward(self, outputs: HeadOutputs, batch: TrainingBatch, progress: float) -> Tensor:
        """See :meth:`Objective.forward`."""
        return self.mean_loss(outputs.logits, batch, progress)

    def row_weights(self, batch: TrainingBatch, progress: float) -> Tensor | None:
        """See :meth:`Objective.row_weights`; mixed labels have no closed form."""
        return None if batch.other_labels is not None else self.mean_weights(batch, progress)
