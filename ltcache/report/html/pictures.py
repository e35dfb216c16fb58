"""Images of a cache as small pictures in the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ltcache.cache import Cache
from ltcache.images import ImageStore
from ltcache.pages import PictureFile, find_store
from ltcache.records import one_line


@one_line
@dataclass(frozen=True, eq=False)
class ShownImage:
    """One image.

    Attributes:
        key: of its row. picture: data URI, or None. error: why there is no picture.
    """

    key: str
    picture: str | None
    error: str = ""


@one_line
@dataclass(frozen=True, eq=False)
class ImageCard:
    """An image with the name of its class, that of another, and how probable the other is, 0..1."""

    image: ShownImage
    label: str
    other: str
    probability: float


@one_line
@dataclass(frozen=True, eq=False)
class ImageCards:
    """Cards one after the other.

    Attributes:
        note: what they are. verb: between the names of the two classes.
    """

    note: str
    verb: str
    cards: Sequence[ImageCard]


@dataclass(frozen=True, eq=False)
class CacheImages:
    """The images of a cache, as far as it is known where they are; ``store`` None: it is not."""

    cache: Cache
    store: ImageStore | None

    @classmethod
    def of(cls, cache: Cache, source: str | Path | None) -> CacheImages:
        """Find them.

        Args:
            source: what the cache was extracted from; None: where the cache says that they are.

        Raises:
            ManifestError: the source cannot be read.
        """
        return cls(cache, find_store(source, cache.path, cache.manifest.name))

    def shown(self, row: int) -> ShownImage:
        """Return the image of a row of the cache's manifest, as it was encoded."""
        columns = self.cache.manifest.rows.slice(row, 1).to_pylist()[0]
        file = PictureFile(self.store, columns["uri"], columns.get("sha256") or "")
        found = file.picture()
        return ShownImage(columns["key"], found.get("data"), found.get("error", ""))

    def all_shown(self, rows: np.ndarray) -> list[ShownImage]:
        """Return the images of some rows."""
        return [self.shown(int(row)) for row in rows]
