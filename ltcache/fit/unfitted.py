"""Whether a head has fitted the very rows that it was trained on.

The yardstick is the nearest class mean of the same rows, which takes one pass and no step. Hard
rows lower both. A head far below it in overall accuracy and in mean accuracy per class was not
trained to the end: one that leans to frequent classes keeps the first, one that balances them the
second. Far is a fifth: noise on the logits and margins cost up to a tenth on overlapping classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ltcache.errors import FitError, UnfittedWarning
from ltcache.fit.rows import LabelledRows
from ltcache.heads import Head, predicted_labels, sums_by_class
from ltcache.records import JsonObject, JsonRecord, read_record

if TYPE_CHECKING:
    from ltcache.runs import Run

_BLOCK = 2048  # rows scored at once
_FAR = 0.8  # of what the class means have right


@dataclass(frozen=True)
class TrainingFit(JsonRecord):
    """How well a head knows its own training rows.

    Attributes:
        overall, mean_per_class: share of the training rows that the head has right, of all rows
            and averaged over classes; of weighted rows by weight.
        nearest_mean_overall, nearest_mean_per_class: the same of the nearest class mean.
        steps: gradient steps that made the head, in the stage that trained it last.
    """

    overall: float
    mean_per_class: float
    nearest_mean_overall: float
    nearest_mean_per_class: float
    steps: int

    @property
    def unfitted(self) -> bool:
        """Whether the head knows its rows far less than their class means do, in both scores."""
        return (
            self.overall < _FAR * self.nearest_mean_overall
            and self.mean_per_class < _FAR * self.nearest_mean_per_class
        )

    def to_dict(self) -> JsonObject:
        """Return plain JSON."""
        return {**super().to_dict(), "unfitted": self.unfitted}

    def words(self, name: str) -> str:
        """Return what is said of a head that is unfitted; ``name`` is the method's."""
        return (
            f"{name} ended before it had fitted its own training rows: it has "
            f"{100 * self.overall:.1f} % of them right, {100 * self.mean_per_class:.1f} % per "
            f"class, where their class means have {100 * self.nearest_mean_overall:.1f} % and "
            f"{100 * self.nearest_mean_per_class:.1f} %, after {self.steps} gradient steps; "
            "raise optimisation.epochs, or optimisation.lr"
        )

    def warn(self, name: str) -> None:
        """Warn of a head that is unfitted; ``name`` is the method's."""
        if self.unfitted:
            warnings.warn(self.words(name), UnfittedWarning, stacklevel=2)


def recorded_fit(run: Run) -> TrainingFit | None:
    """Return how well a run's head knows its training rows; None where nothing was trained, and in
    the records of versions that did not look.

    Raises:
        FitError: a later version wrote it, or it is damaged.
    """
    if run.record.training is None:
        return None
    try:
        return read_record(
            TrainingFit, run.record.training, name=f"{run.path}/run.json", beside=("unfitted",)
        )
    except ValueError as error:
        raise FitError(str(error)) from None


def warn_of_training(run: Run) -> None:
    """Warn of a run's head that is unfitted, as its fit did.

    Raises:
        FitError: see :func:`recorded_fit`.
    """
    if (training := recorded_fit(run)) is not None:
        training.warn(run.method.name)


@torch.no_grad()
def training_fit(head: Head, rows: LabelledRows, steps: int) -> TrainingFit:
    """Judge a head on the rows that trained it.

    Args:
        head: on the device of the rows. rows: as the head takes them, transformed.
        steps: see :class:`TrainingFit`.
    """
    own = torch.empty_like(rows.labels)
    for where, part in rows.row_features.blocks(_BLOCK):
        own[where] = predicted_labels(head(part))
    means = _nearest_mean(rows, head.num_classes)
    return TrainingFit(*_scores(own, rows), *_scores(means, rows), steps)


def _nearest_mean(rows: LabelledRows, num_classes: int) -> Tensor:
    """Return the class whose mean is nearest to each row, (N,); tokens are averaged."""
    mean = torch.zeros((), dtype=torch.float64, device=rows.device)
    for _, part in _vectors(rows):
        mean = mean + part.sum(dim=0) / len(rows)

    def centred() -> Iterator[tuple[slice, Tensor]]:
        return ((where, F.normalize(p - mean.to(p), dim=1)) for where, p in _vectors(rows))

    means = torch.zeros(num_classes, len(mean), dtype=rows.row_features.dtype, device=rows.device)
    for where, part in centred():
        means += sums_by_class(part, rows.labels[where], num_classes)
    there = torch.unique(rows.labels)
    means = F.normalize(means[there], dim=1)
    found = torch.empty_like(rows.labels)
    for where, part in centred():
        found[where] = there[predicted_labels(part @ means.T)]
    return found


def _vectors(rows: LabelledRows) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of rows and their features (n, D)."""
    for where, part in rows.row_features.blocks(_BLOCK):
        yield where, part if part.ndim == 2 else part.mean(dim=1)


def _scores(predicted: Tensor, rows: LabelledRows) -> tuple[float, float]:
    """Return overall accuracy and mean accuracy per class, rows weighing what they weigh."""
    weights = torch.ones(len(rows)) if rows.weights is None else rows.weights.cpu()
    labels, weights = rows.labels.cpu(), weights.double()
    hits = weights * (predicted.cpu() == labels)
    total = torch.bincount(labels, weights=weights)
    right = torch.bincount(labels, weights=hits)
    there = total > 0
    return float(hits.sum() / weights.sum()), float((right[there] / total[there]).mean())
