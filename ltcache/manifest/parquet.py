"""Parquet tables that hold the images themselves, as Hugging Face and others publish them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ltcache.errors import ManifestError
from ltcache.manifest.roots import Place, RemotePlace

_IMAGE_NAMES = ("image", "img", "images", "picture", "photo", "jpg", "jpeg", "png", "webp", "bytes")


def image_column(schema: pa.Schema) -> str | None:
    """Return the column that holds encoded images: ``struct{bytes, path}``, or binary by its name.

    Of several, the one with the most usual name.
    """
    found = [field.name for field in schema if _holds_images(field)]
    names = [name for name in _IMAGE_NAMES if name in found]
    return next(iter(names + found), None)


def _holds_images(field: pa.Field) -> bool:
    kind = field.type
    if pa.types.is_struct(kind):
        return any(inner.name == "bytes" and _is_binary(inner.type) for inner in kind)
    return _is_binary(kind) and field.name.lower() in _IMAGE_NAMES


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def open_parquet(place: Place) -> pq.ParquetFile:
    """Open a Parquet file by its footer.

    Raises:
        ManifestError: it is none, or cannot be read; names the file.
    """
    try:
        if isinstance(place, RemotePlace):
            return pq.ParquetFile(place.open())
        return pq.ParquetFile(place)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ManifestError(f"{place}: cannot be read as Parquet: {error}") from None


def num_rows(place: Place) -> int:
    """Return the number of rows of a Parquet file."""
    with open_parquet(place) as file:
        return int(file.metadata.num_rows)


def class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """Return the names that Hugging Face's metadata gives the labels of ``column``, or None."""
    metadata: Mapping[bytes, bytes] = schema.metadata or {}
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return label_names(features[column])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def label_names(feature: Any) -> list[str] | None:
    """Return the names of a ``ClassLabel`` in its JSON form, or None."""
    names = feature.get("names") if isinstance(feature, dict) else None
    if isinstance(names, dict):
        names = [names[str(label)] for label in range(len(names))]
    if isinstance(names, list) and names and all(isinstance(n, str) and n.strip() for n in names):
        return names
    return None
