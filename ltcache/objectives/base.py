"""The one contract of all objectives: (outputs, batch, progress) -> scalar."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn

from ltcache.errors import FitError
from ltcache.heads import Head
from ltcache.losses import Loss
from ltcache.process import to_device
from ltcache.records import one_line

_LEAST = 1e-12  # of a sum of weights, so that rows of no weight give 0 and not 0 / 0


@one_line
@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """What a step trains on.

    Attributes:
        features: (N, D). labels: (N,). weights: sample weights (N,), or None for equal ones.
        other_labels: second labels (N,) of mixed rows, or None.
        share: of the first labels in mixed rows, 0..1: one number, or one of each row, (N,).
        partner_labels: labels (N,) of the second batch's rows, or None where there is no second.
        rows: which training rows these are, (N,), or None.
    """

    features: Tensor
    labels: Tensor
    weights: Tensor | None = None
    other_labels: Tensor | None = None
    share: float | Tensor = 1.0
    partner_labels: Tensor | None = None
    rows: Tensor | None = None

    def by_label(self) -> tuple[LabelShare, ...]:
        """Return the batch with its first labels alone and with its second ones alone.

        A mean over rows of the mixed batch is the sum of ``fraction`` times the mean over
        ``batch``; rows without a second label are one part, the whole.
        """
        if self.other_labels is None:
            return (LabelShare(1.0, self),)
        first = replace(self, other_labels=None, share=1.0)
        second = replace(first, labels=self.other_labels)
        if not isinstance(self.share, Tensor):
            return LabelShare(self.share, first), LabelShare(1 - self.share, second)
        weights = torch.ones_like(self.share) if self.weights is None else self.weights
        parts = []
        for batch, own in ((first, self.share), (second, 1 - self.share)):  # own: (N,)
            weighed = weights * own
            fraction = weighed.sum() / weights.sum().clamp(min=_LEAST)
            parts.append(LabelShare(fraction, replace(batch, weights=weighed)))
        return tuple(parts)

    def take(self, rows: Tensor) -> TrainingBatch:
        """Return some rows; a row may come several times."""

        def taken(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[rows]

        return TrainingBatch(
            self.features[rows],
            self.labels[rows],
            taken(self.weights),
            taken(self.other_labels),
            self.share[rows] if isinstance(self.share, Tensor) else self.share,
            taken(self.partner_labels),
            taken(self.rows),
        )


def rows_of_each(chosen: Tensor) -> list[Tensor]:
    """Return the numbers of the rows that are chosen, for each of K, of a mask (K, N).

    How many there are is known on the host alone, so the masks are read at once.
    """
    return [to_device(rows.nonzero().flatten(), chosen.device) for rows in chosen.cpu()]


class LabelShare(NamedTuple):
    """One of the labels of a mixed batch: what it counts for, 0..1, and the batch with it alone."""

    fraction: float | Tensor
    batch: TrainingBatch


@one_line
@dataclass(frozen=True, eq=False)
class HeadOutputs:
    """What a head says about a batch.

    Attributes:
        representation: (E, N, D'). experts: logits of each expert, (E, N, C). logits: (N, C).
        partner: the same of the second batch, where the objective asks for it, else None.
    """

    representation: Tensor
    experts: Tensor
    logits: Tensor
    partner: HeadOutputs | None = None


@one_line
@dataclass(frozen=True, eq=False)
class TrainingStart:
    """What a training begins with, for objectives that keep a state.

    Attributes:
        head: that is trained. previous: of the stage before, or None.
        rows: all training rows. val: those to choose on, or None.
        generator: of the objective alone, on the CPU.
    """

    head: Head
    previous: Head | None
    rows: TrainingBatch
    val: TrainingBatch | None
    generator: Generator


class Objective(nn.Module):
    """Base of all objectives.

    Args:
        loss: the loss per row that it is built on.

    An objective may have parameters of its own, such as a projection that only trains: they are
    made in :meth:`begin`, move with the head's (``lr_factors`` knows them as ``objective.NAME``),
    and are left behind when the training ends.

    Attributes:
        corrects: what the objective does about the prior beyond its loss; see :class:`Loss`.
        needs_partner: it reads the head's outputs on a second batch, and the labels there.
    """

    corrects: ClassVar[Literal["none", "partial", "full"]] = "none"
    needs_partner: ClassVar[bool] = False

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    @property
    def keeps_state(self) -> bool:
        """Whether one step leaves something for the next: such a training runs alone."""
        kind, hooks = type(self), ("begin", "end_step", "end_epoch")
        return any(getattr(kind, name) is not getattr(Objective, name) for name in hooks)

    def begin(self, start: TrainingStart) -> None:
        """Prepare for a training: called once, before its optimiser is made."""

    def end_step(self) -> None:
        """Called after the parameters have moved."""

    def end_epoch(self, head: Head) -> None:
        """Called after each epoch, without gradients and with the head in evaluation mode."""

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
        if batch.other_labels is None:
            weights = self.mean_weights(batch, progress).to(logits.dtype)
            return self.loss(logits, batch.labels) @ weights
        first, second = (
            part.fraction * self.mean_loss(logits, part.batch, progress)
            for part in batch.by_label()
        )
        return first + second

    def mean_weights(self, batch: TrainingBatch, progress: float) -> Tensor:
        """Return row weights (N,) that sum to 1: sample weights times class weights in force."""
        by_class = self.loss.weights_at(progress)
        if by_class is None:
            return self.sample_weights(batch)
        weights = by_class[batch.labels]
        if batch.weights is not None:
            weights = weights * batch.weights
        return weights / weights.sum().clamp(min=_LEAST)

    def sample_weights(self, batch: TrainingBatch) -> Tensor:
        """Return the sample weights alone, (N,), made to sum to 1."""
        rows = len(batch.labels)
        if batch.weights is None:
            return torch.full((rows,), 1 / rows, dtype=torch.float64, device=batch.labels.device)
        return batch.weights / batch.weights.sum().clamp(min=_LEAST)

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
