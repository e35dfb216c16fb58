"""What a reader hands over, and how it becomes a manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.errors import ManifestError, UsageError
from ltcache.manifest.absolute_paths import relative_to_root
from ltcache.manifest.classes import ClassList
from ltcache.manifest.long_texts import whole_table
from ltcache.manifest.manifest import DEFAULT_TEMPLATES, Manifest
from ltcache.manifest.matching import resolve_labels
from ltcache.manifest.named_folders import misnamed_classes
from ltcache.manifest.roots.places import Root
from ltcache.manifest.rows import Listing, build_rows
from ltcache.manifest.splits import canonical_split
from ltcache.manifest.text import some
from ltcache.records import one_line


@dataclass(frozen=True)
class ManifestRequest:
    """What the caller of `read_manifest` said besides the source."""

    root: Root | None = None
    classes: ClassList | Path | None = None
    labelled: bool | None = None
    verify_images: bool = False
    label_column: str | None = None

    def refuse_label_column(self, where: object) -> None:
        """Refuse the name of a column of labels for a source that has no columns.

        Raises:
            ManifestError: one was named.
        """
        if self.label_column is not None:
            raise ManifestError(
                f"{where}: only tables, saved data sets and tar shards have a column "
                f"{self.label_column!r} to take labels from; leave out --label-column"
            )


@one_line
@dataclass(frozen=True)
class SourceDraft:
    """A source as read: lists, and the class list where the source has one."""

    name: str
    listings: Sequence[Listing]
    root: Root | None
    classes: ClassList | None = None
    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    groups: Mapping[str, Any] | None = None
    descriptions: Mapping[int, tuple[str, ...]] | None = None
    card: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def finish(draft: SourceDraft, request: ManifestRequest, splits: Sequence[str] | None) -> Manifest:
    """Return the manifest of a draft: labels resolved, rows checked, splits chosen.

    Raises:
        ManifestError: a row breaks a rule (names file and line).
        UsageError: ``splits`` names one that the source has not.
    """
    root = request.root or draft.root
    listings = relative_to_root(draft.listings, root)
    if request.labelled is False:
        listings = [replace(item, labels=_unlabelled(len(item.uris))) for item in listings]
    resolved = resolve_labels(listings, draft.classes)
    classes = resolved.classes
    manifest = Manifest(
        name=draft.name,
        rows=build_rows(resolved.listings, len(classes)),
        classes=classes,
        templates=draft.templates,
        groups=draft.groups,
        descriptions=draft.descriptions,
        card={**draft.card, **resolved.card},
        root=root,
    )
    if splits is not None:
        manifest = choose_splits(manifest, splits)
    if request.labelled and (manifest.labels() < 0).any():
        count = int((manifest.labels() < 0).sum())
        raise ManifestError(f"{draft.name}: {count} of {len(manifest)} rows have no label")
    return replace(manifest, warnings=(*draft.warnings, *resolved.notes, *notice(manifest)))


def choose_splits(manifest: Manifest, splits: Sequence[str]) -> Manifest:
    """Return the manifest with the rows of some splits only; keys and classes stay."""
    wanted = {canonical_split(split) for split in splits}
    if unknown := sorted(wanted - set(manifest.splits)):
        raise UsageError(
            f"{manifest.name} has no split {some(unknown)}; it has {some(manifest.splits, 20)}"
        )
    chosen = pc.is_in(manifest.rows["split"], pa.array(sorted(wanted), pa.string()))
    rows = manifest.rows.filter(chosen)
    numbers = np.arange(rows.num_rows, dtype=np.int64)
    rows = whole_table(rows.set_column(0, "row_id", [numbers]))
    return replace(manifest, rows=rows)


def notice(manifest: Manifest) -> list[str]:
    """Return a sentence for everything about the rows that a user should know."""
    found = manifest.classes.warnings()
    for split in manifest.splits:
        labels = manifest.labels(split)
        unlabelled = int((labels < 0).sum())
        if 0 < unlabelled < len(labels):
            found.append(
                f"{unlabelled} of {len(labels)} rows of the split {split!r} are unlabelled"
            )
        if unlabelled < len(labels):
            found += _missing_classes(manifest, split)
    uris = manifest.rows["uri"]
    found += misnamed_classes(uris, manifest.labels(), manifest.classes)
    if manifest.rows["key"].equals(uris):  # a key comes once
        return found
    if repeated := len(manifest) - pc.count_distinct(uris).as_py():
        found.append(f"{repeated} image(s) are in more than one split; their keys are SPLIT/PATH")
    return found


def _missing_classes(manifest: Manifest, split: str) -> list[str]:
    empty = np.flatnonzero(manifest.class_counts(split) == 0)
    if not len(empty):
        return []
    shown = some(f"{label} ({manifest.classes.names[label]})" for label in empty)
    return [f"{len(empty)} class(es) have no image in the split {split!r}: {shown}"]


def _unlabelled(count: int) -> np.ndarray:
    return np.full(count, -1, dtype=np.int64)
