"""What a search has found, as a page of thumbnails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ltcache.cache import Cache
from ltcache.pages import (
    PageSummary,
    PictureCard,
    PictureListing,
    cache_pictures,
    write_pictures_page,
)
from ltcache.retrieval.search import SearchHit


def write_search_page(
    cache: Cache, hits: Sequence[SearchHit], out: str | Path, source: str | Path | None = None
) -> PageSummary:
    """Write the images that a search has found as one page, which is one file.

    Args:
        cache: that was searched. hits: see :func:`ltcache.retrieval.search_pool`.
        source: what the cache was extracted from; None: where the cache says that its images are.

    Raises:
        ManifestError: the source cannot be read.
        UsageError: an address in place of a file.
    """
    files = cache_pictures(cache, np.array([hit.pool_row for hit in hits], np.int64), source)
    classes, splits = cache.classes.names, cache.manifest.rows["split"]
    labels = cache.manifest.rows["label"]
    cards = []
    for hit, file in zip(hits, files, strict=True):
        label = labels[hit.pool_row].as_py()
        facts: dict[str, str | float] = {
            "query": hit.query,
            "rank": hit.rank,
            "cosine": hit.cosine,
            "class": classes[label] if label >= 0 else "unlabelled",
            "split": splits[hit.pool_row].as_py(),
        }
        cards.append(PictureCard(file, hit.key, facts))
    queries = len({hit.query for hit in hits})
    listing = PictureListing(
        title=f"Search in {cache.manifest.name}",
        about=[f"The images nearest to {queries} queries, by cosine, best first."],
        facets=["query", "class", "split"],
        sorts=["cosine", "class"],
        captions=["cosine", "class"],
    )
    return write_pictures_page(out, listing, cards)
