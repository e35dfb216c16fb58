"""What made a cache, what is in it and what it cost, as one value."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ltcache.cache.cost import read_cost
from ltcache.cache.layers import as_json
from ltcache.cache.reader import Cache


def summarise_cache(cache: Cache) -> dict[str, Any]:
    """Return encoder, views, prompts, statuses and cost of a cache, a value for JSON.

    Returns:
        ``encoder`` (how it was named), ``architecture``, ``towers`` (SHA-256), ``numerics``,
        ``views`` (view -> field -> dimension, [T, P] of tokens), ``prompts`` (set -> sentences),
        ``status`` (status -> rows), ``failed`` (the first five, key -> reason), ``bytes``, ``cost``
        (images, seconds).
    """
    rows = cache.manifest.rows
    failed = [
        (key, error)
        for key, error in zip(rows["key"].to_pylist(), rows["error"].to_pylist(), strict=True)
        if error is not None
    ]
    return {
        "encoder": {name: value for name, value in cache.provenance.items() if value},
        "architecture": cache.encoder["architecture"]["name"],
        "towers": cache.encoder["towers"],
        "numerics": cache.numerics,
        "views": {
            view: {name: as_json(dims) for name, dims in cache.field_shapes(view).items()}
            for view in cache.views
        },
        "prompts": {name: int(cache.prompts(name).count.sum()) for name in cache.prompt_names},
        "status": dict(Counter(rows["status"].to_pylist())),
        "failed": dict(failed[:5]),
        "bytes": sum(entry["bytes"] for entry in cache.files.values()),
        "cost": read_cost(cache.path),
    }
