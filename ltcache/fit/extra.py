"""Rows that join the training split only, such as images that a retrieval chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltcache.errors import FitError
from ltcache.fit.rows import LabelledRows
from ltcache.heads import HeadContext
from ltcache.records import JsonObject, digest, one_line


@one_line
@dataclass(frozen=True, eq=False)
class ExtraRows:
    """Features with labels that nobody has checked.

    They train, with their weights in the loss and in the class prior; they neither choose epochs
    nor count in the groups, which follow the labelled images.

    Args:
        features: field -> float32 (m, v, D), as a cache gives them.
        labels: int64 (m,), in the classes of the cache. weights: float32 (m,); 1 is an image.
        identities: ``encoder`` and ``classes`` of what the rows were made for, and ``rows``, the
            digest of its list, where guards have kept the rows apart from its images.
        record: what is to stand in run.json of where they come from.
    """

    features: Mapping[str, np.ndarray]
    labels: np.ndarray
    weights: np.ndarray
    identities: Mapping[str, Any]
    record: Mapping[str, Any] = field(default_factory=dict)

    def rows(self, name: str, crops: int) -> LabelledRows:
        """Return the rows of a field; each crop is a row.

        Args:
            crops: rows that a training image is; an extra image of weight 1 weighs as much,
                whatever crops of it there are.

        Raises:
            FitError: there is no such field.
        """
        if name not in self.features:
            raise FitError(
                f"the extra rows have no field {name!r}, only {', '.join(self.features)}: extract "
                "their pool with it, or override feature.field"
            )
        values = np.asarray(self.features[name], dtype=np.float32)
        own = values.shape[1]
        weights = self.weights.astype(np.float32) * np.float32(crops / own)
        return LabelledRows(
            torch.from_numpy(np.ascontiguousarray(values.reshape(-1, *values.shape[2:]))),
            torch.from_numpy(np.repeat(self.labels.astype(np.int64), own)),
            torch.from_numpy(np.repeat(weights, own)),
            np.repeat(np.arange(len(self.labels)), own),
        )

    def counts(self, num_classes: int) -> Tensor:
        """Return the effective number of images of each class, (C,), float64."""
        found = np.bincount(self.labels, weights=self.weights, minlength=num_classes)
        return torch.from_numpy(found)

    def counted_in(self, context: HeadContext) -> HeadContext:
        """Return a context whose class counts know of the rows."""
        counts = context.class_counts
        return replace(context, class_counts=counts + self.counts(len(counts)))

    def to_dict(self) -> JsonObject:
        """Return the record with how many rows there are and a digest of labels and weights."""
        content = digest([self.labels.tolist(), np.round(self.weights, 6).tolist()])
        total = float(self.weights.sum())
        return {**self.record, "rows": len(self.labels), "weight": total, "digest": content}


def trained_labels(rows: LabelledRows, extra: LabelledRows | None) -> Tensor:
    """Return the labels of labelled rows and of extra ones, (N,)."""
    return rows.labels if extra is None else torch.cat([rows.labels, extra.labels.to(rows.device)])


def with_extra_rows(rows: LabelledRows, extra: LabelledRows | None) -> LabelledRows:
    """Return labelled rows and extra ones; a labelled row weighs 1 where nothing else is said."""
    if extra is None or not len(extra):
        return rows
    extra = extra.to(rows.device)
    assert extra.weights is not None
    own = np.arange(len(extra)) if extra.units is None else extra.units
    ones = torch.ones(len(rows), device=extra.weights.device)
    weights = ones if rows.weights is None else rows.weights
    return LabelledRows(
        torch.cat([rows.features, extra.features]),
        torch.cat([rows.labels, extra.labels]),
        torch.cat([weights, extra.weights]),
        rows.with_unit_rows(own),
        rows.with_image_rows(len(extra)),
        rows.composites and rows.composites.with_plain(extra.features),
    )
