"""Columns of a cache's rows as a result shows them, under the names that pools give them."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from ltcache.cache import Cache
from ltcache.errors import UsageError
from ltcache.manifest import whole_texts

_ALIASES = {
    "source": ("source", "vendor", "host", "provider"),
    "url": ("url", "image_url", "original_url"),
    "caption": ("caption", "text", "alt"),
    "licence": ("licence", "license"),
}


def has_column(cache: Cache, name: str) -> bool:
    """Return whether there is such a column, under any of its names."""
    return _column(cache, name) is not None


def _column(cache: Cache, name: str) -> str | None:
    columns = {column.lower(): column for column in cache.manifest.rows.column_names}
    return next((columns[a] for a in _ALIASES.get(name, (name,)) if a in columns), None)


def texts_of(cache: Cache, name: str, rows: np.ndarray) -> list[str]:
    """Return a column's texts for rows; "" where there is no column, no value or no row (-1)."""
    named = _column(cache, name)
    if named is None:
        return [""] * len(rows)
    column = whole_texts(cache.manifest.rows[named])
    values = column.take(pa.array(np.where(rows < 0, 0, rows))).to_pylist() if len(rows) else []
    return [
        "" if row < 0 or value is None else str(value)
        for row, value in zip(rows, values, strict=True)
    ]


def numbers_of(cache: Cache, name: str, rows: np.ndarray) -> np.ndarray:
    """Return a column's int64 numbers for rows; -1 where there is no row (-1)."""
    values = cache.manifest.rows[name].to_numpy(zero_copy_only=False)
    return np.where(rows < 0, -1, values[np.where(rows < 0, 0, rows)]).astype(np.int64)


def require_sources(pools: Sequence[Cache]) -> None:
    """Refuse pools of which none says where its images come from: no cap on a source would act.

    Raises:
        UsageError: with the columns that would.
    """
    if any(has_column(pool, name) for pool in pools for name in ("source", "url")):
        return
    places, known = ", ".join(str(pool.path) for pool in pools), ", ".join(_ALIASES["source"])
    raise UsageError(
        f"{places}: no column says where images come from ({known} or url), so that a cap on the "
        "images of a source (--per-source) would keep nothing out; name a column with "
        "--source-column, or leave it out"
    )


def sources_of(pool: Cache, rows: np.ndarray, name: str | None = None) -> list[str]:
    """Return where images come from: column ``name``, or the source, or else the url's host.

    Raises:
        UsageError: the pool has no such column.
    """
    if name is not None:
        if name not in pool.manifest.rows.column_names:
            raise UsageError(f"{pool.path}: the pool has no column {name!r}")
        return texts_of(pool, name, rows)
    found, urls = texts_of(pool, "source", rows), texts_of(pool, "url", rows)
    return [text or (urlsplit(url).hostname or "") for text, url in zip(found, urls, strict=True)]
