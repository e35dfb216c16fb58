"""A plan: what one extraction set out to do, agreed on by every process that works on it.

Items are images to encode, numbered in plan order; shards are fixed ranges of items; micro-batches
are fixed slices of a shard. None of them depends on the number of workers, so that an interrupted
and resumed extraction computes every value with the same operations as an uninterrupted one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltcache.cache.layout import plan_path
from ltcache.cache.staging import create_file
from ltcache.errors import CacheError
from ltcache.records import (
    JsonRecord,
    canonical_json,
    one_line,
    read_record,
    require_equal,
)

FORMAT = 1


@one_line
@dataclass(frozen=True)
class Plan(JsonRecord):
    """What is encoded by what, in which pieces.

    Args:
        encoder: identity of the encoder.
        numerics: what changes last bits: decoder, precision, device kind, threads, versions.
        manifest: identity of the manifest whose images are the items.
        views: names of the views to encode.
        fields: field -> dimension.
        items: number of items, numbered from ``first_item``.
        shard_size: items in a shard (the last one may be shorter).
        micro_batch: images in one forward pass; never crosses a shard.
        first_item, first_shard: where numbering goes on in a cache that grows.
        images: digest of the items' uris and contents, where they were hashed beforehand.
        number: of the plan, from 1.
    """

    encoder: Mapping[str, Any]
    numerics: Mapping[str, Any]
    manifest: Mapping[str, Any]
    views: tuple[str, ...]
    fields: Mapping[str, int]
    items: int
    shard_size: int
    micro_batch: int
    first_item: int = 0
    first_shard: int = 0
    images: str = ""
    number: int = 1
    format: int = FORMAT

    @property
    def decoder(self) -> str:
        """What turns files into pixels; Pillow where nothing else is recorded."""
        return str(self.numerics.get("decoder", "pillow"))

    @property
    def shards(self) -> range:
        """Numbers of the plan's shards, in each view."""
        return range(self.first_shard, self.first_shard - (-self.items // self.shard_size))

    @property
    def end(self) -> int:
        """The item after the last one."""
        return self.first_item + self.items

    def item_range(self, shard: int) -> range:
        """Return the items of a shard."""
        first = self.first_item + (shard - self.first_shard) * self.shard_size
        return range(first, min(first + self.shard_size, self.end))


def read_plan(cache: Path, number: int = 1) -> Plan | None:
    """Return a plan of a cache, or None where there is none.

    Raises:
        CacheError: the file is not a plan that this version of ltcache can read.
    """
    path = plan_path(cache, number)
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text())
        if value["format"] != FORMAT:
            raise CacheError(f"{path}: format {value['format']}, this ltcache reads {FORMAT}")
        return read_record(Plan, value, name="the plan", newest=FORMAT)
    except (ValueError, KeyError, TypeError) as error:
        raise CacheError(f"{path}: not a plan ({error}); remove the unfinished cache") from None


def read_plans(cache: Path) -> list[Plan]:
    """Return all plans of a cache, in order."""
    plans: list[Plan] = []
    while plan := read_plan(cache, len(plans) + 1):
        plans.append(plan)
    return plans


def claim_plan(cache: Path, plan: Plan) -> bool:
    """Make ``plan`` the cache's plan, or join it where it stands already.

    Returns:
        Whether this call made it.

    Raises:
        IdentityError: the cache was begun with another plan; names every differing field.
    """
    data = canonical_json(plan.to_dict()).encode()
    if create_file(cache, plan_path(cache, plan.number), data):
        return True
    existing = read_plan(cache, plan.number)
    assert existing is not None
    require_equal(
        "plan",
        existing.to_dict(),
        plan.to_dict(),
        remedy=f"{cache} was begun with the expected values: continue with these, "
        "or choose another --out",
    )
    return False
