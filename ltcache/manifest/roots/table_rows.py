"""Images in rows of tables: what Parquet files and saved datasets have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa

from ltcache.errors import ImageError
from ltcache.manifest.roots.limits import check_size


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
