"""ResLT: residual branches for ever rarer classes (Cui et al., TPAMI 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from ltcache.errors import FitError
from ltcache.heads import class_reach
from ltcache.losses import Loss
from ltcache.metrics import GroupScheme
from ltcache.objectives.base import HeadOutputs, Objective, TrainingBatch, rows_of_each


class ResLT(Objective):
    """(1 - beta) L(z_H + z_M + z_T) + beta L of each branch on the rows that it is there for.

    The three experts H, M and T are branches: H learns from all rows, M from those of medium- and
    few-shot classes, T from few-shot ones; the second term is the mean over all pairs of a branch
    and a row of its own. Groups follow from the counts, where the original takes class numbers.

    Args:
        loss: of the sum and of each branch.
        beta: weight of the branches; 0.99, and 0.995 on CIFAR.
        many_above: a class with more training rows is many-shot.
        few_below: a class with fewer is few-shot.

    Attributes:
        reach: branches that a class's rows train, 1..3, buffer (C,), int64.

    Raises:
        FitError: beta outside 0..1; in training, another number of experts than three.
    """

    reach: Tensor

    def __init__(
        self,
        loss: Loss,
        *,
        beta: float = 0.99,
        many_above: int = GroupScheme.many_above,
        few_below: int = GroupScheme.few_below,
    ) -> None:
        super().__init__(loss)
        if not 0 <= beta <= 1:
            raise FitError(f"objective.beta={beta} must lie in 0..1")
        self.beta, self.many_above, self.few_below = beta, many_above, few_below
        self.register_buffer("reach", class_reach(loss.class_counts, many_above, few_below))

    def forward(self, outputs: HeadOutputs, batch: TrainingBatch, progress: float) -> Tensor:
        """See :meth:`Objective.forward`."""
        self.require_experts(outputs, 3)
        fused = self.mean_loss(outputs.experts.sum(dim=0), batch, progress)
        branches = self._branch_loss(outputs.experts, batch, progress)
        return (1 - self.beta) * fused + self.beta * branches

    def _branch_loss(self, experts: Tensor, batch: TrainingBatch, progress: float) -> Tensor:
        """Return the mean over pairs of branch and row; each label of a mixed row has its own."""
        if batch.other_labels is not None:
            first, second = (
                part.fraction * self._branch_loss(experts, part.batch, progress)
                for part in batch.by_label()
            )
            return first + second
        branches = torch.arange(3, device=self.reach.device)[:, None]
        taken = rows_of_each(self.reach[batch.labels] > branches)
        logits = torch.cat([experts[branch, rows] for branch, rows in enumerate(taken)])
        return self.mean_loss(logits, batch.take(torch.cat(taken)), progress)
