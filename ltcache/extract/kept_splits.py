"""A list without splits, brought to those of the divided cache that holds its images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.cache import Cache
from ltcache.images import is_composite
from ltcache.manifest import SPLITTING, WAITING, Manifest, place_among, recipe_of, whole_texts


def keep_splits(cache: Cache, manifest: Manifest) -> Manifest:
    """Return a list whose rows have the splits that their keys have in a divided cache.

    A new row waits (:data:`WAITING`) until its features are known. A list that has such splits
    itself is returned as it is.
    """
    recipe = recipe_of(cache.manifest) if cache.divided else None
    if recipe is None or set(manifest.splits) & {*recipe.shares, WAITING}:
        return manifest
    old, rows = cache.manifest.rows, manifest.rows
    old = old.filter(pc.is_in(old["split"], pa.array(["train", WAITING, *recipe.shares])))
    # composites are drawn from the training rows: new ones are refused as such
    fresh = "train" if any(map(is_composite, cache.views)) else WAITING
    split = pc.fill_null(_looked_up(rows["key"], old["key"], old["split"]), fresh)
    split = _where(_to_divide(rows, "train"), split, rows["split"])
    card = {**manifest.card, SPLITTING: recipe.to_dict()}
    return replace(manifest, rows=with_splits(rows, split), card=card)


def keep_splits_of_items(cache: Cache, manifest: Manifest, items: np.ndarray) -> Manifest:
    """Return a list whose waiting rows have the split that their image has in a cache.

    A file that was renamed or moved to another class stays in its split.

    Args:
        items: int64 (rows,), the item of each of the manifest's rows.
    """
    rows = manifest.rows
    waiting = _to_divide(rows, WAITING)
    if not pc.any(waiting).as_py():
        return manifest
    old = cache.manifest.rows
    split = _looked_up(pa.chunked_array([pa.array(items)]), old["item"], old["split"])
    found = _where(waiting, pc.fill_null(split, WAITING), rows["split"])
    return replace(manifest, rows=with_splits(rows, found))


def undivided(manifest: Manifest, cache: Cache) -> Manifest:
    """Return a list without the splits that a cache was divided into: their rows are of train."""
    recipe = recipe_of(cache.manifest) if cache.divided else None
    if recipe is None:
        return manifest
    rows = manifest.rows
    made = pc.is_in(whole_texts(rows["split"]), pa.array([WAITING, *recipe.shares]))
    train = pc.if_else(made, "train", whole_texts(rows["split"]))
    return replace(manifest, rows=with_splits(rows, train))


def with_splits(rows: pa.Table, splits: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Return rows in other splits."""
    return rows.set_column(rows.column_names.index("split"), "split", splits)


def _to_divide(rows: pa.Table, split: str) -> pa.ChunkedArray:
    """Return which rows of a split have a label."""
    return pc.and_(pc.equal(rows["split"], split), pc.greater_equal(rows["label"], 0))


def _where(chosen: pa.ChunkedArray, values: pa.Array, others: pa.ChunkedArray) -> pa.Array:
    whole = [whole_texts(part) for part in (chosen, others)]
    return pc.if_else(whole[0], values, whole[1])


def _looked_up(
    values: pa.ChunkedArray, known: pa.ChunkedArray, splits: pa.ChunkedArray
) -> pa.Array:
    """Return the split beside each value among the known ones, null where it is not there."""
    return whole_texts(splits).take(place_among(values, known))
