"""What digests cannot tell: labels that seem permuted, names and images that are there twice."""

from ltcache.checks.cache import CacheChecks, check_cache
from ltcache.checks.duplicates import (
    SplitDuplicates,
    duplicate_names,
    exact_duplicates,
    near_duplicates,
)
from ltcache.checks.permutation import LabelPermutation, find_permutation, permuted_labels

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
