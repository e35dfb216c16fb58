"""All checks of a cache's labels and images, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltcache.examine.duplicates import (
    SplitDuplicates,
    duplicate_names,
    exact_duplicates,
    near_duplicates,
)
from ltcache.examine.permutation import LabelPermutation, permuted_labels
from ltcache.records import JsonObject, JsonRecord, one_line

if TYPE_CHECKING:
    from ltcache.cache import Cache


@one_line
@dataclass(frozen=True)
class CacheChecks(JsonRecord):
    """What looks wrong with a cache's classes and images; all empty where nothing does.

    Args:
        names: the classes' names in label order.
        permuted: one finding per split whose labels look permuted.
        same_names: (name, its labels), names that several classes have.
        duplicates: images that are in two splits, exact and near ones.
    """

    names: tuple[str, ...]
    permuted: tuple[LabelPermutation, ...]
    same_names: tuple[tuple[str, tuple[int, ...]], ...]
    duplicates: tuple[SplitDuplicates, ...]

    def lines(self) -> list[str]:
        """Return one line per finding."""
        return [
            *(found.describe(self.names) for found in self.permuted),
            *(
                f"classes {', '.join(map(str, labels))} are all named {name!r}: texts alone cannot "
                "tell them apart"
                for name, labels in self.same_names
            ),
            *(found.describe(self.names) for found in self.duplicates),
        ]

    def to_dict(self) -> JsonObject:
        """Return the findings as a value for JSON."""
        return {**super().to_dict(), "lines": self.lines()}


def check_cache(cache: Cache, *, near: bool = True) -> CacheChecks:
    """Look for permuted labels, repeated names and images that are in several splits.

    Args:
        near: also compare embeddings of all pairs of images of different splits.

    Raises:
        CacheError: a damaged shard, or embeddings that are not finite.
    """
    names = tuple(cache.classes.names)
    permuted = [permuted_labels(cache, split) for split in cache.splits]
    duplicates = [exact_duplicates(cache), near_duplicates(cache) if near else None]
    return CacheChecks(
        names,
        tuple(found for found in permuted if found),
        tuple(duplicate_names(names)),
        tuple(found for found in duplicates if found),
    )
