"""Where the files of a cache lie.

    CACHE/
      cache.json                 the index; absent = not finished
      plans/0001.json            what one extraction set out to do
      plans/layer-<layer>.json   a view or a field that was added, see ltcache.cache.layers
      views/<layer>/00000.h5     features of an item range; 00000.json is its commit record
      views/<layer>/.<sha16>.00000.h5    features that wait for their record to be created
      prompts/<id>.h5            class texts
      encoder.json encoder.safetensors classes.json manifest-<sha8>.parquet
                                 of long lists several of the last, in the order that the index
                                 says; after growth also classes-<sha8>.json: what is there stays
      rest.safetensors           of a cache with tokens: the image tower behind them
      cost.jsonl root.json       what it cost, where its images are: no digest covers them
      origin.json                of a mirror: the address that its files come from

How a file appears there, whole or not at all: :mod:`ltcache.records.files`.
"""

from __future__ import annotations

from pathlib import Path

CENTER = "center"
"""The view that every cache has: the encoder's own preprocessing."""


def index_path(cache: Path) -> Path:
    """Return the path of the index, the only file that is ever replaced."""
    return cache / "cache.json"


def plan_path(cache: Path, number: int) -> Path:
    """Return the path of the ``number``-th plan, counted from 1."""
    return cache / "plans" / f"{number:04d}.json"


def layer_path(cache: Path, layer: str) -> Path:
    """Return the path of what a layer that was added is to hold."""
    return cache / "plans" / f"layer-{layer}.json"


def shard_path(cache: Path, layer: str, shard: int) -> Path:
    """Return the path of a shard's features in a layer (by the name of its folder)."""
    return cache / "views" / layer / f"{shard:05d}.h5"


def record_path(cache: Path, layer: str, shard: int) -> Path:
    """Return the path of a shard's commit record; without it the shard does not exist."""
    return cache / "views" / layer / f"{shard:05d}.json"


def prompts_path(cache: Path, identity_digest: str) -> Path:
    """Return the path of a set of class texts, named by what made it."""
    return cache / "prompts" / f"{identity_digest[:16]}.h5"


def origin_path(cache: Path) -> Path:
    """Return the path of the address of which a folder is the mirror; only mirrors have it."""
    return cache / "origin.json"
