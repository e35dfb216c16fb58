"""Rows to train or to choose on, and the slice that stands in for a missing validation split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltcache.errors import FitError
from ltcache.fit.composites import CompositeRows
from ltcache.fit.row_features import RowFeatures
from ltcache.heads import FeatureTransform
from ltcache.records import one_line

SHARE = 0.1
LEAST = 5  # a class with fewer rows gives none away


@one_line
@dataclass(frozen=True, eq=False)
class LabelledRows:
    """Features with their labels.

    Args:
        row_features: float32 (N, D), or (N, T, D) of tokens; kept as :class:`RowFeatures`.
        labels: int64 (N,).
        weights: sample weights (N,), or None for equal ones.
        units: which rows show the same thing, (N,), any dtype; None: every row is its own.
        images: which rows are crops of one image, int64 (N,); None: every row is an image.
        composites: of the rows with others of them, or None.

    Raises:
        FitError: shapes that do not fit, or features that are not finite.
    """

    row_features: RowFeatures
    labels: Tensor
    weights: Tensor | None
    units: np.ndarray | None
    images: Tensor | None
    composites: CompositeRows | None

    def __init__(
        self,
        row_features: Tensor | RowFeatures,
        labels: Tensor,
        weights: Tensor | None = None,
        units: np.ndarray | None = None,
        images: Tensor | None = None,
        composites: CompositeRows | None = None,
    ) -> None:
        if isinstance(row_features, Tensor):
            row_features = RowFeatures(row_features)
        given, rows = (labels, weights, units, images, composites), len(row_features)
        for field, value in zip(fields(self), (row_features, *given), strict=True):
            object.__setattr__(self, field.name, value)
            if value is not None and len(value) != rows:
                raise FitError(f"{len(value)} {field.name} for {rows} rows of features")
        if row_features.copied:
            _require_finite(row_features.stored)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def features(self) -> Tensor:
        """All features, (N, D): a copy of large ones that are not stored as they are, so that who
        needs some of them asks ``row_features``."""
        return self.row_features.whole()

    @property
    def device(self) -> torch.device:
        """Where the features are."""
        return self.row_features.device

    def take(self, index: Tensor) -> LabelledRows:
        """Return some rows; composites only with each other."""
        row_features, made = self.row_features.take(index), self.composites
        return LabelledRows(
            row_features,
            self.labels[index],
            None if self.weights is None else self.weights[index],
            None if self.units is None else self.units[index.cpu().numpy()],
            None if self.images is None else self.images[index.to(self.images.device)],
            None if made is None else made.take(index, row_features.whole()),
        )

    def to(self, device: torch.device) -> LabelledRows:
        """Return the rows on a device."""
        weights = None if self.weights is None else self.weights.to(device)
        row_features, labels = self.row_features.to(device), self.labels.to(device)
        composites = None if self.composites is None else self.composites.to(device)
        return LabelledRows(row_features, labels, weights, self.units, self.images, composites)

    def transformed(self, transform: FeatureTransform) -> LabelledRows:
        """Return the rows and their composites with their features mapped, (n, D) to (n, D')."""
        if transform.kind == "none":
            return self
        composites = self.composites
        return replace(
            self,
            row_features=self.row_features.mapped(transform),
            composites=None if composites is None else composites.transformed(transform),
        )

    def image_counts(self) -> np.ndarray:
        """Return the images of each class, however many crops of them there are, (C,), int64."""
        labels = self.labels.cpu().numpy()
        if self.images is None:
            return np.bincount(labels)
        _, first = np.unique(self.images.cpu().numpy(), return_index=True)
        return np.bincount(labels[first])

    def with_image_rows(self, others: int) -> Tensor | None:
        """Return ``images`` with ``others`` more rows, each an image of its own."""
        if self.images is None:
            return None
        first = int(self.images.max()) + 1 if len(self.images) else 0
        more = torch.arange(first, first + others, device=self.images.device)
        return torch.cat([self.images, more])

    def with_unit_rows(self, others: np.ndarray) -> np.ndarray | None:
        """Return ``units`` with those of more rows, (m,) from 0, which are none of these."""
        if self.units is None:
            return None
        _, own = np.unique(self.units, return_inverse=True)
        return np.concatenate([own, own.max(initial=-1) + 1 + others])


def _require_finite(features: Tensor) -> None:
    if not len(features):
        return
    bad = ~torch.isfinite(features.flatten(1).sum(dim=1))
    if bool(bad.any()):
        raise FitError(f"features of row {int(bad.nonzero()[0])} are not finite")


def require_classes(class_counts: Any, names: Sequence[Any] | np.ndarray | None = None) -> None:
    """Refuse rows that nobody can learn classes from; every kind of training asks here.

    Args:
        class_counts: training rows of each class, or their weight, (C,); some may be 0.
        names: of the classes; None: their numbers.

    Raises:
        FitError: there are no rows, or all are of one class.
    """
    present = np.flatnonzero(np.asarray(class_counts) > 0)
    if not len(present):
        raise FitError("there are no labelled training rows")
    if len(present) == 1:
        only = f"label {present[0]}" if names is None else str(names[present[0]])
        raise FitError(f"all training rows are of one class, {only}; at least 2 are needed")


def hold_out(rows: LabelledRows, seed: int = 0) -> tuple[Tensor, Tensor] | None:
    """Split off a stratified tenth: whole units, at least one of each class with 5 rows or more.

    A class with a single unit gives none away. Units go only if they leave every class that has
    rows in them at least as many as they take; a unit of several classes counts for each of them.

    Returns:
        Row numbers to train on and to choose on, or None where no class can give any.
    """
    rng = np.random.default_rng(seed)
    labels = rows.labels.cpu().numpy()
    units = np.arange(len(labels)) if rows.units is None else np.asarray(rows.units)
    _, unit = np.unique(units, return_inverse=True)
    by_unit, ends = np.argsort(unit, kind="stable"), np.cumsum(np.bincount(unit))
    first = np.concatenate([[0], ends])  # of the rows of each unit
    sizes = np.bincount(labels)
    given, held = np.zeros_like(sizes), np.zeros(len(ends), dtype=bool)
    for label in np.flatnonzero(sizes):
        names = rng.permutation(np.unique(unit[labels == label]))
        if sizes[label] < LEAST or len(names) < 2:
            continue
        more = max(1, round(SHARE * len(names))) - int(held[names].sum())
        chosen = names[~held[names]][: max(0, more)]
        if not len(chosen):  # other classes have given what this one has to give
            continue
        taken = np.concatenate([by_unit[first[name] : first[name + 1]] for name in chosen])
        gone = given + np.bincount(labels[taken], minlength=len(sizes))
        if np.where(sizes < LEAST, gone == 0, 2 * gone <= sizes).all():
            given, held[chosen] = gone, True
    choose = held[unit]
    if not choose.any():
        return None
    return torch.from_numpy(np.flatnonzero(~choose)), torch.from_numpy(np.flatnonzero(choose))
