"""The rows of datasets that Hugging Face's ``datasets`` saved to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from ltcache.manifest.classes import ClassList
from ltcache.manifest.columns import TableColumns
from ltcache.manifest.draft import ManifestRequest, SourceDraft
from ltcache.manifest.long_texts import numbered_texts, whole_texts
from ltcache.manifest.names import read_classes
from ltcache.manifest.roots.saved_datasets import saved_image_column, saved_splits
from ltcache.manifest.rows import Listing
from ltcache.manifest.splits import canonical_split
from ltcache.manifest.tables import known_rows


def read_saved(path: Path, request: ManifestRequest) -> SourceDraft:
    """Return the rows of a saved dataset as a draft; uris are ``SPLIT/ROW``.

    Raises:
        ManifestError: it has no images, or cannot be read.
    """
    splits = saved_splits(path)
    listings = [_listing(path, name, part, request) for name, part in splits.items()]
    return SourceDraft(path.resolve().name, listings, path, _classes(path, request))


def _listing(path: Path, split: str, dataset: Any, request: ManifestRequest) -> Listing:
    images = saved_image_column(path, dataset)
    rows = dataset.remove_columns([images])[:] if len(dataset.column_names) > 1 else pa.table({})
    values = {name.lower(): whole_texts(rows[name]) for name in rows.column_names}
    uris = numbered_texts(f"{split}/", len(dataset))
    named = {
        name.lower(): tuple(names)
        for name, feature in dataset.features.items()
        if (names := getattr(feature, "names", None))
    }
    spelled = {name.lower(): name for name in rows.column_names}
    columns = TableColumns(values, range(len(dataset)), named, spelled)
    return known_rows(
        str(path / split), columns, values, uris, request, split=canonical_split(split)
    )


def _classes(path: Path, request: ManifestRequest) -> ClassList | None:
    if isinstance(request.classes, ClassList) or request.classes is None:
        return request.classes
    return read_classes(request.classes, dataset=path.name)
