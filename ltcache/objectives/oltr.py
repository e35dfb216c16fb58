"""OLTR's loss: cross entropy, and centroids that attract the rows of their class and keep off those
of others (Liu et al., Large-scale long-tailed recognition in an open world, CVPR 2019)."""

from __future__ import annotations

from torch import Tensor

from ltcache.errors import FitError
from ltcache.heads import MetaEmbeddingHead, label_counts
from ltcache.losses import Loss
from ltcache.objectives.base import HeadOutputs, Objective, TrainingBatch, TrainingStart


class OLTRObjective(Objective):
    """L(z, y) + a [attract + b max(0, margin - mean d)], M the memory of a meta-embedding head.

    - attract = 1/2 of the mean of |v - M_y|^2 over rows; mean d is over all pairs of a row and a
      class of |v - M_c|^2, and 0 for the row's own class.
    - M does not follow the gradient of attract, but as released, whatever a is, its own rule: for
      class c the sum over its rows of (M_c - v) / ((1 + rows of c in the batch) B). With unequal
      sample weights, a row's share of all weights stands for 1 / B.

    On features of a frozen encoder the bracket moves M alone.

    Args:
        loss: cross entropy in the original.
        centroids: a. repel: b. margin: see the formula.

    Raises:
        FitError: in training, a head without such a memory.
    """

    def __init__(
        self,
        loss: Loss,
        *,
        centroids: float = 0.01,
        repel: float = 0.01,
        margin: float = 10.0,
    ) -> None:
        super().__init__(loss)
        self.centroids, self.repel, self.margin = centroids, repel, margin
        self._heads: tuple[MetaEmbeddingHead, ...] = ()  # a tuple, so that it is no submodule

    def begin(self, start: TrainingStart) -> None:
        """See :meth:`Objective.begin`."""
        if not isinstance(start.head, MetaEmbeddingHead):
            raise FitError(
                "objective=oltr moves the memory of a meta-embedding, which a "
                f"{type(start.head).__name__} lacks: take head=meta_embedding after a linear stage"
            )
        self._heads = (start.head,)

    def forward(self, outputs: HeadOutputs, batch: TrainingBatch, progress: float) -> Tensor:
        """See :meth:`Objective.forward`."""
        (head,) = self._heads
        rows = outputs.representation[0]
        value = self.mean_loss(outputs.logits, batch, progress)
        for part in batch.by_label():
            weights = self.sample_weights(part.batch).to(rows.dtype)
            labels = part.batch.labels
            bracket = attraction(rows, head.memory.detach(), labels, weights)
            bracket = bracket + self.repel * self._repulsion(rows, head.memory, labels, weights)
            followed = _memory_rule(rows.detach(), head.memory, labels, weights)
            value = value + part.fraction * (self.centroids * bracket + followed)
        return value

    def _repulsion(self, rows: Tensor, memory: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Return max(0, margin - mean d), for rows (N, D), memory (C, D) and weights (N,)."""
        lengths = rows.square().sum(dim=1, keepdim=True) + memory.square().sum(dim=1)
        distances = lengths - 2 * rows @ memory.T  # (N, C), squared
        others = distances.scatter(1, labels[:, None], 0.0)
        return (self.margin - weights @ others.mean(dim=1)).clamp(min=0)


def attraction(rows: Tensor, memory: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return half the weighted sum of |v - M_y|^2 over rows (N, D), memory (C, D)."""
    return (rows - memory[labels]).square().sum(dim=1) @ weights / 2


def _memory_rule(rows: Tensor, memory: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return a zero whose gradient in the memory is the rule of the released code."""
    of_class = label_counts(labels, len(memory))[labels]  # rows of each row's class
    pull = attraction(rows, memory, labels, weights / (1 + of_class))
    return pull - pull.detach()
