"""The one contract of all objectives: (outputs, batch, progress) -> scalar."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ltcache.errors import FitError
from ltcache.losses import Loss
from ltcache.records import one_line


@one_line
@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """What a step trains on.

    Attributes:
        features: (N, D). labels: (N,). weights: sample weights (N,), or None for equal ones.
        other_labels: second labels (N,) of mixed rows, or None.
        share: of the first labels in mixed rows, 0..1.
    """

    features: Tensor
    labels: Tensor
    weights: Tensor | None = None
    other_labels: Tensor | None = None
    share: float = 1.0

    def by_label(self) -> tuple[TrainingBatch, TrainingBatch]:
        """Return the batch with its first labels alone, and with its second ones alone."""
        first = replace(self, other_labels=None, share=1.0)
        other = self.labels if self.other_labels is None else self.other_labels
        return first, replace(first, labels=other)

    def take(self, rows: Tensor) -> TrainingBatch:
        """Return some rows; a row may come several times."""
        weights = None if self.weights is None else self.weights[rows]
        other = None if self.other_labels is None else self.other_labels[rows]
        return TrainingBatch(self.features[rows], self.labels[rows], weights, other, self.share)


@one_line
@dataclass(frozen=True, eq=False)
class HeadOutputs:
    """What a head says about a batch.

    Attributes:
        representation: (E, N, D'). experts: logits of each expert, (E, N, C). logits: (N, C).
    """

    representation: Tensor
    experts: Tensor
    logits: Tensor


class Objective(nn.Module):
    """Base of all objectives.

    Args:
        loss: the loss per row that it is built on.

    Attributes:
        corrects: what the objective does about the prior beyond its loss; see :class:`Loss`.
    """

    corrects: ClassVar[Literal["none", "partial", "full"]] = "none"

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: HeadOutputs, batch: TrainingBatch, progress: float) -> Tensor:
        """Return the scalar to minimise; ``progress`` runs from 0 to 1 over the training."""
        raise NotImplementedError

    def row_weights(self, batch: TrainingBatch, progress: float) -> Tensor | None:
        """Return (N,) such that the objective is sum(weights * loss(logits, labels)), else None.

        An objective that can say so may be trained by the closed-form gradient of its loss.
        """
        return None

    def mean_loss(self, logits: Tensor, batch: TrainingBatch, progress: float) -> Tensor:
        """Return the weighted mean of the loss of one expert's logits (N, C): the one place where
        sample weights, class weights with their deferral, and mixed labels are applied."""
        mean = self.loss(logits, batch.labels) @ self.mean_weights(batch, progress).to(logits.dtype)
        if batch.other_labels is None:
            return mean
        other = batch.by_label()[1]
        return batch.share * mean + (1 - batch.share) * self.mean_loss(logits, other, progress)

    def mean_weights(self, batch: TrainingBatch, progress: float) -> Tensor:
        """Return row weights (N,) that sum to 1: sample weights times class weights in force."""
        by_class = self.loss.weights_at(progress)
        if by_class is None:
            return self.sample_weights(batch)
        weights = by_class[batch.labels]
        if batch.weights is not None:
            weights = weights * batch.weights
        return weights / weights.sum()

    def sample_weights(self, batch: TrainingBatch) -> Tensor:
        """Return the sample weights alone, (N,), made to sum to 1."""
        rows = len(batch.labels)
        if batch.weights is None:
            return torch.full((rows,), 1 / rows, dtype=torch.float64, device=batch.labels.device)
        return batch.weights / batch.weights.sum()

    def require_experts(self, outputs: HeadOutputs, number: int) -> None:
        """Refuse a head with another number of experts.

        Raises:
            FitError: it has more or fewer.
        """
        if len(outputs.experts) != number:
            raise FitError(
                f"the objective {type(self).__name__} is for {number} experts, the head has "
                f"{len(outputs.experts)}: take a head with experts and set their number to {number}"
            )
