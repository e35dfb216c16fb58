"""Copies planted on purpose: how many of them the guards find, and how often they err.

A copy is an image of the cache after something that copies on the web go through: nothing, JPEG
compression, half the size, a crop, a mirror. A guard that finds few of one kind should be known to
do so, whatever its threshold was calibrated to.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from ltcache.cache import Cache, stored
from ltcache.encoder import Encoder, encoder_of_cache
from ltcache.errors import CacheError, ImageError
from ltcache.images import decode, open_store
from ltcache.manifest import Manifest, read_manifest
from ltcache.records import JsonRecord
from ltcache.retrieval.guards.neighbours import NearThreshold, neighbours, surroundings, units_of
from ltcache.retrieval.scoring.pool import CachedPool

_BATCH = 64


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _jpeg60(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=60)
    return stream.getvalue()


def _half(image: Image.Image) -> bytes:
    size = (max(1, image.width // 2), max(1, image.height // 2))
    return _png(image.resize(size, Image.Resampling.LANCZOS))


def _crop(image: Image.Image) -> bytes:
    """Take 5 % off each edge's length, half of it at either end; at least a pixel."""
    x, y = (max(1, round(edge * 0.05)) for edge in image.size)
    left, top = x // 2, y // 2
    return _png(image.crop((left, top, left + image.width - x, top + image.height - y)))


COPIES: Mapping[str, Callable[[Image.Image], bytes]] = {
    "jpeg60": _jpeg60,
    "half size": _half,
    "crop 5 %": _crop,
    "flip": lambda image: _png(ImageOps.mirror(image)),
}
"""Kind of copy -> the file that it makes of an RGB image; ``exact`` is the file itself."""


@dataclass(frozen=True)
class PlantedReport(JsonRecord):
    """What a threshold does to copies of one kind.

    Args:
        kind: a key of :data:`COPIES`, or ``exact``. images: how many were planted.
        recall: share of them that count as near duplicates (``exact``: found by their bytes).
        nearest: share whose nearest image is the one they were made of.
        false_alarms: share that count as near duplicates where all images of their own unit are
            left out of the references, so that nothing there is what they were made of.
        median: cosine to the nearest image.
    """

    kind: str
    images: int
    recall: float
    nearest: float
    false_alarms: float
    median: float


def copy_of(data: bytes, kind: str) -> bytes:
    """Return an image file after what ``kind`` does to it."""
    if kind == "exact":
        return data
    with Image.open(io.BytesIO(data)) as image:
        return COPIES[kind](image.convert("RGB"))


def planted_duplicates(
    cache: Cache,
    source: str | Path | Manifest,
    near: NearThreshold,
    *,
    encoder: Encoder | None = None,
    images: int = 300,
    seed: int = 0,
    root: str | Path | None = None,
) -> list[PlantedReport]:
    """Plant copies of training images and count what the guard against them finds.

    Args:
        cache: the labelled cache. source: what it was made from, for the images.
        near: the threshold (:func:`ltcache.retrieval.guards.neighbours.calibrate_near`).
        encoder: the cache's, loaded already; else it is loaded as the cache names it.
        images: training images that are copied, at most; seed: of their choice.
        root: where the images are, if not where the source says.
    """
    encoder = encoder_of_cache(cache, encoder)
    train = CachedPool(cache, split="train")
    units, _ = units_of(cache, "train")
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(train.rows), min(images, len(train.rows)), replace=False))
    files = read_images(cache, source, train.rows[chosen], root)
    known = cache.column("sha256", "train")
    hashes = set() if known is None else set(known.tolist())
    reports = []
    for kind in ("exact", *COPIES):
        copies = [copy_of(data, kind) for data in files]
        values = encode_images(encoder, copies)
        found = neighbours(train, units, values)
        hits = near.holds(found.best, surroundings(found, found.units[:, 0]))
        if kind == "exact":
            hits = np.array([hashlib.sha256(data).hexdigest() in hashes for data in copies])
        others = neighbours(train, units, values, without=units[chosen])
        alarms = near.holds(others.best, surroundings(others, others.units[:, 0]))
        reports.append(
            PlantedReport(
                kind,
                len(chosen),
                float(hits.mean()),
                float((found.rows[:, 0] == train.rows[chosen]).mean()),
                float(alarms.mean()),
                float(np.median(found.best)),
            )
        )
    return reports


def read_images(
    cache: Cache, source: str | Path | Manifest, rows: np.ndarray, root: str | Path | None = None
) -> list[bytes]:
    """Return the files of some rows of a cache, from where it was extracted.

    Raises:
        CacheError: a file cannot be read.
    """
    manifest = source if isinstance(source, Manifest) else read_manifest(source, root=root)
    store = open_store(root if root is not None else manifest.root)
    uris = cache.manifest.rows["uri"].to_pylist()
    try:
        return [store.read(uris[row]) for row in rows.tolist()]
    except ImageError as error:
        raise CacheError(f"{cache.path}: an image cannot be read again: {error}") from None


def encode_images(encoder: Encoder, files: list[bytes]) -> np.ndarray:
    """Return float32 (n, D): embeddings of image files, rounded as a cache stores them."""
    parts = [np.zeros((0, encoder.dims["embedding"]), np.float32)]
    for start in range(0, len(files), _BATCH):
        pixels = [
            decode(data, encoder.preprocessing).pixels for data in files[start : start + _BATCH]
        ]
        values = encoder.encode_images(torch.from_numpy(np.stack(pixels)), ("embedding",))
        parts.append(stored(values["embedding"].numpy()).astype(np.float32))
    return np.concatenate(parts)
