"""Features in memory or mapped, written as a cache in the format of extraction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ltcache.cache import (
    Cache,
    EncoderState,
    Plan,
    PromptEmbeddings,
    claim_plan,
    commit_shard,
    finalise,
    index_path,
    open_cache,
    read_shard_record,
    stored,
)
from ltcache.manifest import Manifest
from ltcache.records import bytes_digest, digest, one_line, remove_leftovers, require_equal
from ltcache.transfer.arrays import StackedArrays

CENTER = "center"


@one_line
@dataclass
class ImportedContent:
    """Everything that goes into a cache; n rows are n items.

    Args:
        manifest: of the n rows.
        stacks: field -> features, n rows each.
        encoder: what is known of the encoder.
        prompts: sets of class texts.
        errors: row -> why it failed already where it comes from.
        sources: columns ``sha256``, ``width`` and ``height`` of the images, where they are known.
    """

    manifest: Manifest
    stacks: Mapping[str, StackedArrays]
    encoder: EncoderState
    prompts: list[PromptEmbeddings]
    errors: Mapping[int, str] = field(default_factory=dict)
    sources: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def write_cache(out: Path, content: ImportedContent, shard_size: int) -> Cache:
    """Write a cache, or go on with one; returns it.

    A finished one is left as it is, but for shards that it has lost.

    Raises:
        IdentityError: a cache of the same features is there, with other texts or another scale.
    """
    plan = Plan(
        encoder=content.encoder.identity,
        numerics=content.encoder.numerics,
        manifest=content.manifest.identity(),
        views=(CENTER,),
        fields={name: stack.dim for name, stack in content.stacks.items()},
        items=len(content.manifest),
        shard_size=shard_size,
        micro_batch=shard_size,
        images=_values_digest(content.stacks),
    )
    claim_plan(out, plan)
    finished = index_path(out).exists()
    remove_leftovers(out)

    def there(shard: int) -> bool:
        by_others = not finished and index_path(out).exists()
        return by_others or read_shard_record(out, CENTER, shard) is not None

    for shard in plan.shards:
        if not there(shard):
            _write_shard(out, shard, plan.item_range(shard), content)
    if not index_path(out).exists():  # before, or another process was quicker
        items = np.arange(plan.items, dtype=np.int64)
        finalise(out, [plan], content.manifest, items, content.encoder, content.prompts)
    cache = open_cache(out)
    _require_content(cache, content)
    return cache


def _require_content(cache: Cache, content: ImportedContent) -> None:
    """Refuse a cache that was finished before with what no plan names: texts, scale, units."""
    encoder, rows = content.encoder, content.manifest.rows
    texts = [prompts.name for prompts in content.prompts]
    there = {
        name: dict(cache.prompts(name).identity) for name in texts if name in cache.prompt_names
    }
    wanted = {
        "logit_scale": encoder.logit_scale,
        "logit_bias": encoder.logit_bias,
        "projection": _digest_of(encoder.projection),
        "texts": {prompts.name: dict(prompts.identity) for prompts in content.prompts},
        "units": _units(rows) if "unit" in rows.column_names else None,
    }
    found = {
        "logit_scale": cache.logit_scale,
        "logit_bias": cache.logit_bias,
        "projection": _digest_of(cache.projection),
        "texts": there,
        "units": None if cache.column("unit") is None else _units(cache.table("unit")),
    }
    remedy = (
        f"{cache.path} was finished with the expected values and is left as it is: choose another "
        "--out, or remove it first"
    )
    require_equal("import", found, wanted, remedy=remedy)


def _units(rows: pa.Table) -> str:
    return digest([str(unit) for unit in rows["unit"].to_pylist()])


def _digest_of(array: np.ndarray | None) -> str | None:
    if array is None:
        return None
    return bytes_digest(np.ascontiguousarray(array, np.float32).data.cast("B"))


def _values_digest(stacks: Mapping[str, StackedArrays], block: int = 4096) -> str:
    """Return a digest of the features as they will be stored: an import of others is another."""
    parts = [
        [name, start, bytes_digest(np.ascontiguousarray(stored(rows)).data.cast("B"))]
        for name, stack in sorted(stacks.items())
        for start in range(0, len(stack), block)
        if (rows := stack.block(start, min(start + block, len(stack)))).size
    ]
    return digest(parts)


def _write_shard(out: Path, shard: int, items: range, content: ImportedContent) -> None:
    features = {name: s.block(items.start, items.stop) for name, s in content.stacks.items()}
    errors = {row - items.start: content.errors[row] for row in items if row in content.errors}
    for values in features.values():
        for text, bad in (
            ("the imported features are not finite", ~np.isfinite(values).all(axis=(1, 2))),
            ("the imported features are zero", (values == 0).all(axis=2).any(axis=1)),
        ):
            for row in np.flatnonzero(bad).tolist():
                errors.setdefault(row, text)
    for values in features.values():
        values[list(errors)] = np.nan
    blank = {"sha256": "", "width": 0, "height": 0}
    columns = {
        name: list(content.sources[name][items.start : items.stop])
        if name in content.sources
        else [empty] * len(items)
        for name, empty in blank.items()
    }
    commit_shard(
        out, CENTER, shard, features,
        first=items.start, count=len(items), micro_batch=len(items), content=columns["sha256"],
        width=columns["width"], height=columns["height"], errors=errors,
    )  # fmt: skip
