"""Datasets that Hugging Face's ``datasets`` saved to disk: rows only, nothing is executed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from ltcache.errors import ManifestError
from ltcache.extras import how_to_install
from ltcache.manifest.classes import ClassList
from ltcache.manifest.columns import TableColumns
from ltcache.manifest.draft import ManifestRequest, SourceDraft
from ltcache.manifest.names import read_classes
from ltcache.manifest.parquet import image_column
from ltcache.manifest.rows import Listing
from ltcache.manifest.splits import canonical_split
from ltcache.manifest.tables import known_rows
from ltcache.manifest.text import some


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
    values = {name.lower(): rows[name].combine_chunks() for name in rows.column_names}
    uris = [f"{split}/{row}" for row in range(len(dataset))]
    named = {
        name.lower(): tuple(names)
        for name, feature in dataset.features.items()
        if (names := getattr(feature, "names", None))
    }
    columns = TableColumns(values, range(len(dataset)), named)
    return known_rows(
        str(path / split), columns, values, uris, request, split=canonical_split(split)
    )


def _classes(path: Path, request: ManifestRequest) -> ClassList | None:
    if isinstance(request.classes, ClassList) or request.classes is None:
        return request.classes
    return read_classes(request.classes, dataset=path.name)


def saved_splits(path: Path) -> Mapping[str, Any]:
    """Return split -> ``datasets.Dataset`` of a folder that ``save_to_disk`` made.

    Raises:
        ManifestError: ``datasets`` is not installed, or the folder is damaged.
    """
    return _loaded(path.resolve())


@lru_cache(maxsize=8)
def _loaded(path: Path) -> Mapping[str, Any]:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise ManifestError(
            f"{path}: saved Hugging Face datasets need 'datasets': {how_to_install('hf')}"
        ) from None
    try:
        loaded = datasets.load_from_disk(str(path))
        if not isinstance(loaded, dict):
            loaded = {str(loaded.split or "train"): loaded}
        return {name: part.with_format("arrow") for name, part in loaded.items()}
    except Exception as error:  # Arrow, JSON, key and type errors, according to what is damaged
        raise ManifestError(f"{path}: cannot be read as a saved dataset: {error}") from None


def saved_image_column(path: Path, dataset: Any) -> str:
    """Return the column of a dataset that holds encoded images.

    Raises:
        ManifestError: there is none.
    """
    schema: pa.Schema = dataset.features.arrow_schema
    column = image_column(schema)
    if column is None:
        raise ManifestError(f"{path}: no column of images among {some(schema.names, 12)}")
    return column
