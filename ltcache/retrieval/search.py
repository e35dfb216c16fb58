"""Searching a pool with a text or an image: the nearest of it, by cosine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ltcache.cache import Cache, open_cache
from ltcache.encoder import Encoder, EncoderChoice, encoder_of_cache
from ltcache.errors import ImageError, UsageError
from ltcache.images import decode, read_file
from ltcache.records import JsonRecord
from ltcache.retrieval.scoring.index import PoolIndex, exact_products
from ltcache.retrieval.scoring.pool import CachedPool
from ltcache.retrieval.scoring.queries import unit


@dataclass(frozen=True)
class SearchHit(JsonRecord):
    """One image of a pool: its rank for a query, from 1, and its cosine to it."""

    query: str
    rank: int
    cosine: float
    pool_row: int
    key: str
    uri: str


def search_pool(
    pool: Cache | str | Path,
    *,
    texts: Sequence[str] = (),
    images: Sequence[str | Path] = (),
    top: int = 10,
    index: PoolIndex | None = None,
    encoder: Encoder | EncoderChoice | None = None,
    view: str = "center",
) -> list[SearchHit]:
    """Return the images of a pool that are nearest to texts and images, ``top`` for each.

    Args:
        texts: sentences as they are. images: files.
        index: to search in; None: all of the pool.
        encoder: loaded already, or which one to load; by default as the pool's own record says.

    Raises:
        UsageError: nothing to search for, or an image that cannot be read.
        IdentityError: the encoder is not the one that made the pool (status 4).
    """
    if not texts and not images:
        raise UsageError("nothing to search for: give a text or an image")
    if top < 1:
        raise UsageError("top must be at least 1")
    pool = open_cache(pool)
    source = CachedPool(pool, view)
    encoder = encoder_of_cache(pool, encoder)
    names = [*texts, *(str(image) for image in images)]
    vectors = unit(np.concatenate([_texts(encoder, texts), _images(encoder, images)]))
    rows = exact_products(source, vectors, top) if index is None else index.search(vectors, top)[1]
    return [
        found
        for name, vector, own in zip(names, vectors, rows, strict=True)
        for found in _listed(pool, source, name, vector, own[own >= 0])
    ]


def _listed(
    pool: Cache, source: CachedPool, name: str, vector: np.ndarray, rows: np.ndarray
) -> list[SearchHit]:
    cosines = source.unit(rows) @ vector.astype(np.float64)
    order = np.lexsort((rows, -cosines))
    table = pool.manifest.rows
    return [
        SearchHit(
            name,
            rank,
            float(cosines[n]),
            int(rows[n]),
            table["key"][int(rows[n])].as_py(),
            table["uri"][int(rows[n])].as_py(),
        )
        for rank, n in enumerate(order.tolist(), 1)
    ]


def _texts(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    return encoder.encode_texts(list(texts)).numpy().astype(np.float32)


def _images(encoder: Encoder, images: Sequence[str | Path]) -> np.ndarray:
    rows = [np.zeros((0, encoder.dims["embedding"]), np.float32)]
    for image in images:
        try:
            pixels = decode(read_file(Path(image)), encoder.preprocessing).pixels
        except ImageError as error:
            raise UsageError(f"{image}: {error}") from None
        batch = torch.from_numpy(np.array(pixels))[None]
        rows.append(encoder.encode_images(batch, ("embedding",))["embedding"].numpy())
    return np.concatenate(rows)
