"""What the composites of a cache are made of, and that it stays the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.cache import Cache
from ltcache.errors import CacheError, UsageError
from ltcache.images import PartnerRows, is_composite
from ltcache.manifest import Manifest


def composed_of(cache: Cache, views: Sequence[str] | None) -> PartnerRows | None:
    """Return what composites are made of, None where a cache has none and none is asked for.

    Raises:
        CacheError: no training row has features, or those that have are not what a view was made
            of.
    """
    there = [layer for layer in cache.layers if is_composite(layer.name)]
    if not there and not any(is_composite(name) for name in views or ()):
        return None
    partners = PartnerRows.of(cache.manifest.rows)
    if not len(partners):
        raise CacheError(
            f"{cache.path}: composites are made of labelled training images, and none has features"
        )
    for layer in there:
        if layer.view["partners"] != partners.digest:
            raise CacheError(
                f"{cache.path}: its training rows are not those that {layer.name} was made of: "
                "damaged, see ltcache verify"
            )
    return partners


def require_training_rows(cache: Cache, manifest: Manifest, items: np.ndarray) -> None:
    """Refuse a list whose labelled training rows are others than those of a cache.

    Args:
        items: int64 (rows,), the item of each of the manifest's rows.

    Raises:
        UsageError: they differ; names some.
    """
    old = _training(cache.manifest.rows, cache.manifest.rows["item"].to_numpy())
    new = _training(manifest.rows, items)
    if old.equals(new):
        return
    before, now = (set(zip(*table.to_pydict().values(), strict=True)) for table in (old, new))
    keys = sorted({key for key, _, _ in before ^ now})
    raise UsageError(
        f"{cache.path} has composites (cmo), which are drawn from its labelled training rows, and "
        f"{len(keys)} of these are new, gone, relabelled or to be encoded again, for example "
        f"{', '.join(keys[:5])}: choose another --out, or leave the training rows as they are"
    )


def _training(rows: pa.Table, items: np.ndarray) -> pa.Table:
    """Return key, label and item of the labelled training rows, sorted."""
    keep = pc.and_(pc.equal(rows["split"], "train"), pc.greater_equal(rows["label"], 0))
    columns = {"key": rows["key"], "label": rows["label"], "item": pa.array(items)}
    found = pa.table(columns).filter(pc.fill_null(keep, False))
    order = [("key", "ascending"), ("label", "ascending"), ("item", "ascending")]
    return found.sort_by(order).combine_chunks()
