"""Class names and images that are there twice: a test image among the training images is a leak.

Exact duplicates have equal bytes (SHA-256, which extraction stores). Near duplicates are found by
the cosine of their embeddings: above 0.995, and at half the distance of the most alike thousandth
of pairs of images of one class, so that sets whose images are all alike do not count as copies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ltcache.cache import content_codes, likeness_field, near_threshold, row_chunks, unit_features

if TYPE_CHECKING:
    from ltcache.cache import Cache


@dataclass(frozen=True)
class DuplicatePair:
    """Two rows that show the same; ``cosine`` is 1 for equal bytes."""

    key: str
    split: str
    label: int
    other_key: str
    other_split: str
    other_label: int
    cosine: float = 1.0


@dataclass(frozen=True)
class SplitDuplicates:
    """Rows of one split that are in another, earlier one too.

    Args:
        kind: ``exact`` or ``near``.
        count: how many rows.
        conflicts: how many of them have another label there.
        classes: labels of those rows, ascending.
        first: up to five of them.
        threshold: least cosine, 1 for exact ones.
    """

    kind: str
    count: int
    conflicts: int
    classes: tuple[int, ...]
    first: tuple[DuplicatePair, ...]
    threshold: float = 1.0

    def describe(self, names: Sequence[str]) -> str:
        """Return the finding as one line; names are the classes' in label order."""
        shown = "; ".join(
            f"{pair.key} ({pair.split}) is {pair.other_key} ({pair.other_split})"
            for pair in self.first
        )
        classes = ", ".join(names[label] for label in self.classes[:5])
        more = f" and {len(self.classes) - 5} more" if len(self.classes) > 5 else ""
        what = "the same bytes" if self.kind == "exact" else f"a cosine above {self.threshold:.4f}"
        conflicts = f", {self.conflicts} under another label" if self.conflicts else ""
        return (
            f"{self.count} images are in two splits ({what}){conflicts}: {shown}; classes "
            f"{classes}{more}"
        )


def duplicate_names(names: Sequence[str]) -> list[tuple[str, tuple[int, ...]]]:
    """Return names that several classes have, with their labels; case and blanks do not count."""
    labels: dict[str, list[int]] = defaultdict(list)
    for label, name in enumerate(names):
        labels[" ".join(name.replace("_", " ").casefold().split())].append(label)
    return [(names[found[0]], tuple(found)) for found in labels.values() if len(found) > 1]


def exact_duplicates(cache: Cache) -> SplitDuplicates | None:
    """Return rows whose bytes are in an earlier split too, or None."""
    rows = cache.rows()
    codes = content_codes(cache, rows)
    split = _split_numbers(cache, rows)
    order = np.lexsort((rows, split, codes))
    same = codes[order][1:] == codes[order][:-1]
    # the first row of each content, carried forward over the rows that share it
    start = np.where(np.r_[True, ~same], np.arange(len(order)), 0)
    first = order[np.maximum.accumulate(start)] if len(order) else order
    twice = split[first] != split[order]
    pairs = [(rows[b], rows[a], 1.0) for a, b in zip(first[twice], order[twice], strict=True)]
    return _duplicates(cache, "exact", sorted(pairs), 1.0)


def near_duplicates(cache: Cache, *, seed: int = 0) -> SplitDuplicates | None:
    """Return rows that look like an image of an earlier split (not byte for byte), or None.

    One streamed pass over pairs of splits, (n, m) products in blocks; memory does not grow with
    the cache beyond one number per row.

    Args:
        seed: of the pairs that the threshold is estimated on.
    """
    if likeness_field(cache) is None or len(cache.splits) < 2:
        return None
    threshold = near_threshold(cache, seed=seed)
    pairs: list[tuple[int, int, float]] = []
    for number, later in enumerate(cache.splits):
        earlier = list(cache.splits[:number])
        for rows in row_chunks(cache.rows(later)):
            pairs += _alike(cache, rows, earlier, threshold)
    return _duplicates(cache, "near", pairs, threshold)


def _alike(
    cache: Cache, rows: np.ndarray, splits: Sequence[str], threshold: float
) -> list[tuple[int, int, float]]:
    """Return (row, most alike row of the splits, cosine) where above the threshold."""
    unit = unit_features(cache, rows)
    content = None
    best = np.full(len(rows), threshold, np.float32)
    match = np.full(len(rows), -1, np.int64)
    for split in splits:
        for others in row_chunks(cache.rows(split)):
            cosines = unit @ unit_features(cache, others).T
            if (cosines > threshold).any():
                content = content_codes(cache, np.r_[rows, others])
                equal = content[: len(rows), None] == content[None, len(rows) :]
                cosines[equal] = -1
            nearest = cosines.argmax(axis=1)
            found = cosines[np.arange(len(rows)), nearest]
            better = found > best
            best[better], match[better] = found[better], others[nearest[better]]
    hits = np.flatnonzero(match >= 0)
    return [(int(rows[i]), int(match[i]), float(best[i])) for i in hits]


def _duplicates(
    cache: Cache, kind: str, pairs: Sequence[tuple[int, int, float]], threshold: float
) -> SplitDuplicates | None:
    if not pairs:
        return None
    table = cache.manifest.rows
    labels = table["label"].to_numpy()
    later = np.array([row for row, _, _ in pairs])
    earlier = np.array([row for _, row, _ in pairs])
    known = labels[later][labels[later] >= 0]
    both = (labels[later] >= 0) & (labels[earlier] >= 0)
    return SplitDuplicates(
        kind,
        len(pairs),
        int((both & (labels[later] != labels[earlier])).sum()),
        tuple(np.unique(known).tolist()),
        tuple(_pair(table, *pair) for pair in pairs[:5]),
        threshold,
    )


def _pair(table: pa.Table, row: int, other: int, cosine: float) -> DuplicatePair:
    values: list[Any] = [
        table[column][int(which)].as_py()
        for which in (row, other)
        for column in ("key", "split", "label")
    ]
    return DuplicatePair(*[*values, float(cosine)])


def _split_numbers(cache: Cache, rows: np.ndarray) -> np.ndarray:
    """Return the place of each row's split in the cache's order, int64."""
    numbers = np.empty(len(cache.manifest), np.int64)
    for number, split in enumerate(cache.splits):
        numbers[cache.manifest.indices(split)] = number
    return numbers[rows]
