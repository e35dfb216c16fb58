"""Experts that ally on nested sets of classes, a reconstruction from the abstract (Cai et al., ACE:
Ally complementary experts for solving long-tailed recognition in one-shot, ICCV 2021)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.heads import NestedExpertsHead
from ltcache.losses import Loss
from ltcache.objectives.base import (
    HeadOutputs,
    Objective,
    TrainingBatch,
    TrainingStart,
    rows_of_each,
)


class ACEObjective(Objective):
    """sum over experts of [L among its classes + complementary times softplus of the others].

    - An expert sees the rows of the classes that the head makes it responsible for, and no others;
      L is over these classes alone.
    - The complementary term is the mean over its rows, and over the classes that the expert never
      sees, of log(1 + exp(z)).
    - The learning rate of an expert is scaled by (share of the training rows that it sees) to the
      power of ``rate_exponent``. A factor on its loss would do that under SGD alone, as AdamW
      divides such a factor out; so each step of an expert's parameters is shortened instead, which
      is a factor on the learning rate under every optimiser.

    Form and weight of the complementary term, and the exponent, could not be read: the choices here
    are our own.

    Args:
        loss: of the rows; cross entropy in the original.
        complementary: weight of the complementary term; 0 leaves it out.
        rate_exponent: see above; 0: equal learning rates. 1 is the rule for SGD; for AdamW, whose
            steps do not grow with the gradient, it is customary to take the square root.

    Raises:
        FitError: a negative value; in training, a head without nested experts.
    """

    corrects: ClassVar[Literal["none", "partial", "full"]] = "partial"
    responsible: Tensor
    rates: Tensor

    def __init__(
        self, loss: Loss, *, complementary: float = 0.1, rate_exponent: float = 0.5
    ) -> None:
        super().__init__(loss)
        if min(complementary, rate_exponent) < 0:
            raise FitError(
                f"objective.complementary={complementary} and rate_exponent={rate_exponent} must "
                "not be negative"
            )
        self.complementary, self.rate_exponent = complementary, rate_exponent
        self._heads: tuple[NestedExpertsHead, ...] = ()  # a tuple, so that it is no submodule

    def begin(self, start: TrainingStart) -> None:
        """See :meth:`Objective.begin`."""
        head = start.head
        if not isinstance(head, NestedExpertsHead):
            raise FitError(
                "objective=ace trains experts on nested sets of classes, which a "
                f"{type(head).__name__} lacks: take head=nested_experts"
            )
        self._heads = (head,)
        self.register_buffer("responsible", head.responsible())  # (E, C)
        self._never_seen = rows_of_each(~self.responsible)  # classes of each expert
        seen = self.responsible.cpu() * self.loss.prior.cpu()
        rates = seen.sum(dim=1).clamp(max=1) ** self.rate_exponent
        self.register_buffer("rates", rates.to(head.weight))  # (E,)
        self._before = [parameter.detach().clone() for parameter in head.parameters()]

    def forward(self, outputs: HeadOutputs, batch: TrainingBatch, progress: float) -> Tensor:
        """See :meth:`Objective.forward`."""
        values = [
            part.fraction * self._value(outputs, part.batch, progress) for part in batch.by_label()
        ]
        return torch.stack(values).sum()

    def _value(self, outputs: HeadOutputs, batch: TrainingBatch, progress: float) -> Tensor:
        total = outputs.experts.new_zeros(())
        members = rows_of_each(self.responsible[:, batch.labels])
        experts = zip(self.responsible, self._never_seen, members, outputs.experts, strict=True)
        for own, others, rows, logits in experts:  # (C,), (C - own,), (n,), (N, C)
            if len(rows):
                part, seen = batch.take(rows), logits[rows]
                among = self.mean_loss(seen.masked_fill(~own, -torch.inf), part, progress)
                total = total + among + self.complementary * self._others(seen, others, part)
        return total

    def _others(self, logits: Tensor, others: Tensor, batch: TrainingBatch) -> Tensor:
        """Return the mean softplus of the classes ``others`` over the rows of a batch."""
        if not len(others):
            return logits.new_zeros(())
        raised = F.softplus(logits[:, others]).mean(dim=1)
        return raised @ self.sample_weights(batch).to(raised.dtype)

    @torch.no_grad()
    def end_step(self) -> None:
        """See :meth:`Objective.end_step`; shortens the step of each expert."""
        (head,) = self._heads
        for before, after in zip(self._before, head.parameters(), strict=True):
            by_expert = (len(self.rates), -1)
            before.view(by_expert).lerp_(after.view(by_expert), self.rates[:, None])
            after.copy_(before)
