"""Where the images of a cache are read for a page."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ltcache.cache import Cache
from ltcache.manifest import kept_root
from ltcache.pages.page_pictures import PictureFile, find_store


def cache_pictures(
    cache: Cache, rows: np.ndarray, source: str | Path | None = None
) -> list[PictureFile]:
    """Return the images of some rows of a cache, (n,), as a page shows them.

    Args:
        source: what the cache was extracted from; None: where the cache says that they are.

    Raises:
        ManifestError: the source cannot be read.
    """
    store, table = find_store(source, cache.path, cache.manifest.name), cache.manifest.rows
    before = kept_root(cache.path)
    said = "was not said" if before is None else f"({before}) is gone"
    nowhere = f"the place of the images {said}: --root says where they are"
    uris = table["uri"].take(rows).to_pylist()
    known = "sha256" in table.column_names
    contents = table["sha256"].take(rows).to_pylist() if known else [""] * len(rows)
    return [
        PictureFile(store, uri, content or "", nowhere)
        for uri, content in zip(uris, contents, strict=True)
    ]
