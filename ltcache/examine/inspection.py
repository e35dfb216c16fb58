"""What a manifest holds, as one value: the library function behind ``ltcache inspect``."""

from __future__ import annotations

from typing import Any

import numpy as np

from ltcache.manifest import Manifest, missing_files
from ltcache.metrics import GroupScheme

GROUP_ORDER = ("many", "medium", "few", "-")


def describe(manifest: Manifest, *, check_files: bool = True) -> dict[str, Any]:
    """Return a summary of a manifest as a value for JSON.

    Args:
        check_files: look for every image; left out where the manifest has no root.

    Returns:
        name, title, num_rows, num_classes, splits (split -> see `describe_split`), counted_on (the
        split that groups and imbalance are counted on: train, else the first one with labels, else
        None), groups ({scheme, sizes: group -> classes} or None), imbalance_ratio (largest over
        smallest class that is not empty, or None), missing ({count, total, first, hint} or None),
        templates, columns carried along, warnings.

    Raises:
        ManifestError: the manifest's groups are not a scheme, or its root cannot be read.
    """
    counted_on = _counted_on(manifest)
    counts = manifest.class_counts(counted_on) if counted_on else np.zeros(0, dtype=np.int64)
    return {
        "name": manifest.name,
        "title": manifest.card.get("title"),
        "num_rows": len(manifest),
        "num_classes": manifest.num_classes,
        "splits": {split: describe_split(manifest, split) for split in manifest.splits},
        "counted_on": counted_on,
        "groups": _groups(manifest, counts),
        "imbalance_ratio": _imbalance_ratio(counts),
        "missing": _missing(manifest) if check_files and manifest.root is not None else None,
        "templates": list(manifest.templates),
        "columns": manifest.rows.column_names[5:],
        "warnings": list(manifest.warnings),
    }


def describe_split(manifest: Manifest, split: str) -> dict[str, Any]:
    """Return rows, labelled, and over the classes: max, min, median, empty (labels without rows).

    max, min and median are None in a split without labels; min and median count empty classes.
    """
    labels = manifest.labels(split)
    counts = manifest.class_counts(split)
    labelled = int((labels >= 0).sum())
    known = labelled > 0
    return {
        "rows": len(labels),
        "labelled": labelled,
        "max": int(counts.max()) if known else None,
        "min": int(counts.min()) if known else None,
        "median": float(np.median(counts)) if known else None,
        "empty": np.flatnonzero(counts == 0).tolist() if known else [],
    }


def _counted_on(manifest: Manifest) -> str | None:
    """Return the split that groups are made from: train, else the first with labels."""
    labelled = [split for split in manifest.splits if (manifest.labels(split) >= 0).any()]
    return labelled[0] if labelled else None


def _groups(manifest: Manifest, counts: np.ndarray) -> dict[str, Any] | None:
    if not len(counts):
        return None
    scheme = GroupScheme.from_dict(manifest.groups)
    assigned = scheme.assign(counts)
    sizes = {group: int((assigned == group).sum()) for group in GROUP_ORDER}
    if not sizes["-"]:
        del sizes["-"]
    return {"scheme": scheme.describe(), "sizes": sizes}


def _imbalance_ratio(counts: np.ndarray) -> float | None:
    filled = counts[counts > 0]
    return float(filled.max() / filled.min()) if len(filled) else None


def _missing(manifest: Manifest) -> dict[str, Any]:
    found = missing_files(manifest)
    return {
        "count": found.count,
        "total": found.total,
        "first": list(found.first),
        "hint": found.hint,
    }
