"""Near duplicates by FAISS: among training, validation and test images, and inside the pool.

A fixed cosine finds few copies: in Emoji-LT different drawings reach 0.98, while a drawing after
JPEG compression has 0.85 to itself. What tells a copy is that it is much nearer to one image than
to any other. So the score of a pair is ``2 cos(a, b) - r(a)``, where r is the mean cosine of a to
its ten nearest images that show something else: cross-domain similarity local scaling (Conneau et
al., Word Translation Without Parallel Data, 2018, equation 3) with one of its two terms.

References stream by in blocks and the best answers are merged, so that memory is bounded by one
block and the images that are asked about.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ltcache.manifest import whole_texts
from ltcache.records import JsonRecord, one_line
from ltcache.retrieval.scoring.pool import CachedPool, Pool
from ltcache.retrieval.scoring.queries import unit

if TYPE_CHECKING:
    from ltcache.cache import Cache

CERTAIN = 0.9995
"""Cosine from which on two images are one under any calibration (float16 moves it by 1e-6)."""

FALSE_ALARM = 0.003
"""Share of training images that may look like a copy of an image of another unit.

Of validation images of rare classes about 1 % are then refused; see :func:`calibrate_near`."""

AROUND = 10
"""Neighbours that make up the surroundings of an image."""

_UNREACHED = 4.0  # by ``2 cos - r``, which is 3 at most
_DEPTH = 64  # neighbours looked at for ten of other units
_BLOCK = 4096
_SAMPLE = 4096  # training images that a threshold is calibrated on


@one_line
@dataclass(frozen=True, eq=False)
class NearestReferences:
    """The nearest references of each image, best first; fewer than K where there are not as many.

    Args:
        rows: int64 (n, K), row numbers of the references, -1 where there are no more.
        similarity: float32 (n, K), cosines, -1 where there are no more.
        units: int64 (n, K), what the references show: images of one unit are not independent.
    """

    rows: np.ndarray
    similarity: np.ndarray
    units: np.ndarray

    def joined(self, other: NearestReferences) -> NearestReferences:
        """Return the best of two sets of references."""
        similarity = np.concatenate([self.similarity, other.similarity], axis=1)
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :_DEPTH]
        parts = [np.concatenate([getattr(self, n), getattr(other, n)], axis=1) for n in vars(self)]
        return NearestReferences(*(np.take_along_axis(part, order, axis=1) for part in parts))

    def take(self, index: np.ndarray) -> NearestReferences:
        """Return those of some images, in any order."""
        return NearestReferences(*(part[index] for part in vars(self).values()))

    @property
    def best(self) -> np.ndarray:
        """Float32 (n,), cosine to the nearest, -1 where there is none."""
        return np.asarray(self.similarity[:, 0])


@dataclass(frozen=True)
class NearThreshold(JsonRecord):
    """The score from which on two images count as near duplicates, and where it comes from.

    Args:
        value: of ``2 cos - r``. false_alarm: the rate it was set for.
        images: training images that it was calibrated on; 0: none, and only a cosine of
            :data:`CERTAIN` counts.
        units: what made images different: ``unit`` (the manifest's column) or ``image``.
        quantiles: share -> score of the nearest image of another unit.
    """

    value: float
    false_alarm: float
    images: int
    units: str
    quantiles: dict[str, float]

    def holds(self, similarity: np.ndarray, around: np.ndarray) -> np.ndarray:
        """Return whether cosines with these surroundings are those of near duplicates."""
        return np.asarray(
            (similarity >= CERTAIN) | ((2 * similarity - around >= self.value) & (similarity > 0))
        )


def load_faiss() -> Any:
    """Return the module; on macOS with one thread, where a second OpenMP runtime crashes."""
    import faiss

    if sys.platform == "darwin":
        faiss.omp_set_num_threads(1)
    return faiss


def gpus() -> int:
    """Return how many GPUs FAISS can use: 0 for faiss-cpu, or without a driver."""
    faiss = load_faiss()
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


@cache
def gpu_resources() -> Any:
    """Return what FAISS holds on a GPU to compute there; made once, for it takes much memory."""
    return load_faiss().StandardGpuResources()


def neighbours(
    references: Pool,
    units: np.ndarray,
    images: np.ndarray,
    *,
    without: np.ndarray | None = None,
) -> NearestReferences:
    """Return the nearest references of each image by exact search.

    Args:
        references: streamed in blocks. units: int64 (N,), what each of them shows.
        images: (n, D) of any length.
        without: int64 (n,), the unit that is left out for each image.
    """
    queries = unit(np.asarray(images, np.float32))
    result = _none(len(queries))
    if not len(queries):
        return result
    search, start = _searcher(queries), 0
    for rows, values in references.blocks(_BLOCK):
        shown = units[start : start + len(rows)]
        block, k = unit(np.asarray(values, np.float32)), min(_DEPTH, len(rows))
        if without is None:
            similarity, place = search(block, k)
        else:
            similarity, place = _others(queries, block, k, without[:, None] == shown)
        there = np.where(similarity > -1, rows[place], -1)
        result = result.joined(NearestReferences(there, similarity, shown[place]))
        start += len(rows)
    return result


def surroundings(near: NearestReferences, apart: np.ndarray) -> np.ndarray:
    """Return float32 (n,): the mean of the ten best cosines to images of other units.

    Args:
        near: of each image. apart: int64 (n,), the unit that is left out for each.
    """
    there = near.rows >= 0
    others = there & (near.units != apart[:, None])
    counted = others & (np.cumsum(others, axis=1) <= AROUND)
    total = np.where(counted, near.similarity, 0).sum(axis=1)
    # where fewer of other units are known, what is missing is at most as alike as the last
    least = np.where(there, near.similarity, 2).min(axis=1)
    total += np.where(there.any(axis=1), least, 0) * (AROUND - counted.sum(axis=1))
    return np.asarray(total / AROUND, np.float32)


def close_pairs(
    images: np.ndarray, near: NearestReferences, threshold: NearThreshold
) -> list[np.ndarray]:
    """Return for each candidate the places of those that it is a near duplicate of, int64.

    What surrounds a candidate are labelled images and other candidates of its class.

    Args:
        images: (n, D), the candidates of one class. near: labelled images next to each.
    """
    rows = unit(np.asarray(images, np.float32))
    depth = min(len(rows), _DEPTH)
    if depth < 2:
        return [np.zeros(0, np.int64) for _ in rows]
    similarity, place = _searcher(rows)(rows, depth)
    own = place == np.arange(len(rows))[:, None]
    similarity = np.where(own, -1, similarity)
    there = np.concatenate([~own, near.rows >= 0], axis=1)
    mixed = _by_similarity(np.concatenate([similarity, near.similarity], axis=1), there)
    last = mixed[:, AROUND : AROUND + 1]
    total = mixed[:, : AROUND + 1].sum(axis=1, keepdims=True)
    around = np.where(similarity >= last, total - similarity, total - last) / AROUND
    holds = threshold.holds(similarity, around)
    result: list[list[int]] = [[] for _ in rows]
    for a, b in zip(*np.nonzero(holds), strict=True):
        result[a].append(int(place[a, b]))
        result[int(place[a, b])].append(int(a))
    return [np.unique(np.array(found, np.int64)) for found in result]


def calibrate_near(
    cache: Cache, *, false_alarm: float = FALSE_ALARM, view: str = "center", seed: int = 0
) -> NearThreshold:
    """Return the score that the nearest image of another unit reaches at a named rate.

    Two training images of different units (the manifest's ``unit`` column; without one every image
    is its own, but for equal bytes) are not duplicates, however alike; so the share of them whose
    nearest image of another unit scores a value or more is the rate of false alarms there. It is a
    rate over training images. Images of rare classes, which is what a retrieval looks for, are
    taken for copies more often: few of their kind are around them, and in training fewer than among
    all labelled images, so that leaving out their own unit leaves hardly one that they could be
    taken for. Of Emoji-LT's validation images of few-shot classes 3.7 % are, at a named rate of
    1 %, and 1.1 % at the default of 0.3 %, for which planted crops and mirrored images are found
    half of the time in place of three quarters.

    Args:
        false_alarm: that share, above 0 and below 1.
        seed: of the training images that are looked at.
    """
    if "train" not in cache.splits:
        return NearThreshold(_UNREACHED, false_alarm, 0, "image", {})
    train = CachedPool(cache, view, "train")
    units, named = units_of(cache, "train")
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(units), min(_SAMPLE, len(units)), replace=False))
    images = train.unit(train.rows[chosen])
    near = neighbours(train, units, images, without=units[chosen])
    near = near.take(np.flatnonzero(near.rows[:, 0] >= 0))
    if not len(near.rows):
        return NearThreshold(_UNREACHED, false_alarm, 0, named, {})
    scores = 2 * near.best - surroundings(near, near.units[:, 0])
    value = float(np.quantile(scores, 1 - false_alarm, method="higher"))
    quantiles = {str(q): float(np.quantile(scores, q)) for q in (0.5, 0.9, 0.99, 0.999)}
    return NearThreshold(value, false_alarm, len(scores), named, quantiles)


def units_of(cache: Cache, split: str) -> tuple[np.ndarray, str]:
    """Return a number for what each image of a split shows, and what the numbers stand for.

    Equal numbers in different splits mean the same unit.
    """
    rows, table = cache.rows(split), cache.manifest.rows
    name = next((n for n in ("unit", "sha256") if n in table.column_names), None)
    if name is None:
        return -1 - rows, "image"
    codes = whole_texts(table[name]).dictionary_encode()
    numbers = codes.indices.to_numpy(zero_copy_only=False).astype(np.float64)[rows]
    blank = [n for n, text in enumerate(codes.dictionary.to_pylist()) if text in ("", None)]
    unknown = np.isnan(numbers) | np.isin(numbers, blank)
    return np.where(unknown, -1 - rows, numbers).astype(np.int64), (
        "unit" if name == "unit" else "image"
    )


def _by_similarity(similarity: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Return (n, K), K above :data:`AROUND`, best first: where fewer are known, what is missing is
    at most as alike as the last."""
    least = np.where(there, similarity, 2).min(axis=1, keepdims=True)
    more = np.repeat(least, AROUND + 1, axis=1)
    known = np.concatenate([np.where(there, similarity, least), more], axis=1)
    return np.asarray(-np.sort(-known, axis=1))


def _none(images: int) -> NearestReferences:
    empty = np.full((images, 1), -1, np.int64)
    return NearestReferences(empty, np.full((images, 1), -1, np.float32), empty)


def _others(
    queries: np.ndarray, references: np.ndarray, k: int, same: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and places (n, k) of references, those that are the ``same`` as -1."""
    cosines = queries @ references.T
    cosines[same] = -1
    place = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
    return np.take_along_axis(cosines, place, axis=1), place


def _searcher(queries: np.ndarray) -> Any:
    """Return a function: references (m, D), k -> cosines and places (n, k), best first."""
    faiss = load_faiss()
    resources = gpu_resources() if gpus() else None

    def search(references: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        metric = faiss.METRIC_INNER_PRODUCT
        if resources is not None:
            found = faiss.knn_gpu(resources, queries, references, k, metric=metric)
        else:
            found = faiss.knn(queries, references, k, metric=metric)
        return np.asarray(found[0]), np.asarray(found[1])

    return search
