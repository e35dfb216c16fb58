"""The one contract of all objectives: (outputs, batch, progress) -> scalar."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ltcache.losses import Loss


@dataclass(frozen=True, eq=False)
class Batch:
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


@dataclass(frozen=True, eq=False)
class Outputs:
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
    """

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: Outputs, batch: Batch, progress: float) -> Tensor:
        """Return the scalar to minimise; ``progress`` runs from 0 to 1 over the training."""
        raise NotImplementedError

    def row_weights(self, batch: Batch, progress: float) -> Tensor | None:
        """Return (N,) such that the objective is sum(weights * loss(logits, labels)), else None.

        An objective that can say so may be trained by the closed-form gradient of its loss.
        """
        return None

    def mean_loss(self, logits: Tensor, batch: Batch, progress: float) -> Tensor:
        """Return the weighted mean of the loss of one expert's logits (N, C): the one place where
        sample weights, class weights with their deferral, and mixed labels are applied."""
        mean = self.loss(logits, batch.labels) @ self.mean_weights(batch, progress).to(logits.dtype)
        if batch.other_labels is None:
            return mean
        other = replace(batch, labels=batch.other_labels, other_labels=None)
        return batch.share * mean + (1 - batch.share) * self.mean_loss(logits, other, progress)

    def mean_weights(self, batch: Batch, progress: float) -> Tensor:
        """Return row weights (N,) that sum to 1: sample weights times class weights in force."""
        rows = len(batch.labels)
        weights = batch.weights
        by_class = self.loss.weights_at(progress)
        if by_class is not None:
            own = by_class[batch.labels]
            weights = own if weights is None else weights * own
        if weights is None:
            return torch.full((rows,), 1 / rows, device=batch.labels.device)
        return weights / weights.sum()
