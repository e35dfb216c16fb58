"""MBJ's memory of past features, a reconstruction from the abstract (Liu et al., Memory-based
jitter: Improving visual recognition on long-tailed data with diversity in memory, AAAI 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from ltcache.errors import FitError
from ltcache.heads import Head
from ltcache.losses import Loss
from ltcache.objectives.base import HeadOutputs, Objective, TrainingBatch, TrainingStart
from ltcache.process import to_device


class MBJObjective(Objective):
    """L of the batch + weight times L of a bank of past rows, each a weighted mean.

    A row of the batch enters the bank after its step with probability min(1, admit n / n_c), n the
    mean count of the classes: rows of rarer classes always, by default. The oldest leave when the
    bank is full, so that it holds frequent and rare classes more evenly than the data do. It keeps
    what the head represents without gradient; the classifier of the step scores it anew.

    The publication's size, probability, weight and beginning could not be read: all settings here
    have defaults of our own.

    Args:
        loss: of a row. bank: rows that are kept; 0 leaves the loss of the batch.
        admit: see above. weight: of the bank's loss.
        begins: share of the training, 0..1, from which the bank's loss counts.

    Raises:
        FitError: a value outside its range; in training, rows with two labels.
    """

    corrects: ClassVar[Literal["none", "partial", "full"]] = "partial"
    chance: Tensor
    bank_rows: Tensor
    bank_labels: Tensor
    bank_weights: Tensor

    def __init__(
        self,
        loss: Loss,
        *,
        bank: int = 1024,
        admit: float = 1.0,
        weight: float = 1.0,
        begins: float = 0.0,
    ) -> None:
        super().__init__(loss)
        if min(bank, admit, weight) < 0 or not 0 <= begins <= 1:
            raise FitError(
                f"objective.bank={bank}, admit={admit} and weight={weight} must not be negative, "
                f"and begins={begins} must lie in 0..1"
            )
        self.bank, self.admit, self.weight, self.begins = bank, admit, weight, begins
        counts = loss.class_counts
        chance = (admit * counts.mean() / counts.clamp(min=1)).clamp(max=1)
        self.register_buffer("chance", chance)  # of admission by class, (C,)
        self._heads: tuple[Head, ...] = ()  # a tuple, so that it is no submodule
        self._fresh: tuple[Tensor, TrainingBatch] | None = None

    def begin(self, start: TrainingStart) -> None:
        """See :meth:`Objective.begin`; the bank is empty."""
        self._heads, self._generator = (start.head,), start.generator
        with torch.no_grad():
            none = start.head.represent(start.rows.features[:1])[:, :0]
        self.register_buffer("bank_rows", none.clone())  # (E, K, D')
        self.register_buffer("bank_labels", start.rows.labels[:0].clone())
        self.register_buffer("bank_weights", none.new_zeros(0))

    def forward(self, outputs: HeadOutputs, batch: TrainingBatch, progress: float) -> Tensor:
        """See :meth:`Objective.forward`."""
        if batch.other_labels is not None:
            raise FitError(
                "objective=mbj keeps rows under one label, and a fusion mixes labels: leave out "
                "that fusion, or take objective=mean"
            )
        self._fresh = (outputs.representation.detach(), batch)
        value = self.mean_loss(outputs.logits, batch, progress)
        if not len(self.bank_labels) or not self.weight or progress < self.begins:
            return value
        (head,) = self._heads
        remembered = TrainingBatch(self.bank_rows[0], self.bank_labels, self.bank_weights)
        logits = head.combine(head.classify(self.bank_rows))
        return value + self.weight * self.mean_loss(logits, remembered, progress)

    def end_step(self) -> None:
        """See :meth:`Objective.end_step`; some rows of the step enter the bank, the oldest go."""
        if self._fresh is None:
            return
        rows, batch = self._fresh
        drawn = torch.rand(len(batch.labels), generator=self._generator, dtype=torch.float64)
        chance = self.chance[batch.labels].cpu()  # the host must know how many are admitted
        admitted = to_device(torch.nonzero(drawn.to(chance) < chance).flatten(), rows.device)
        weights = batch.weights
        given = rows.new_ones(len(batch.labels)) if weights is None else weights.to(rows)
        every = torch.cat([self.bank_rows, rows[:, admitted]], dim=1)
        first = max(0, every.shape[1] - self.bank)
        self.bank_rows = every[:, first:]
        self.bank_labels = torch.cat([self.bank_labels, batch.labels[admitted]])[first:]
        self.bank_weights = torch.cat([self.bank_weights, given[admitted]])[first:]
