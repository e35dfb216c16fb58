"""Looking for what is wrong: damage, permuted labels, duplicates, differences between two caches, a
broken installation; and what a source holds, and how fast it would be encoded."""

from ltcache.examine.checks import CacheChecks, check_cache
from ltcache.examine.duplicates import (
    SplitDuplicates,
    duplicate_names,
    exact_duplicates,
    near_duplicates,
)
from ltcache.examine.permutation import LabelPermutation, find_permutation, permuted_labels

__all__ = [
    "CacheChecks",
    "LabelPermutation",
    "SplitDuplicates",
    "check_cache",
    "duplicate_names",
    "exact_duplicates",
    "find_permutation",
    "near_duplicates",
    "permuted_labels",
]
