"""What is said where a split is asked for that is not there, or has no labels: what is, what to do.

Every stage that needs a split says it in these words.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches

from ltcache.manifest.splits import SPLITS, canonical_split


def how_to_split(there: Collection[str] = ()) -> str:
    """Return how images come to lie in splits.

    Args:
        there: the splits that are there.
    """
    shares = ",".join(f"{s}={x}" for s, x in (("test", 0.2), ("val", 0.1)) if s not in there)
    by_hand = (
        "give the images a split, by a column `split` in a csv list (path,label,split) or by "
        "folders train/ and test/ (and val/) above the class folders, and extract those"
    )
    if not shares or not {"train"} & set(there):
        return by_hand
    return f"divide the training images with ltcache split CACHE --split {shares}; or {by_hand}"


def missing_split(split: str, there: Sequence[str]) -> str:
    """Return what to say of a split that is not there.

    Args:
        split: that is asked for. there: the splits that are.
    """
    said = f"no split {split!r}, only {', '.join(there) or 'none'}"
    near = _nearest(split, there)
    if near is not None:
        return f"{said}; did you mean {near!r}?"
    if split not in SPLITS:
        return said
    if split == "train" and set(there) <= {"pool"}:
        return f"{said}, whose images have no labels: give them classes, too; {how_to_split()}"
    return f"{said}; {how_to_split(there)}"


def unlabelled_split(split: str, rows: int) -> str:
    """Return what to say of a split none of whose rows has a label."""
    return (
        f"none of the {rows} images of {split!r} has a label, so that they can neither train nor "
        "score; say their classes in the list of the images and extract that (known images are not "
        "encoded again), or classify the images with ltcache predict"
    )


def unscored(there: Collection[str]) -> str:
    """Return what to say of a fit that was scored on no split.

    Args:
        there: the splits of its cache.
    """
    held_out = [split for split in ("val", "test") if split in there]
    if held_out:
        return f"not scored: {' and '.join(held_out)} have no labels, so that no accuracy is known"
    return (
        "not scored: no val or test split was left to score on, so that no accuracy is known and "
        f"no validation data chose anything; the run predicts as it is. To have scores, "
        f"{how_to_split(there)}"
    )


def _nearest(split: str, there: Sequence[str]) -> str | None:
    """Return the split that was meant, where it is written otherwise."""
    if canonical_split(split) in there:
        return canonical_split(split)
    near = get_close_matches(split.lower(), there, n=1, cutoff=0.75)
    return near[0] if near else None
