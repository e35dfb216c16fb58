"""Rows of a cache as a fit takes them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch

from ltcache.cache import Cache, has_labels, labelled_split
from ltcache.errors import CacheError
from ltcache.fit.composites import CompositeRows, composites_among
from ltcache.fit.rows import LabelledRows
from ltcache.images import PartnerRows, Preprocessing, View
from ltcache.methods import Method, Train


def training_rows(cache: Cache, field: str, *methods: Method) -> LabelledRows:
    """Return the labelled training rows, with composites where a stage asks for them.

    Args:
        methods: of equal features.

    Raises:
        CacheError: no training row has a label, or the cache lacks the view of composites.
    """
    view = methods[0].feature.view
    rows = labelled_rows(cache, "train", field, view)
    named = [name for name in map(composite_view, methods) if name is not None]
    if not named:
        return rows
    composites = composites_of(cache, field, named[0])
    crops = cache.crops(view)  # each crop of an image has the image's composites
    first = composites.partners.repeat_interleave(crops, dim=0) * crops
    features, shares = (
        v.repeat_interleave(crops, dim=0) for v in (composites.features, composites.shares)
    )
    return replace(rows, composites=CompositeRows(features, first, shares))


def composite_view(method: Method) -> str | None:
    """Return the view of composites that a method trains on; None: on none."""
    uses = any(isinstance(stage, Train) and stage.composites > 0 for stage in method.stages)
    name = method.feature.composites
    return name if uses and name != "none" else None


def composites_of(cache: Cache, field: str, name: str) -> CompositeRows:
    """Return the composites of the labelled training rows, in the order of the manifest.

    Of a cache whose list was changed, such as one without a fold, a composite with an image that
    trains no longer is the plain image.

    Raises:
        CacheError: the cache has no such view, or was extracted with other training rows than those
            that the view was made of.
    """
    if name not in cache.views:
        raise CacheError(
            f"{cache.path}: no view {name!r}, only {', '.join(cache.views)}; "
            f"{cache.how_to_add(name)}"
        )
    view = View.from_identity(cache.identities(name)["view"])
    partners = PartnerRows.of(cache.extracted_table(*PartnerRows.COLUMNS))
    if partners.digest != view.partners:
        raise CacheError(
            f"{cache.path}: its training rows are not those that {name} was made of, so that "
            "nobody knows the labels of its composites; see ltcache verify"
        )
    kept = labelled_split(cache, "train").positions
    numbers = cache.rows("train")[kept]
    size = Preprocessing.from_dict(cache.encoder["preprocessing"]).size
    contents = cache.manifest.rows["sha256"].take(numbers).to_pylist()
    drawn, shares = partners.draw_all(view, contents, size)
    place = np.full(len(cache.manifest.rows), -1, np.int64)
    place[numbers] = np.arange(len(numbers))
    pasted = torch.from_numpy(place[partners.rows[drawn]])
    read = partial(_features_of, cache, field, kept)
    parts = read(name), pasted, torch.from_numpy(shares.astype(np.float32))
    return (
        CompositeRows(*parts)
        if bool((pasted >= 0).all())
        else composites_among(*parts, read("center")[:, 0])
    )


def _features_of(cache: Cache, field: str, kept: np.ndarray, view: str) -> torch.Tensor:
    """Return a view of some training rows, float32 (n, v, D)."""
    features = cache.features("train", field, view)[kept]
    return torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))


def labelled_rows(cache: Cache, split: str, field: str, view: str) -> LabelledRows:
    """Return the labelled rows of a split; each crop of a view is a row of the same unit.

    Raises:
        CacheError: there is no such split, or none of its rows has a label.
    """
    there = labelled_split(cache, split)
    features, labels = cache.features(split, field, view), there.labels  # (n, v, D), (N,)
    crops, shape = features.shape[1], features.shape[2:]
    names = there.positions if there.units is None else there.units
    if len(labels) < len(features):
        features = features[there.positions]
    flat = np.ascontiguousarray(features.reshape(-1, *shape), dtype=np.float32)
    return LabelledRows(
        torch.from_numpy(flat),
        torch.from_numpy(np.repeat(labels, crops)),
        units=np.repeat(names, crops),
        images=torch.arange(len(labels)).repeat_interleave(crops) if crops > 1 else None,
    )


def val_rows(cache: Cache, field: str, method: Method) -> LabelledRows | None:
    """Return the labelled rows of the validation split, or None where there are none."""
    if not has_labels(cache, "val"):
        return None
    return labelled_rows(cache, "val", field, method.feature.eval_view)
