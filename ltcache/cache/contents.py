"""Do the files of a cache agree with each other, given that each is what its writer wrote?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.cache.agreement import foreign_parts
from ltcache.cache.layers import Layer, dims_of, layers_of
from ltcache.cache.layout import prompts_path, record_path, shard_path
from ltcache.cache.norms import NormStats, norm_stats
from ltcache.cache.plan import read_plan
from ltcache.cache.prompt_set import PromptEmbeddings
from ltcache.cache.reader import Cache
from ltcache.cache.row_files import row_files
from ltcache.cache.shards import ShardRecord, map_array, merged_errors, read_shard_record
from ltcache.errors import CacheError
from ltcache.records import digest, one_line

_PARTS = {"classes": "class list", "text_tower": "text tower", "tokenizer": "tokenizer"}
_BLOCK = 4096  # rows in memory at a time
_PROJECTED = 64  # rows of each shard whose embedding is compared with the projection of pooled
_PROJECTION_COSINE = 0.99  # holds for bf16 towers too


FoundProblems = list[tuple[str, str]]
"""(file relative to the cache, what is wrong with it)."""

FeatureLengths = dict[str, tuple[np.ndarray, np.ndarray]]
"""``view/field`` -> items and lengths of the features that were read."""


@one_line
@dataclass
class CacheContents:
    """What the contents of a cache, or of some of its shards, gave.

    Args:
        rows, failed: rows of the manifest, and those that failed; None where it cannot be read.
        problems: of what all shards have in common.
        of_shards: what was compared -> problems of the shards that were read, in their order.
    """

    rows: int | None = None
    failed: int | None = None
    problems: FoundProblems = field(default_factory=list)
    of_shards: dict[str, FoundProblems] = field(default_factory=dict)


def check_contents(
    path: Path, index: Mapping[str, Any], chosen: Mapping[str, Sequence[int]]
) -> tuple[CacheContents, FeatureLengths]:
    """Compare plans, records, shards, rows and class texts with each other.

    Args:
        index: of the cache, whose files are known to be whole.
        chosen: view -> shards to read.
    """
    result, lengths = CacheContents(), FeatureLengths()
    try:
        cache = Cache(path, index)
        rows = cache.manifest.rows
        result.rows = rows.num_rows
        result.failed = int(pc.sum(pc.equal(rows["status"], "failed")).as_py() or 0)
    except (CacheError, KeyError) as error:
        result.problems.append((row_files(index)[0], str(error)))
        return result, lengths
    result.problems += _check_plans(cache, index)
    result.problems += _check_ranges(index)
    layers = layers_of(index)
    records: dict[str, dict[int, ShardRecord]] = {}
    for layer in layers:
        found = result.of_shards[f"layer {layer.folder}"] = []
        records[layer.folder] = _check_layer(
            cache, index, layer, chosen[layer.name], found, lengths
        )
    for view, shards in chosen.items():
        found = list(_check_projections(cache, view, shards, records))
        result.of_shards[f"projections of {view}"] = found
    ranges = index["views"][layers[0].name]["shards"]
    owner = _owner_of_rows(rows, row_files(index)[0], ranges, result.problems)
    if owner is not None:
        found = list(_check_rows(rows, row_files(index)[0], ranges, records, owner))
        result.of_shards["rows"] = found
    for name in cache.prompt_names:
        result.problems += _check_prompts(cache, name, index["prompts"][name])
    return result, lengths


def length_statistics(
    path: Path, index: Mapping[str, Any], lengths: FeatureLengths
) -> tuple[dict[str, NormStats], list[str]]:
    """Return statistics of lengths, and a warning of each field in which some are odd."""
    norms = {name: norm_stats(*found) for name, found in lengths.items()}
    warnings = []
    if any(stats.outliers for stats in norms.values()):
        cache = Cache(path, index)
        warnings = [
            text for name, stats in norms.items() for text in _odd_lengths(cache, name, stats)
        ]
    return norms, warnings


def _check_plans(cache: Cache, index: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for number in index["plans"]:
        name = f"plans/{number:04d}.json"
        try:
            plan = read_plan(cache.path, number)
        except CacheError as error:
            yield name, str(error)
            continue
        if plan is None or digest(plan.encoder) != digest(cache.encoder):
            yield name, "its encoder is not the one in encoder.json"


def _check_ranges(index: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every view has the same shards, each behind the one before it."""
    first = next(iter(index["views"].values()))["shards"]
    for view, entry in index["views"].items():
        if entry["shards"] != first:
            yield "cache.json", f"view {view!r}: its shards are not those of the other views"
        end = 0
        for number, start, count in entry["shards"]:
            if start < end or count < 1:
                text = f"the items of shard {number} do not follow those before it"
                yield "cache.json", f"view {view!r}: {text}"
            end = start + count


def _check_layer(
    cache: Cache,
    index: Mapping[str, Any],
    layer: Layer,
    shards: Sequence[int],
    problems: FoundProblems,
    lengths: FeatureLengths,
) -> dict[int, ShardRecord]:
    """Check records and shards of a layer, and add what is found; returns the sound records."""
    records = {}
    none = np.zeros(0, np.int64), np.zeros(0, np.float32)
    read = {name: [none] for name, shape in layer.fields.items()}
    wanted = set(shards)
    for shard, first, count in index["views"][layer.name]["shards"]:
        if shard not in wanted:
            continue
        try:
            record = _record(cache.path, index, layer.folder, shard, range(first, first + count))
            records[shard] = record
            for name, shape in layer.fields.items():
                part = check_field(cache.path, layer, shard, record, name, dims_of(shape))
                read[name].append(part)
        except DamagedFile as found:
            records.pop(shard, None)
            problems.append((found.file, found.text))
    for name, parts in read.items():
        if len(dims_of(layer.fields[name])) == 1:
            items, norms = (np.concatenate(column) for column in zip(*parts, strict=True))
            lengths[f"{layer.name}/{name}"] = items, norms
    return records


class DamagedFile(Exception):
    """A problem in the file at ``path``."""

    def __init__(self, cache: Path, path: Path, text: str) -> None:
        self.file, self.text = path.relative_to(cache).as_posix(), text
        super().__init__(text)


def _record(
    cache: Path, index: Mapping[str, Any], layer: str, shard: int, items: range
) -> ShardRecord:
    """Return a shard's record if it agrees with the index and with itself."""
    path, data = record_path(cache, layer, shard), shard_path(cache, layer, shard)
    try:
        record = read_shard_record(cache, layer, shard)
    except CacheError as error:
        raise DamagedFile(cache, path, str(error)) from None
    entry = index["files"][data.relative_to(cache).as_posix()]
    if record is None or (record.sha256, record.bytes) != (entry["sha256"], entry["bytes"]):
        raise DamagedFile(cache, path, "its digest of the shard is not the index'")
    check_record(cache, path, record, items)
    return record


def check_record(cache: Path, path: Path, record: ShardRecord, items: range) -> None:
    """Raise :class:`DamagedFile` where a record is not that of a range of items."""
    if range(record.first, record.first + record.count) != items:
        text = f"starts at item {record.first} with {record.count} items, expected {items}"
        raise DamagedFile(cache, path, text)
    if {len(record.content), len(record.width), len(record.height)} != {len(items)}:
        raise DamagedFile(cache, path, f"its lists are not of {len(items)} items")
    if any(not 0 <= position < len(items) for position in record.errors):
        raise DamagedFile(cache, path, "an error lies outside the shard")


def check_field(
    cache: Path, layer: Layer, shard: int, record: ShardRecord, name: str, dims: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return items and lengths of a shard's features after checking that only failures are NaN."""
    path = shard_path(cache, layer.folder, shard)
    try:
        mapped = map_array(path, name)
    except CacheError as error:
        raise DamagedFile(cache, path, str(error)) from None
    expected = (record.count, layer.crops, *dims)
    if mapped.shape != expected:
        raise DamagedFile(cache, path, f"{name!r} is {mapped.shape}, not {expected}")
    if mapped.dtype not in (np.float16, np.float32):
        raise DamagedFile(cache, path, f"{name!r} is of type {mapped.dtype}")
    failed = np.zeros(record.count, bool)
    failed[list(record.errors)] = True
    lengths = np.empty((record.count, mapped.shape[1]), np.float32)
    step = max(1, _BLOCK // dims[0]) if len(dims) > 1 else _BLOCK
    for start in range(0, record.count, step):
        block = np.asarray(mapped[start : start + step], np.float32)
        block = block.reshape(*block.shape[:2], -1)
        known = failed[start : start + step]
        lengths[start : start + step] = np.linalg.norm(block, axis=2)
        for text, bad in (
            ("of a failed item is not NaN throughout", known & ~np.isnan(block).all(axis=(1, 2))),
            ("is not finite, but no failure", ~known & ~np.isfinite(block).all(axis=(1, 2))),
            ("is zero throughout", ~known & (block == 0).all(axis=2).any(axis=1)),
        ):
            if bad.any():
                item = record.first + start + int(np.argmax(bad))
                raise DamagedFile(cache, path, f"{name!r} of {bad.sum()} items {text}: item {item}")
    items = np.repeat(record.first + np.flatnonzero(~failed), mapped.shape[1])
    return items, lengths[~failed].ravel()


def _check_projections(
    cache: Cache,
    view: str,
    shards: Sequence[int],
    records: Mapping[str, Mapping[int, ShardRecord]],
) -> Iterator[tuple[str, str]]:
    """Find embeddings that are not the projection of the pooled features beside them."""
    if cache.projection is None or not {"embedding", "pooled"} <= set(cache.field_dims(view)):
        return
    folders = {
        name: layer.folder
        for layer in cache.layers
        if layer.name == view
        for name in ("embedding", "pooled")
        if name in layer.fields
    }
    for shard in shards:
        if any(shard not in records[folder] for folder in folders.values()):
            continue  # damaged, as said before
        part = {
            name: map_array(shard_path(cache.path, folder, shard), name)[:_PROJECTED]
            for name, folder in folders.items()
        }
        product = part["pooled"].astype(np.float32) @ cache.projection
        if cache.projection_bias is not None:
            product = product + cache.projection_bias
        worst = _least_cosine(part["embedding"].astype(np.float32), product)
        if worst < _PROJECTION_COSINE:
            path = shard_path(cache.path, folders["embedding"], shard).relative_to(cache.path)
            text = f"embeddings are not the projection of the pooled features (cosine {worst:.3f})"
            yield path.as_posix(), text


def _least_cosine(embedding: np.ndarray, product: np.ndarray) -> float:
    lengths = np.linalg.norm(product, axis=2) * np.linalg.norm(embedding, axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = (product * embedding).sum(axis=2) / lengths
    return float(np.nanmin(cosines)) if np.isfinite(cosines).any() else 1.0


def _odd_lengths(cache: Cache, name: str, stats: NormStats) -> Iterator[str]:
    if stats.outliers:
        shown = ", ".join(f"{key_of(cache, item)} {norm:.4g}" for item, norm in stats.first)
        yield (
            f"{name}: {stats.outliers} of {stats.count} lengths are far from the median "
            f"{stats.median:.4g}, such as {shown}"
        )


def key_of(cache: Cache, item: int) -> str:
    """Return the key of the first row of an item."""
    rows = cache.manifest.rows
    found = np.flatnonzero(rows["item"].to_numpy() == item)
    return str(rows["key"][int(found[0])].as_py()) if len(found) else f"item {item} (no row)"


def _owner_of_rows(
    rows: pa.Table, name: str, ranges: Sequence[Sequence[int]], problems: FoundProblems
) -> np.ndarray | None:
    """Return the place of each row's shard, -1 where it has none; None, and the problem is added,
    where no shard holds an encoded row."""
    items = rows["item"].to_numpy()
    if unknown := set(pc.unique(rows["status"]).to_pylist()) - {"ok", "failed", "skipped"}:
        problems.append((name, f"unknown status {str(min(unknown, key=str))!r}"))
    encoded = pc.fill_null(pc.not_equal(rows["status"], "skipped"), True).to_numpy()
    starts = np.array([first for _, first, _ in ranges], np.int64)
    ends = starts + np.array([count for _, _, count in ranges], np.int64)
    owner = np.searchsorted(starts, items, side="right") - 1  # -1 = before the first shard
    outside = encoded & ((owner < 0) | (items >= ends[owner]))
    if outside.any():
        row = int(np.argmax(outside))
        problems.append((name, f"row {row}: no shard holds its item {items[row]}"))
        return None
    return np.asarray(np.where(encoded, owner, -1))


def _check_rows(
    rows: pa.Table,
    name: str,
    ranges: Sequence[Sequence[int]],
    layers: Mapping[str, Mapping[int, ShardRecord]],
    owner: np.ndarray,
) -> Iterator[tuple[str, str]]:
    """Compare status, error and content hash of every row with the records of its item."""
    whole = [shard for shard, _, _ in ranges if all(shard in found for found in layers.values())]
    records = {shard: [found[shard] for found in layers.values()] for shard in whole}
    items, starts = rows["item"].to_numpy(), [first for _, first, _ in ranges]
    shards = [shard for shard, _, _ in ranges]
    read = np.array([shard in records for shard in shards], bool)
    chosen = np.flatnonzero((owner >= 0) & read[owner])
    chosen = chosen[np.argsort(owner[chosen], kind="stable")]
    borders = np.searchsorted(owner[chosen], np.arange(len(shards) + 1))
    sorted_rows = rows.select(["sha256", "error", "status", "key"]).take(pa.array(chosen))
    for position in np.flatnonzero(read):
        part = slice(borders[position], borders[position + 1])
        mine = sorted_rows.slice(part.start, part.stop - part.start)
        positions = items[chosen[part]] - starts[position]
        yield from _check_rows_of(mine, name, positions, records[shards[position]], list(layers))


def _check_rows_of(
    mine: pa.Table,
    name: str,
    positions: np.ndarray,
    records: Sequence[ShardRecord],
    folders: Sequence[str],
) -> Iterator[tuple[str, str]]:
    record = records[0]
    texts = merged_errors(dict(zip(folders, records, strict=True)))
    errors = pa.array([texts.get(position) for position in range(record.count)], pa.string())
    content = pa.array(record.content, pa.string())
    known = pa.table({"sha256": content, "error": errors}).take(pa.array(positions))
    for folder, other in zip(folders[1:], records[1:], strict=True):
        theirs = pa.array(other.content, pa.string()).take(pa.array(positions))
        differs = pc.and_(pc.not_equal(theirs, known["sha256"]), pc.is_null(known["error"]))
        if pc.any(differs).as_py():
            key = mine["key"].filter(differs)[0].as_py()
            yield name, f"layer {folder} holds features of another content, such as {key}"
    failed = pc.is_valid(known["error"])
    for text, differs in (
        ("content hash", pc.not_equal(mine["sha256"], known["sha256"])),
        ("status", pc.not_equal(pc.equal(mine["status"], "failed"), failed)),
        ("error", pc.not_equal(pc.fill_null(mine["error"], ""), pc.fill_null(known["error"], ""))),
    ):
        wrong = mine.filter(pc.fill_null(differs, True))
        if wrong.num_rows:
            key = wrong["key"][0].as_py()
            yield name, f"the {text} of {wrong.num_rows} rows is not their item's, such as {key}"


def _check_prompts(cache: Cache, name: str, pair: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Check one set of class texts: unit rows, zeros beyond the count, whose classes they are."""
    arrays = pair[0]
    try:
        prompts = cache.prompts(name)
        found = _misfit(cache, prompts, arrays)
    except (CacheError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        found = str(error)
    if found:
        yield arrays, f"class texts {name!r}: {found}"


def _misfit(cache: Cache, prompts: PromptEmbeddings, arrays: str) -> str:
    if len(prompts.texts) != len(cache.classes):
        return f"of {len(prompts.texts)} classes, but there are {len(cache.classes)}"
    if prompts_path(cache.path, digest(prompts.identity)).name != Path(arrays).name:
        return "the file is not named by what made it"
    if foreign := foreign_parts(cache, prompts):
        return f"they are of another {_PARTS[foreign[0]]}"
    used = np.arange(prompts.sentences.shape[1]) < prompts.count[:, None]  # (C, M)
    lengths = np.linalg.norm(prompts.sentences.astype(np.float32), axis=2)
    if not np.allclose(lengths[used], 1, atol=1e-3):
        return "sentences are not of unit length"
    if lengths[~used].any():
        return "there are sentences beyond a class's count"
    mean = prompts.sentences.sum(axis=1) / np.maximum(prompts.count, 1)[:, None]  # (C, D)
    mean = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
    return "" if np.allclose(mean, prompts.mean, atol=1e-3) else "means are not of the sentences"
