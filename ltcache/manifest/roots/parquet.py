"""Parquet tables that hold the images themselves, as Hugging Face and others publish them."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ltcache.errors import ImageError, ManifestError
from ltcache.manifest.roots.limits import check_size, stable_text
from ltcache.manifest.roots.places import Place, RemotePlace, places_of
from ltcache.manifest.roots.root_format import NamedFiles, RootFormat

_GROUPS = 2  # row groups that are kept: reading runs over a border
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


class ParquetRoot(RootFormat):
    """One .parquet file or several that hold the images in a column; its uris are rows."""

    suffixes = (".parquet", ".pq")
    several = True

    def parts(self) -> tuple[NamedFiles, ...]:
        """Return nothing: rows lie in no folders."""
        return ()

    @cached_property
    def index(self) -> dict[str, _ParquetImages]:
        """See :meth:`RootFormat.index`: the files by their names."""
        return {place.name: _ParquetImages(place) for place in places_of(self.root)}

    def read(self, uri: str) -> bytes:
        """See :meth:`RootFormat.read`."""
        name, row = row_of(uri)
        if name not in self.index:
            raise ImageError("No such table")
        return self.index[name].read(row)

    def contains(self) -> Callable[[str], bool]:
        """See :meth:`RootFormat.contains`."""
        return row_test({place.name: num_rows(place) for place in places_of(self.root)})


class _ParquetImages:
    """One Parquet file and the row groups of it that were read last."""

    def __init__(self, place: Place) -> None:
        self.place = place
        with open_parquet(place) as file:
            column = image_column(file.schema_arrow)
            metadata = file.metadata
        if column is None:
            raise ManifestError(f"{place}: no column of images (binary, or struct with bytes)")
        self._column = column
        self._ends: list[int] = []
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            self._ends.append(rows + (self._ends[-1] if self._ends else 0))
        self._lock = threading.Lock()
        self._groups: OrderedDict[int, pa.ChunkedArray] = OrderedDict()

    def read(self, row: int) -> bytes:
        """Return the bytes of one row."""
        group = next((g for g, end in enumerate(self._ends) if row < end), None)
        if group is None:
            raise ImageError("No such row in the table")
        start = self._ends[group - 1] if group else 0
        with self._lock:
            values = self._group(group)
        return image_bytes(values[row - start])

    def _group(self, group: int) -> pa.ChunkedArray:
        if group not in self._groups:
            try:
                with open_parquet(self.place) as file:
                    table = file.read_row_group(group, columns=[self._column])
            except (pa.ArrowException, OSError, ManifestError) as error:
                raise ImageError(stable_text(error)) from None
            self._groups[group] = table[self._column]
        self._groups.move_to_end(group)
        while len(self._groups) > _GROUPS:
            self._groups.popitem(last=False)
        return self._groups[group]


def row_of(uri: str) -> tuple[str, int]:
    """Return table and row of ``TABLE/12``."""
    table, _, number = uri.rpartition("/")
    if not number.isdecimal() or not number.isascii() or len(number) > 15:
        raise ImageError("not the name of a row: TABLE/NUMBER")
    return table, int(number)


def image_bytes(value: pa.Scalar) -> bytes:
    """Return the bytes of one image; a path in their place is not followed."""
    if isinstance(value, pa.StructScalar):
        value = value.get("bytes") if value.is_valid else None
    if value is None or not value.is_valid:
        raise ImageError("the row holds no image bytes; save the data with its images embedded")
    data = value.as_buffer()
    check_size(data.size)
    return bytes(data.to_pybytes())


def row_test(counts: Mapping[str, int]) -> Callable[[str], bool]:
    """Return a test for uris ``TABLE/12``, given the number of rows of each table."""

    def is_row(uri: str) -> bool:
        table, _, number = uri.rpartition("/")
        return number.isdecimal() and int(number) < counts.get(table, 0)

    return is_row
