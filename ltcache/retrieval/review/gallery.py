"""A result of a retrieval as one HTML page: look at every class, accept and reject, export.

The page is one file that is opened from disk (:mod:`ltcache.pages`). Thumbnails are in it as data
URIs, one block of data for each class, so that a browser decodes one class at a time: a page of 100
classes with 100 photographs each was 26 MB and opened in 0.6 s.

Decisions are kept by the browser under the key of the retrieval, and leave as a JSON file
(:mod:`ltcache.retrieval.review.decisions`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.cache import Cache
from ltcache.errors import UsageError
from ltcache.images import ImageStore
from ltcache.pages import PagePictures, PageSummary, PictureFile, write_page
from ltcache.records import (
    JsonObject,
    digest,
    json_element,
    require_equal,
    require_local,
)
from ltcache.retrieval.guards.verdicts import REASONS
from ltcache.retrieval.result import ACCEPTED, POOL, RetrievalResult, tallied
from ltcache.retrieval.review.decisions import LOCKED, decisions_of, retrieval_identity, undecided

GALLERY = "gallery.html"
PICKS, NEAR_MISSES, TRAINING = 100, 24, 12
"""Images of a class that are shown, at most: taken, rejected, of training."""

_COPIED = ("key", "uri", "p", "log_odds", "margin", "rank", "status", "reason", "duplicate_of",
           "url", "caption", "licence", "source", "width", "height")  # fmt: skip
_WORKERS = 4


def write_gallery(
    result: RetrievalResult,
    cache: Cache,
    *,
    images: ImageStore | None = None,
    pool_images: ImageStore | Sequence[ImageStore] | None = None,
    out: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PageSummary:
    """Write the page of a result.

    Args:
        result: as :func:`ltcache.retrieval.open_retrieved` gives it.
        cache: the labelled cache that it was made for, for training images.
        images, pool_images: where the images of the cache and of the pool are, or of each of
            several pools; without one the page says so in the place of each picture. A file that
            is not the one that was encoded is not shown.
        out: the file; ``gallery.html`` in the result's directory by default.
        progress: called with classes done and classes in all.

    Raises:
        UsageError: the result has no directory and no ``out`` is given.
        IdentityError: the result was made for another cache (status 4).
    """
    require_same_cache(result, cache)
    if out is None and result.path is None:
        raise UsageError("the result was not written: say where the gallery shall be")
    path = require_local(out) if out is not None else Path(result.path or "") / GALLERY
    page = _GalleryPage(result, cache, images, pool_images)
    title = f"{result.record.pool} for the rare classes of {result.record.cache}"
    size = write_page(path, Path(__file__).with_name(GALLERY), title, page.data(progress))
    pictures = page.pictures
    return PageSummary(path, size, pictures.made, dict(pictures.missing))


def require_same_cache(result: RetrievalResult, cache: Cache) -> None:
    """Refuse a cache that the result was not made for.

    Raises:
        IdentityError: with what differs (status 4).
    """
    made_for = result.record.identities["cache"]
    found: JsonObject = {"classes": cache.classes.identity(), "encoder": cache.encoder}
    found["rows"] = cache.manifest.identity()["rows"]
    require_equal(
        "cache",
        {name: made_for[name] for name in found},
        found,
        remedy=f"{cache.path} is not the cache that this result was made for, or its rows have "
        "changed since",
    )


class _GalleryPage:
    """One page while it is written; counts pictures as it goes."""

    def __init__(
        self,
        result: RetrievalResult,
        cache: Cache,
        images: ImageStore | None,
        pool_images: ImageStore | Sequence[ImageStore] | None,
    ) -> None:
        self.result, self.cache = result, cache
        self.images = images
        several = pool_images if isinstance(pool_images, Sequence) else [pool_images]
        names = result.record.pools or ("",)
        self.pool_images = {} if pool_images is None else dict(zip(names, several, strict=True))
        self.table = undecided(result)
        taken = self.table.filter(pc.equal(self.table["status"], ACCEPTED))
        pairs = zip(taken["key"].to_pylist(), taken["class_name"].to_pylist(), strict=True)
        self.taken_for = dict(pairs)
        self.train = cache.rows("train") if "train" in cache.splits else np.zeros(0, np.int64)
        self.train_labels = cache.manifest.rows["label"].to_numpy()[self.train]
        self.pictures = PagePictures()

    def data(self, progress: Callable[[int, int], None] | None) -> Iterator[str]:
        """Yield the page's data, class by class, so that one class is in memory at a time."""
        yield json_element("page", self._header())
        classes = self.result.classes
        for done, entry in enumerate(classes, 1):
            yield json_element(f"class-{entry.label}", self._class(entry.label))
            if progress is not None:
                progress(done, len(classes))

    def _header(self) -> Mapping[str, Any]:
        least = self.result.record.least_p
        taken = "whatever their p_k" if least is None else f"from p_k = {least.value:.3g} up"
        chosen = decisions_of(self.result).chosen
        identity = retrieval_identity(self.result)
        return {
            "key": digest(identity),
            "retrieval": identity,
            "about": f"{len(self.result.classes)} classes; images are taken {taken}; "
            f"at most {PICKS} taken and {NEAR_MISSES} rejected images of a class are shown",
            "explained": "p_k is the share that class k has in the softmax over all "
            f"{len(self.cache.classes)} classes: at 0.5 it is as probable as all others together. "
            "Log-odds are log(p_k / (1 - p_k)): 0 at p_k = 0.5, and they still rank images whose "
            "p_k rounds to 1.",
            "reasons": REASONS,
            "classes": [asdict(tallied(entry, self.table)) for entry in self.result.classes],
            "decisions": [[f"{label}\t{key}", found] for (label, key), found in chosen.items()],
        }

    def _class(self, label: int) -> Mapping[str, Any]:
        """Return the data of one class: items, training images and the pictures of both."""
        mine = self.table.filter(pc.equal(self.table["label"], label))
        candidates = mine.take(pa.array(_shown(mine), pa.int64())).to_pylist()
        wanted: dict[tuple[str, int], int] = {}  # (side, row) -> place in the list of pictures

        def place(side: str, row: int) -> int:
            return wanted.setdefault((side, row), len(wanted))

        items = []
        for row in candidates:
            item = {name: row[name] for name in _COPIED} | {**self._neighbour(row)}
            nearest = row["train_row"]
            item["image"] = place("pool", row["pool_row"])
            item["nearest_image"] = place("train", nearest) if nearest >= 0 else None
            items.append(item)
        own = _spread(self.train[self.train_labels == label], TRAINING)
        keys = self.cache.manifest.rows["key"].take(pa.array(own, pa.int64())).to_pylist()
        training = [
            {"key": key, "image": place("train", int(row))}
            for key, row in zip(keys, own, strict=True)
        ]
        files = {
            row["pool_row"]: PictureFile(
                self.pool_images.get(row.get(POOL, "")),
                row["uri"],
                row["sha256"],
                "where the images of the pool lie was not said",
            )
            for row in candidates
        }
        pictures = self.pictures.of(self._file(at, files) for at in wanted)
        return {"items": items, "training": training, "images": pictures}

    def _neighbour(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what the columns of a candidate say of other images."""
        names, label = self.cache.classes.names, row["train_label"]
        owner = self.taken_for.get(row["key"], "")
        return {
            "runner_up": row["runner_up_name"],
            "nearest_key": row["train_key"],
            "nearest_class": names[label] if label >= 0 else "",
            "nearest_similarity": row["train_similarity"],
            "taken_for": owner if owner != row["class_name"] else "",
            "locked": row["reason"] in LOCKED,
        }

    def _file(self, at: tuple[str, int], files: dict[int, PictureFile]) -> PictureFile:
        side, row = at
        if side == "pool":
            return files[row]
        nowhere = "where the labelled images lie was not said"
        return PictureFile(self.images, *self._training_file(row), nowhere)

    def _training_file(self, row: int) -> tuple[str, str]:
        rows = self.cache.manifest.rows
        content = rows["sha256"][row].as_py() if "sha256" in rows.column_names else ""
        return rows["uri"][row].as_py(), content or ""


def _shown(mine: pa.Table) -> list[int]:
    """Return rows of a class to show, by rank: the best taken ones, and near misses.

    Of the near misses the best of every reason come first, so that no reason is crowded out.
    """
    order = np.argsort(mine["rank"].to_numpy(), kind="stable").tolist()
    reasons = mine["reason"].to_pylist()
    taken = [n for n in order if not reasons[n]][:PICKS]
    seen: Counter[str] = Counter()
    rejected: list[tuple[int, int, int]] = []
    for rank, n in enumerate(order):
        if reasons[n]:
            rejected.append((seen[reasons[n]], rank, n))
            seen[reasons[n]] += 1
    near = sorted((rank, n) for _, rank, n in sorted(rejected)[:NEAR_MISSES])
    return taken + [n for _, n in near]


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many rows, evenly spread."""
    if len(rows) <= most:
        return rows
    return np.asarray(rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)])
