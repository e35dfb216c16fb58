"""What a manifest holds, as one value: the library function behind ``ltcache inspect``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from ltcache.cache import SharedContent, compared_splits, shared_content
from ltcache.extract import hash_images
from ltcache.manifest import Manifest, MissingFiles, missing_files, recipe_of, whole_texts
from ltcache.metrics import GroupScheme
from ltcache.process import usable_processors
from ltcache.records import JsonObject, JsonRecord, plain_json

SHA256 = "sha256"
GROUP_ORDER = ("many", "medium", "few", "-")


@dataclass(frozen=True)
class SplitSummary:
    """Rows and labelled rows of a split, and rows of its classes.

    Attributes:
        max, min, median: None in a split without labels; min and median count empty classes.
        empty: labels without rows.
    """

    rows: int
    labelled: int
    max: int | None
    min: int | None
    median: float | None
    empty: tuple[int, ...]


@dataclass(frozen=True)
class GroupSizes:
    """How classes are grouped, in words, and group -> classes."""

    scheme: str
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class ClassSizes:
    """A class, and how many labelled rows it has in each split with labels."""

    label: int
    name: str
    counts: Mapping[str, int]


@dataclass(frozen=True)
class ManifestSummary(JsonRecord):
    """What a manifest holds.

    Attributes:
        splitting: how ltcache made the splits, in words; None where it did not.
        counted_on: the split that sizes and imbalance are counted on: train, else the first one
            with labels, else None.
        groups: None without labelled training rows, which alone say what is many and few.
        imbalance_ratio: largest over smallest class that is not empty, or None.
        missing: None where images were not looked for.
        columns: that are carried along.
        classes: all of them, in label order.
        copies: images that are another one byte for byte; None where no content is known.
        shared: those that stand in two splits.
    """

    name: str
    title: str | None
    num_rows: int
    num_classes: int
    splits: Mapping[str, SplitSummary]
    splitting: str | None
    counted_on: str | None
    groups: GroupSizes | None
    imbalance_ratio: float | None
    missing: MissingFiles | None
    templates: tuple[str, ...]
    columns: tuple[str, ...]
    classes: tuple[ClassSizes, ...]
    copies: int | None
    shared: tuple[SharedContent, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> JsonObject:
        """Return plain JSON, without the root of missing images."""
        if self.missing is None:
            return super().to_dict()
        found, names = self.missing, ("count", "total", "first", "hint")
        missing = {name: plain_json(getattr(found, name)) for name in names}
        return {**replace(self, missing=None).to_dict(), "missing": missing}


def describe(
    manifest: Manifest, *, check_files: bool = True, read_files: bool = False
) -> ManifestSummary:
    """Return a summary of a manifest.

    Args:
        check_files: look for every image; left out where the manifest has no root.
        read_files: read every image, to find copies; rows of a cache have their content already.

    Raises:
        ManifestError: the manifest's groups are not a scheme, or its root cannot be read.
    """
    rows = manifest.rows
    if read_files:
        content = hash_images(manifest.root, whole_texts(rows["uri"]), usable_processors())
        rows = rows.append_column(SHA256, content)
    counted_on, recipe = _counted_on(manifest), recipe_of(manifest)
    counts = manifest.class_counts(counted_on) if counted_on else np.zeros(0, dtype=np.int64)
    return ManifestSummary(
        name=manifest.name,
        title=manifest.card.get("title"),
        num_rows=len(manifest),
        num_classes=manifest.num_classes,
        splits={split: _split(manifest, split) for split in manifest.splits},
        splitting=None if recipe is None else recipe.describe(),
        counted_on=counted_on,
        groups=_groups(manifest, counts) if counted_on == "train" else None,
        imbalance_ratio=_imbalance_ratio(counts),
        missing=missing_files(manifest) if check_files and manifest.root is not None else None,
        templates=tuple(manifest.templates),
        columns=tuple(manifest.rows.column_names[5:]),
        classes=_classes(manifest),
        copies=_copies(rows),
        shared=shared_content(rows, compared_splits(manifest.splits)),
        warnings=tuple(manifest.warnings),
    )


def _split(manifest: Manifest, split: str) -> SplitSummary:
    labels = manifest.labels(split)
    counts = manifest.class_counts(split)
    labelled = int((labels >= 0).sum())
    if not labelled:
        return SplitSummary(len(labels), 0, None, None, None, ())
    empty = tuple(np.flatnonzero(counts == 0).tolist())
    most, least, median = int(counts.max()), int(counts.min()), float(np.median(counts))
    return SplitSummary(len(labels), labelled, most, least, median, empty)


def _counted_on(manifest: Manifest) -> str | None:
    """Return the split that groups are made from: train, else the first with labels."""
    labelled = [split for split in manifest.splits if (manifest.labels(split) >= 0).any()]
    return labelled[0] if labelled else None


def _classes(manifest: Manifest) -> tuple[ClassSizes, ...]:
    labelled = [split for split in manifest.splits if (manifest.labels(split) >= 0).any()]
    counts = {split: manifest.class_counts(split).tolist() for split in labelled}
    return tuple(
        ClassSizes(label, name, {split: counts[split][label] for split in labelled})
        for label, name in enumerate(manifest.classes.names)
    )


def _copies(rows: pa.Table) -> int | None:
    if SHA256 not in rows.column_names:
        return None
    known = [sha for sha in rows[SHA256].to_pylist() if sha]
    return len(known) - len(set(known)) if known else None


def _groups(manifest: Manifest, counts: np.ndarray) -> GroupSizes | None:
    if not len(counts):
        return None
    scheme = GroupScheme.from_dict(manifest.groups)
    assigned = scheme.assign(counts)
    sizes = {group: int((assigned == group).sum()) for group in GROUP_ORDER}
    if not sizes["-"]:
        del sizes["-"]
    return GroupSizes(scheme.describe(), sizes)


def _imbalance_ratio(counts: np.ndarray) -> float | None:
    filled = counts[counts > 0]
    return float(filled.max() / filled.min()) if len(filled) else None
