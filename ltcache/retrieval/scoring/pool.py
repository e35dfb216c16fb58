"""The pool: an unlabelled cache as a stream of blocks, in row order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from ltcache.cache import Cache, folder_of
from ltcache.errors import CacheError
from ltcache.images import is_composite
from ltcache.records import JsonObject, bytes_digest, digest
from ltcache.retrieval.scoring.queries import unit

EMBEDDING = "embedding"


class Pool(Protocol):
    """Images to choose from, such as :class:`CachedPool`."""

    @property
    def rows(self) -> np.ndarray:
        """Int64 (N,), ascending row numbers."""

    @property
    def dim(self) -> int:
        """D."""

    def blocks(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield row numbers (n,) and embeddings (n, D) of any length, n <= size, in row order."""

    def unit(self, rows: np.ndarray) -> np.ndarray:
        """Return float64 (n, D): unit embeddings of some rows."""

    def identity(self) -> JsonObject:
        """Return a value for JSON that differs where rows or embeddings do."""


class CachedPool:
    """The rows of a cache whose features exist, or of one split of it.

    Where a view has several crops, an image is the mean of its crops' unit embeddings.

    Raises:
        CacheError: no embedding, no such view or split, one of composites, or no usable row.
    """

    def __init__(self, cache: Cache, view: str = "center", split: str | None = None) -> None:
        self.cache = cache
        self.view = view
        self.rows = cache.rows(split)
        if is_composite(view):
            raise CacheError(
                f"{cache.path}: {view} is a view of composites, each of which shows two images: "
                "compare images by another view, such as center"
            )
        dims = cache.field_dims(view)
        if EMBEDDING not in dims:
            raise CacheError(
                f"{cache.path}: retrieval needs the field {EMBEDDING!r}, there is "
                f"{', '.join(dims)}: extract it with a dual encoder, such as --model ViT-B-16 "
                "--pretrained openai"
            )
        if not len(self.rows):
            raise CacheError(f"{cache.path}: no row with features")
        self.dim = dims[EMBEDDING]

    def blocks(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield row numbers and embeddings."""
        for rows, values in self.cache.feature_blocks(self.rows, size, EMBEDDING, self.view):
            yield rows, _one_crop(values)

    def unit(self, rows: np.ndarray) -> np.ndarray:
        """Return float64 (n, D)."""
        values = self.cache.row_features(rows, EMBEDDING, self.view).astype(np.float64)
        if not np.isfinite(values).all():
            raise CacheError(f"{self.cache.path}: embeddings hold NaN: run ltcache verify")
        return unit(_one_crop(values))

    def identity(self) -> JsonObject:
        """Return a value for JSON: which images in which order, and the bytes of their features."""
        files = self.cache.files
        folder = f"views/{folder_of(self.view)}/"
        shards = {n: e["sha256"] for n, e in files.items() if n.startswith(folder)}
        items = self.cache.manifest.rows["item"].to_numpy()[self.rows].astype(np.int64)
        return {
            "encoder": self.cache.encoder,
            "view": self.view,
            "rows": len(self.rows),
            "row_numbers": bytes_digest(self.rows.astype(np.int64).tobytes()),
            "items": bytes_digest(items.tobytes()),
            "shards": digest(shards),
        }


def _one_crop(values: np.ndarray) -> np.ndarray:
    """Return (n, D) of (n, v, D)."""
    if values.shape[1] == 1:
        return np.asarray(values[:, 0])
    return unit(values.astype(np.float32)).mean(axis=1)
