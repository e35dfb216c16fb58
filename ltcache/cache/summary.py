"""What made a cache, what is in it and what it cost, as one value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ltcache.cache.cost import read_cost
from ltcache.cache.layers import as_json
from ltcache.cache.reader import Cache
from ltcache.manifest import kept_root
from ltcache.records import JsonRecord


@dataclass(frozen=True)
class CacheSummary(JsonRecord):
    """Encoder, views, prompts, statuses and cost of a cache.

    Attributes:
        encoder: how it was named. towers: tower -> SHA-256.
        views: view -> field -> dimension, [T, P] of tokens.
        prompts: set -> sentences. status: status -> rows.
        failed: the first five, key -> reason. cost: see :func:`ltcache.cache.read_cost`.
        root: where the images were, or None.
    """

    encoder: Mapping[str, str]
    architecture: str
    towers: Mapping[str, str]
    numerics: Mapping[str, Any]
    views: Mapping[str, Mapping[str, int | list[int]]]
    prompts: Mapping[str, int]
    status: Mapping[str, int]
    failed: Mapping[str, str]
    bytes: int
    cost: Mapping[str, float]
    root: str | None


def summarise_cache(cache: Cache) -> CacheSummary:
    """Return what made a cache, what is in it and what it cost."""
    rows, root = cache.manifest.rows, kept_root(cache.path)
    failed = [
        (key, error)
        for key, error in zip(rows["key"].to_pylist(), rows["error"].to_pylist(), strict=True)
        if error is not None
    ]
    return CacheSummary(
        encoder={name: value for name, value in cache.provenance.items() if value},
        architecture=cache.encoder["architecture"]["name"],
        towers=cache.encoder["towers"],
        numerics=cache.numerics,
        views={
            view: {name: as_json(dims) for name, dims in cache.field_shapes(view).items()}
            for view in cache.views
        },
        prompts={name: int(cache.prompts(name).count.sum()) for name in cache.prompt_names},
        status=dict(Counter(rows["status"].to_pylist())),
        failed=dict(failed[:5]),
        bytes=sum(entry["bytes"] for entry in cache.files.values()),
        cost=read_cost(cache.path),
        root=None if root is None else str(root),
    )
