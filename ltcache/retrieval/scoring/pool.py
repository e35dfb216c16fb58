"""The pool: unlabelled caches, one or several, as a stream of blocks in row order."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from ltcache.cache import Cache, folder_of
from ltcache.errors import CacheError, UsageError
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

    @property
    def shards(self) -> np.ndarray:
        """Int64 (N,): the place of each row's shard among those of the view."""
        return self.cache.shard_places(self.rows, self.view)

    def of_rows(self, rows: np.ndarray) -> CachedPool:
        """Return the same pool with some of its rows."""
        result = copy.copy(self)
        result.rows = rows
        return result

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


class JoinedPool:
    """Several pools as one that holds the rows of all, in their order.

    Row numbers go on from pool to pool: the first row of a pool has the number of the rows that
    those before it have, with features or without.

    Args:
        pools: one or more, of one view.

    Raises:
        UsageError: a pool is given twice, or has embeddings of another length than the first.
    """

    def __init__(self, pools: Sequence[CachedPool]) -> None:
        self.pools = tuple(pools)
        self.view, self.dim = pools[0].view, pools[0].dim
        sizes = [pool.cache.manifest.rows.num_rows for pool in pools]
        self._starts = np.cumsum([0, *sizes])[:-1]
        own = [pool.rows + start for pool, start in zip(pools, self._starts, strict=True)]
        self.rows = np.concatenate(own)
        for path, times in Counter(pool.cache.path.resolve() for pool in pools).items():
            if times > 1:
                raise UsageError(f"the pool {path} is given {times} times: give it once")
        for pool in pools:
            if pool.dim != self.dim:
                raise UsageError(
                    f"{pool.cache.path} has embeddings of {pool.dim} numbers, "
                    f"{pools[0].cache.path} of {self.dim}: retrieve from them one by one"
                )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What each pool is called: as its manifest, with a number where several are called so."""
        seen: Counter[str] = Counter()
        result = []
        for name in (pool.cache.manifest.name for pool in self.pools):
            seen[name] += 1
            result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
        return tuple(result)

    def names_of(self, rows: np.ndarray) -> list[str]:
        """Return the name of each row's pool."""
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        return [self.names[number] for number in owner.tolist()]

    def blocks(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield row numbers and embeddings."""
        for pool, start in zip(self.pools, self._starts, strict=True):
            for rows, values in pool.blocks(size):
                yield rows + start, values

    def unit(self, rows: np.ndarray) -> np.ndarray:
        """Return float64 (n, D)."""
        result = np.empty((len(rows), self.dim))
        for number, places, own in self.divided(rows):
            result[places] = self.pools[number].unit(own)
        return result

    def identity(self) -> JsonObject:
        """Return that of the pool, or of all of them."""
        found = [pool.identity() for pool in self.pools]
        return found[0] if len(found) == 1 else {"pools": found}

    def divided(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield, for each pool that some rows are of, its number, their places and their numbers
        in that pool."""
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(owner).tolist():
            places = np.flatnonzero(owner == number)
            yield number, places, rows[places] - self._starts[number]

    def collected(
        self, rows: np.ndarray, look: Callable[[Cache, np.ndarray], Iterable[Any]]
    ) -> list[Any]:
        """Return what ``look`` finds in each pool's cache, for rows in any order."""
        result: list[Any] = [None] * len(rows)
        for number, places, own in self.divided(rows):
            found = look(self.pools[number].cache, own)
            for place, value in zip(places.tolist(), found, strict=True):
                result[place] = value
        return result

    def part(self, number: int, count: int) -> JoinedPool:
        """Return one of so many parts, from 0: rows that lie together, of whole shards."""
        result = copy.copy(self)
        starts = self._starts_of_shards()
        even = np.arange(count + 1) * len(self.rows) / count
        first, last = starts[np.searchsorted(starts, even[number : number + 2])]
        result.rows = self.rows[first:last]
        own = {place: rows for place, _, rows in self.divided(result.rows)}
        result.pools = tuple(
            pool.of_rows(own.get(place, pool.rows[:0])) for place, pool in enumerate(self.pools)
        )
        return result

    def _starts_of_shards(self) -> np.ndarray:
        """Return int64: the places in ``rows`` where another shard begins, and the end."""
        inside = [np.diff(pool.shards, prepend=-1) != 0 for pool in self.pools]
        return np.append(np.flatnonzero(np.concatenate(inside)), len(self.rows))


def _one_crop(values: np.ndarray) -> np.ndarray:
    """Return (n, D) of (n, v, D)."""
    if values.shape[1] == 1:
        return np.asarray(values[:, 0])
    return unit(values.astype(np.float32)).mean(axis=1)
