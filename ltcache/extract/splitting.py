"""Dividing the images of a cache into splits: its list alone changes, nothing is encoded again.

Rows are told apart by their content, not by their place or name: the order of the list, and what
its files are called, change nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.cache import (
    EXTRACTED,
    Cache,
    content_codes,
    equal_pairs,
    joined_groups,
    likeness_field,
    near_groups,
    near_threshold,
    open_cache,
    rewrite_rows,
)
from ltcache.errors import UsageError, did_you_mean
from ltcache.extract.kept_splits import with_splits
from ltcache.images import is_composite
from ltcache.manifest import (
    COLUMNS,
    FREE,
    SPLITS,
    WAITING,
    ImageBlocks,
    Manifest,
    SplitFill,
    SplitRecipe,
    recipe_of,
    some,
    whole_texts,
)
from ltcache.records import JsonRecord, bytes_digest, one_line

UNIT = "unit"
_USUAL = 0.9  # share of pairs of a class that are no copies, even in a folder of bursts


@one_line
@dataclass(frozen=True)
class SplitReport(JsonRecord):
    """How images were divided.

    Attributes:
        recipe: how. counts: split -> images. assigned: images that were divided by this call.
        lacking: split -> class -> why it has no image there.
        uneven: split -> class -> (images, images asked for), where blocks keep it from its share.
    """

    recipe: SplitRecipe
    counts: dict[str, int]
    assigned: int
    lacking: dict[str, dict[str, str]]
    uneven: dict[str, dict[str, tuple[int, float]]]

    def lines(self) -> list[str]:
        """Return the report as lines for people."""
        sizes = ", ".join(f"{split} {count}" for split, count in self.counts.items())
        found = [f"{sizes} images ({self.recipe.describe()})"]
        for split, classes in self.lacking.items():
            shown = some(f"{name} ({why})" for name, why in classes.items())
            found.append(f"{len(classes)} class(es) have no image in {split}: {shown}")
        for split, sizes_of in self.uneven.items():
            told = some(f"{name} ({n} for {x:.1f})" for name, (n, x) in sizes_of.items())
            found.append(
                f"{len(sizes_of)} class(es) are not at their share in {split}, since images that "
                f"belong together stay together: {told}"
            )
        return found


def split_cache(
    cache: Cache | str | Path, recipe: SplitRecipe, *, replace_splits: bool = False
) -> SplitReport:
    """Divide the labelled training images of a cache into splits, and keep in it how.

    Each class is divided alike, as near to the shares as what belongs together allows: images of
    one unit (the column ``unit``, and those that the recipe names), of equal bytes, or of nearly
    equal features. Every class keeps an image in training. Where the cache was divided in the same
    way before, its images stay where they are, and those that came later are assigned.

    Args:
        replace_splits: put images of the splits that the recipe names, and of those made before,
            back into training first.

    Raises:
        UsageError: the splits are there already, no training image has a label, a column is not
            there, or the cache has composites, which are made of its training images.
    """
    cache = open_cache(cache)
    before = recipe_of(cache.manifest)
    recipe = checked_recipe(recipe, cache.manifest, cache.path, replace_splits=replace_splits)
    if before is not None and before.made_as(recipe) and not replace_splits:
        return _assign(cache, before, [WAITING])
    made = [*recipe.shares, *(before.shares if before else ())]
    return _assign(cache, _measured(cache, recipe), ["train", WAITING, *made])


def _measured(cache: Cache, recipe: SplitRecipe) -> SplitRecipe:
    """Return a recipe with the cosine of near duplicates, where there are features to compare."""
    if likeness_field(cache) is None:
        return recipe
    return replace(recipe, near=near_threshold(cache, seed=recipe.seed, quantile=_USUAL))


def image_blocks(cache: Cache, rows: np.ndarray) -> tuple[np.ndarray, SplitRecipe]:
    """Return the block of each of some rows, int64 (n,), and a recipe that says what a block is.

    A cache that was divided has its own recipe; of others images of one unit, equal bytes and near
    duplicates are one block. The shares of the recipe mean nothing.
    """
    recipe = recipe_of(cache.manifest)
    if recipe is None:
        recipe = SplitRecipe({"test": 0.5})
        recipe = _measured(cache, replace(recipe, by=_columns(recipe, cache.manifest, cache.path)))
    return _blocks(cache, rows, recipe), recipe


def assign_waiting(cache: Cache) -> SplitReport | None:
    """Assign the images that came to a divided cache later; None where it was not divided."""
    recipe = recipe_of(cache.manifest) if cache.divided else None
    return None if recipe is None else _assign(cache, recipe, [WAITING])


def checked_recipe(
    recipe: SplitRecipe, manifest: Manifest, where: object, *, replace_splits: bool = False
) -> SplitRecipe:
    """Return a recipe with the columns by which the images of a list are to be divided.

    Args:
        where: the images are from, for messages.

    Raises:
        UsageError: as for :func:`split_cache`.
    """
    before = recipe_of(manifest)
    recipe = replace(recipe, by=_columns(recipe, manifest, where), near=None)
    if not replace_splits and not (before is not None and before.made_as(recipe)):
        _require_unmade(recipe, before, manifest, where)
    from_splits = ["train", WAITING, *recipe.shares, *(before.shares if before else ())]
    if not any((manifest.labels(split) >= 0).any() for split in from_splits):
        raise UsageError(
            f"{where}: no image of train has a label, so that there is nothing to divide; say "
            "their classes in the list of the images and extract that"
        )
    return recipe


def _assign(cache: Cache, recipe: SplitRecipe, free: Sequence[str]) -> SplitReport:
    """Divide the images of some splits; those of train and of the recipe's stay where they are."""
    rows, names = cache.manifest.rows, ["train", *recipe.shares]
    before = np.array(rows["split"].to_pylist(), dtype=object)
    labelled, usable = cache.manifest.labels() >= 0, np.zeros(len(rows), bool)
    usable[cache.rows()] = True
    splits, moving = before.copy(), np.isin(before, free)
    splits[moving] = np.where(labelled[moving], WAITING, "train")  # failed ones wait, too
    divided = np.flatnonzero(labelled & usable & np.isin(splits, [*names, WAITING]))
    placed = np.full(len(divided), FREE)
    for number, name in enumerate(names):
        placed[splits[divided] == name] = number
    fill = None
    if (placed == FREE).any():
        images = ImageBlocks(cache.manifest.labels()[divided], _blocks(cache, divided, recipe))
        fill = SplitFill(images, list(recipe.shares.values()), placed)
        splits[divided] = np.array(names, dtype=object)[fill.run()]
    if (splits != before).any():
        _rewrite(cache, splits, recipe)
    return _report(cache, recipe, splits, fill)


def _rewrite(cache: Cache, splits: np.ndarray, recipe: SplitRecipe) -> None:
    if any(map(is_composite, cache.views)):
        raise UsageError(
            f"{cache.path} has composites (cmo), which are made of its training images: divide "
            "another cache, made without them, and add them then"
        )
    rows = with_splits(cache.manifest.rows, pa.array(splits.tolist(), pa.string()))
    rewrite_rows(cache.path, rows, recipe.to_dict())


def _columns(recipe: SplitRecipe, manifest: Manifest, where: object) -> tuple[str, ...]:
    """Return the columns whose equal values stay together."""
    known = [n for n in manifest.rows.column_names if n not in (*COLUMNS.names, *EXTRACTED)]
    for column in recipe.by:
        if column not in known:
            hint = did_you_mean(column, known, lead="; ")
            raise UsageError(
                f"{where}: its list has no column {column!r} to divide by, only "
                f"{some(known) or 'none'}{hint}"
            )
    return tuple(dict.fromkeys([*({UNIT} & set(known)), *recipe.by]))


def _require_unmade(
    recipe: SplitRecipe, before: SplitRecipe | None, manifest: Manifest, where: object
) -> None:
    """Refuse a recipe whose splits, or others that were made, are there."""
    there = [split for split in recipe.shares if split in manifest.splits]
    if before is not None:
        how = f"was divided before ({before.describe()})"
    elif there:
        counts = [f"{split} {len(manifest.indices(split))}" for split in there]
        how = f"has these splits already ({some(counts)} images)"
    else:
        return
    raise UsageError(
        f"{where} {how} and is left as it is; ltcache split CACHE --split ... --replace puts their "
        "images back into train and divides anew"
    )


def _blocks(cache: Cache, rows: np.ndarray, recipe: SplitRecipe) -> np.ndarray:
    """Return int64 (n,), the block of each row; numbers are drawn from what is in the blocks."""
    table, count = cache.manifest.rows.take(pa.array(rows)), len(rows)
    pairs = [equal_pairs(content_codes(cache, rows))]
    for column in recipe.by:
        texts = whole_texts(table[column]).cast(pa.large_string())
        named = pc.if_else(pc.equal(texts, ""), pa.scalar(None, texts.type), texts)  # as a csv has
        codes = pc.dictionary_encode(named).indices
        pairs.append(equal_pairs(pc.fill_null(codes, -1).to_numpy()))
    if recipe.near is not None:
        pairs.append(equal_pairs(near_groups(cache, rows, recipe.near)))
    groups = joined_groups(count, pairs)
    names = zip(table["sha256"].to_pylist(), table["key"].to_pylist(), strict=True)
    drawn = np.array([bytes_digest(f"{recipe.seed} {sha or key}".encode()) for sha, key in names])
    order = np.argsort(drawn, kind="stable")
    _, first, found = np.unique(groups[order], return_index=True, return_inverse=True)
    result = np.empty(count, np.int64)
    result[order] = np.argsort(np.argsort(first))[found]
    return result


def _report(
    cache: Cache, recipe: SplitRecipe, splits: np.ndarray, fill: SplitFill | None
) -> SplitReport:
    found = dict(Counter(splits.tolist()))
    counts = {name: found[name] for name in (*SPLITS, *found) if name in found}
    if fill is None:
        return SplitReport(recipe, counts, 0, {}, {})
    names, assigned = cache.classes.names, int((fill.placed == FREE).sum())
    classes = np.concatenate(fill.images.parts[0])
    blocks = np.bincount(classes, minlength=len(fill.total))
    lacking: dict[str, dict[str, str]] = {}
    uneven: dict[str, dict[str, tuple[int, float]]] = {}
    for number, split in enumerate(recipe.shares, 1):
        filled, asked = fill.filled[number], fill.asked[number - 1]
        for label in np.flatnonzero((filled == 0) & (fill.total > 0)).tolist():
            why = _why_none(int(fill.total[label]), int(blocks[label]))
            lacking.setdefault(split, {})[names[label]] = why
        for label in np.flatnonzero((filled > 0) & (abs(filled - asked) > 1 + 1e-6)).tolist():
            sizes = (int(filled[label]), float(asked[label]))
            uneven.setdefault(split, {})[names[label]] = sizes
    return SplitReport(recipe, counts, assigned, lacking, uneven)


def _why_none(images: int, blocks: int) -> str:
    if images == 1:
        return "1 image"
    return f"its {images} images belong together" if blocks == 1 else f"{images} images"
