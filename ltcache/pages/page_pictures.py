"""Thumbnails for a page, and why an image has none: the page says so, nothing is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ltcache.errors import ImageError
from ltcache.images import ImageStore, open_store, thumbnail_uri
from ltcache.manifest import image_root, root_of

_WORKERS = 4


def find_store(source: str | Path | None, folder: Path, name: str) -> ImageStore | None:
    """Return where images can be read, or None where nothing says it.

    Args:
        source: what the cache was extracted from, as ``ltcache extract`` takes it; None: where
            the cache says that they are (:func:`ltcache.manifest.image_root`).
        folder: of the cache, or of a result for its pool. name: of the cache's manifest.

    Raises:
        ManifestError: the source cannot be read.
    """
    root = image_root(folder, name) if source is None else root_of(source)
    return None if root is None else open_store(root)


@dataclass(frozen=True)
class PageSummary:
    """What was written.

    Args:
        path: the page. bytes: its size. images: thumbnails in it.
        missing: why an image has none -> how many.
    """

    path: Path
    bytes: int
    images: int
    missing: dict[str, int]


@dataclass(frozen=True)
class PictureFile:
    """An image that a page shows.

    Args:
        store: where it is read; None: nowhere. uri: its place there.
        content: SHA-256 of what was encoded; empty: not known.
        nowhere: the reason that is given where there is no store.
    """

    store: ImageStore | None
    uri: str
    content: str = ""
    nowhere: str = "where the images lie was not said"

    def picture(self) -> dict[str, str]:
        """Return ``{"data": data URI}``, or ``{"error": why there is none}``."""
        if self.store is None:
            return {"error": self.nowhere}
        try:
            return {"data": thumbnail_uri(self.store.read(self.uri), self.content)}
        except ImageError as error:
            return {"error": str(error)}


class PagePictures:
    """Makes the thumbnails of a page.

    Attributes:
        made: thumbnails so far. missing: why an image has none -> how many.
    """

    def __init__(self) -> None:
        self.made = 0
        self.missing: Counter[str] = Counter()

    def of(self, files: Iterable[PictureFile]) -> list[dict[str, str]]:
        """Return each image's picture, or why there is none; count both."""
        with ThreadPoolExecutor(_WORKERS) as workers:
            found = list(workers.map(PictureFile.picture, files))
        self.made += sum("data" in picture for picture in found)
        self.missing.update(picture["error"] for picture in found if "error" in picture)
        return found
