"""What is committed of a cache that has not finished, and the removal of damaged shards.

A shard exists by its commit record. To repair a shard is therefore to remove its record and its
features, and nothing else: the next ``ltcache extract`` encodes exactly what lacks a record.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ltcache.cache.contents import DamagedFile, check_field, check_record
from ltcache.cache.index import read_index
from ltcache.cache.layers import Layer, begun_layers, dims_of, layers_of
from ltcache.cache.layout import index_path, record_path, shard_path
from ltcache.cache.plan import Plan, read_plan, read_plans
from ltcache.cache.shards import read_shard_record
from ltcache.errors import CacheError
from ltcache.records import file_digest

AGAIN = "ltcache verify --repair removes it, and the same ltcache extract then encodes it again"


@dataclass(frozen=True)
class UnfinishedCache:
    """What is there of a cache that has not finished.

    Args:
        shards, all_shards: committed, and all that the plans name, over every layer.
        items, all_items: images likewise.
        bytes: of the committed shards.
        problems: (file, what is wrong with it).
    """

    shards: int
    all_shards: int
    items: int
    all_items: int
    bytes: int
    problems: tuple[tuple[str, str], ...]


def check_committed(cache: Path) -> UnfinishedCache:
    """Compare every committed shard of an unfinished cache with its record and its plan.

    Raises:
        CacheError: no cache was begun here, or its plan cannot be read.
    """
    first = read_plan(cache)
    if first is None:
        raise CacheError(f"{cache}: not a feature cache, nor one that was begun (no plans)")
    shards = items = size = 0
    problems: list[tuple[str, str]] = []
    plans, layers = read_plans(cache), begun_layers(cache, first)
    for layer, plan, shard in _every_shard(layers, plans):
        if not record_path(cache, layer.folder, shard).exists():
            continue
        shards += 1
        items += len(plan.item_range(shard))
        try:
            size += _check_shard(cache, layer, shard, plan.item_range(shard))
        except DamagedFile as found:
            problems.append((found.file, found.text))
    total = [len(plan.item_range(shard)) for _, plan, shard in _every_shard(layers, plans)]
    return UnfinishedCache(shards, len(total), items, sum(total), size, tuple(problems))


def count_committed(cache: Path) -> tuple[int, int]:
    """Return how many images have features in a committed shard, and how many are to have them.

    Those of each layer are counted apart. Nothing is read but the plans; before anything was begun
    both are 0.
    """
    first = read_plan(cache)
    if first is None:
        return 0, 0
    done = total = 0
    for layer, plan, shard in _every_shard(begun_layers(cache, first), read_plans(cache)):
        size = len(plan.item_range(shard))
        total += size
        done += size if record_path(cache, layer.folder, shard).exists() else 0
    return done, total


def _every_shard(
    layers: Sequence[Layer], plans: Sequence[Plan]
) -> Iterator[tuple[Layer, Plan, int]]:
    for layer in layers:
        for plan in plans:
            for shard in plan.shards:
                yield layer, plan, shard


def _check_shard(cache: Path, layer: Layer, shard: int, items: range) -> int:
    """Return the size of a sound shard; raises :class:`DamagedFile` for another."""
    path, data = record_path(cache, layer.folder, shard), shard_path(cache, layer.folder, shard)
    try:
        record = read_shard_record(cache, layer.folder, shard)
    except CacheError as error:
        raise DamagedFile(cache, path, str(error)) from None
    if record is None:
        raise DamagedFile(cache, data, "missing, or not of the size that its record says")
    if file_digest(data) != record.sha256:
        raise DamagedFile(cache, data, "its content is not that which its record names by SHA-256")
    check_record(cache, path, record, items)
    for name, shape in layer.fields.items():
        check_field(cache, layer, shard, record, name, dims_of(shape))
    return record.bytes


def repair_shards(cache: Path, damaged: Sequence[str]) -> list[str]:
    """Remove the records and the features of damaged shards; touches nothing else.

    Args:
        damaged: files relative to the cache; those that are no shards are left alone.

    Returns:
        The shards that were removed, as ``views/<layer>/<number>``.
    """
    shards = sorted(_known_shards(cache) & {name.rpartition(".")[0] for name in damaged})
    for name in shards:
        for suffix in (".json", ".h5"):  # the record first: without it there is no shard
            cache.joinpath(name + suffix).unlink(missing_ok=True)
    return shards


def _known_shards(cache: Path) -> set[str]:
    if index_path(cache).exists():
        index = read_index(cache, check_sizes=False)
        shards = [
            (layer, shard)
            for layer in layers_of(index)
            for shard, _, _ in index["views"][layer.name]["shards"]
        ]
    else:
        first = read_plan(cache)
        layers = begun_layers(cache, first) if first else []
        shards = [(layer, shard) for layer, _, shard in _every_shard(layers, read_plans(cache))]
    names = (shard_path(Path(), layer.folder, shard) for layer, shard in shards)
    return {name.with_suffix("").as_posix() for name in names}
