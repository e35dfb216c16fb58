"""Losses of neighbouring runs as one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ltcache.fit.stages import StageTraining
from ltcache.fit.together.runs_alike import (
    adds_offset,
    fingerprint_of,
    has_state,
    is_noisy,
    is_weighted,
)
from ltcache.fit.together.stacked_heads import spans
from ltcache.losses import Loss, offset_cross_entropy_
from ltcache.objectives import Objective, TrainingBatch, WeightedMean
from ltcache.records import one_line


@one_line
@dataclass(frozen=True, eq=False)
class LossGroup:
    """Neighbouring runs whose losses are one call.

    Attributes:
        offsets: of cross entropies with an offset, (r, 1, C), or None for no offset.
    """

    span: slice
    objectives: Sequence[Objective]
    offsets: Tensor | None

    @staticmethod
    def kind(training: StageTraining) -> tuple[str, str, str]:
        """Return what runs share whose losses are one call: cross entropies with any offset, or
        equal losses without state and noise."""
        loss, weighted = training.objective.loss, is_weighted(training)
        if adds_offset(loss):
            return ("offset", str(weighted), "")
        if has_state(loss) or is_noisy(loss):
            return ("alone", str(weighted), str(id(loss)))
        return ("equal", str(weighted), fingerprint_of(loss, training.stage.loss_options))

    @classmethod
    def of(cls, trainings: Sequence[StageTraining]) -> Iterator[LossGroup]:
        """Part runs, which lie in order of :meth:`kind`."""
        for _, span in spans([cls.kind(training) for training in trainings]):
            objectives = [training.objective for training in trainings[span]]
            losses = [objective.loss for objective in objectives]
            yield cls(span, objectives, _offsets(losses))

    def __call__(
        self, logits: Tensor, rows: Tensor, labels: Tensor, own: Tensor | None, progress: float
    ) -> Tensor:
        """Overwrite logits (r, B, C) by the gradient and return the objectives (r,)."""
        loss: Any = self.objectives[0].loss
        if has_state(loss):  # then it is the only one
            loss.observe(labels[0])
        weights = self.row_weights(rows, labels, own, progress)
        flat, targets, weight = logits.flatten(0, 1), labels.flatten(), weights.flatten()
        if adds_offset(loss):
            if self.offsets is not None:
                logits += self.offsets.to(logits.dtype)
            losses = offset_cross_entropy_(flat, targets, weight)
        else:
            losses, _ = loss.gradient(flat, targets, weight)
        return (losses.view(labels.shape) * weights.to(losses.dtype)).sum(dim=1)

    def shared(self, logits: Tensor, labels: Tensor, weights: Tensor, settings: int) -> Tensor:
        """Overwrite logits (S, B, K C) by the gradient and return the objectives (S K,).

        Args:
            labels, weights: of each run, (S K, B).
        """
        seeds, batch, _ = logits.shape
        wide = logits.view(seeds, batch, settings, -1)
        if self.offsets is not None:
            wide += self.offsets.to(logits.dtype).view(seeds, 1, settings, -1)
        turned = [
            t.view(seeds, settings, batch).transpose(1, 2).flatten() for t in (labels, weights)
        ]
        losses = offset_cross_entropy_(wide.view(len(turned[0]), -1), *turned)
        values = (losses * turned[1].to(losses.dtype)).view(seeds, batch, settings)
        return values.sum(dim=1).flatten()

    def row_weights(
        self, rows: Tensor, labels: Tensor, own: Tensor | None, progress: float
    ) -> Tensor:
        """Return :meth:`Objective.row_weights` of each run, (r, B)."""
        tables = [objective.loss.weights_at(progress) for objective in self.objectives]
        if all(type(objective) is WeightedMean for objective in self.objectives):
            there = [table for table in tables if table is not None]
            if not there and own is None:
                return torch.full(labels.shape, 1 / labels.shape[1], device=labels.device)
            if len(there) in (0, len(tables)):
                weights = own
                if there:
                    by_class = torch.stack(there).gather(1, labels)
                    weights = by_class if own is None else own * by_class
                assert weights is not None
                return weights / weights.sum(dim=1, keepdim=True)
        found = []
        for run, objective in enumerate(self.objectives):
            batch = TrainingBatch(rows[run], labels[run], None if own is None else own[run])
            weights = objective.row_weights(batch, progress)
            assert weights is not None
            found.append(weights)
        return torch.stack(found)


def _offsets(losses: Sequence[Loss]) -> Tensor | None:
    """Return the offsets of cross entropies, (r, 1, C), zero where one has none."""
    found = [getattr(loss, "offset", None) for loss in losses]
    if not adds_offset(losses[0]) or all(offset is None for offset in found):
        return None
    none = torch.zeros_like(losses[0].prior)
    return torch.stack([none if offset is None else offset for offset in found])[:, None]
