"""The index of a cache: written last, it names every other file by SHA-256.

A directory without an index is an extraction that has not finished. Finishing is idempotent:
whoever sees that all shards are committed runs it, and running it again writes the same bytes.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from safetensors.numpy import save

from ltcache.cache.layers import Layer, first_layer, index_views
from ltcache.cache.layout import (
    CENTER,
    index_path,
    layer_path,
    origin_path,
    plan_path,
    record_path,
    shard_path,
)
from ltcache.cache.plan import FORMAT, Plan
from ltcache.cache.prompt_set import PromptEmbeddings, write_prompts
from ltcache.cache.row_files import row_files, write_rows
from ltcache.cache.shards import ShardRecord, merged_errors, read_shard_record
from ltcache.cache.staging import create_file, send_files
from ltcache.errors import CacheError, UsageError
from ltcache.manifest import SPLITTING, Manifest
from ltcache.records import (
    JsonObject,
    PlaceKind,
    bytes_digest,
    canonical_json,
    create_whole,
    digest,
    file_digest,
    not_what_is_asked,
    one_line,
    write_whole,
)

EXTRACTED = ("item", "sha256", "width", "height", "status", "error")
"""Columns that extraction adds to a manifest's rows."""

_LOOKED_AT = 64  # files of shards whose sizes are compared when a cache is opened
_BLOCK = 1 << 17  # rows whose columns are put together at a time

LONG_FORMAT = 2
"""Format of an index whose rows lie in several files, which readers of format 1 alone refuse."""

SEAL = "index_sha256"
"""The index' own field: SHA-256 of the canonical JSON of all its other fields."""


@one_line
@dataclass(frozen=True)
class EncoderState:
    """What a cache keeps of its encoder, so that a laptop without the model can go on.

    Args:
        identity, numerics, provenance: as the encoder states them.
        logit_scale: exponentiated; None for encoders without text.
        logit_bias: added to scaled similarities (SigLIP), or None.
        projection: float32 (P, D), pooled @ projection + bias = embedding; None where there is no
            such single product.
        projection_bias: float32 (D,) or None.
        rest: tensors of the tower behind the tokens, for a cache that holds tokens, or None.
    """

    identity: Mapping[str, Any]
    numerics: Mapping[str, Any]
    provenance: Mapping[str, Any]
    logit_scale: float | None
    logit_bias: float | None
    projection: np.ndarray | None
    projection_bias: np.ndarray | None
    rest: Mapping[str, np.ndarray] | None = None


def finalise(
    cache: Path,
    plans: Sequence[Plan],
    manifest: Manifest,
    items: np.ndarray,
    encoder: EncoderState,
    prompts: Sequence[PromptEmbeddings],
    layers: Sequence[Layer] = (),
    *,
    again: bool = False,
) -> bool:
    """Write everything beside the shards, and the index last; an index and
    what it names stay as they are until then.

    Args:
        plans: all plans of the cache, in order; shards that hold no row's item may be missing (of
            an extension that was given up).
        items: int64 (rows,), the item of each of the manifest's rows.
        layers: of the cache, the first one first; by default that one alone.
        again: the cache was finished before, and this index takes the place of that one.

    Returns:
        Whether this call has finished the cache; another process may have done so meanwhile.

    Raises:
        CacheError: a shard that rows need has not been committed in every layer.
    """
    layers = layers or [first_layer(plans[0])]
    with tempfile.TemporaryFile(dir=cache) as file:
        shards = _committed_shards(cache, plans, layers, file)
        shards.require(cache, items)
        rows = write_rows(cache, _with_columns(manifest.rows, items, shards))
    files = [*rows]
    files += _write_encoder(cache, encoder, again)
    card = {**manifest.card}
    splitting = card.pop(SPLITTING, None)  # the index alone is replaced in one step
    header = canonical_json({**manifest.header(), "card": card}).encode()
    files += _write(cache, "classes.json", header, again)
    entries = {}
    for prompt_set in prompts:
        entries[prompt_set.name] = write_prompts(cache, prompt_set)
    files += [name for pair in entries.values() for name in pair]
    files += [plan_path(cache, plan.number).relative_to(cache).as_posix() for plan in plans]
    files += [
        layer_path(cache, layer.folder).relative_to(cache).as_posix()
        for layer in layers
        if layer.folder != CENTER
    ]
    listed = {name: _entry(cache / name) for name in files} | shards.files
    index = {
        **_named_rows(rows),
        "plans": [plan.number for plan in plans],
        "views": index_views(layers, shards.ranges),
        "prompts": {name: list(pair) for name, pair in entries.items()},
        "files": listed,
    }
    if splitting is not None:
        index[SPLITTING] = splitting
    send_files(cache, {name: listed[name] for name in sorted(set(listed) - set(shards.files))})
    return _write_index(cache, index, replace=again)


def rewrite_rows(cache: Path, rows: pa.Table, splitting: JsonObject) -> None:
    """Give a finished cache other splits, in one step: a new list, named by the index at last.

    Args:
        rows: of its manifest, with other splits alone. splitting: how they were made.
    """
    index = read_index(cache)
    for name in row_files(index):
        del index["files"][name]
    names = write_rows(cache, [rows])
    index |= {**_named_rows(names), SPLITTING: splitting}
    index["files"] |= {name: _entry(cache / name) for name in names}
    _write_index(cache, index, replace=True)


def store_prompts(cache: Path | str, prompts: PromptEmbeddings) -> None:
    """Add a set of class texts to a finished cache, or replace the one of the same name."""
    cache = Path(cache)
    index = read_index(cache)
    pair = write_prompts(cache, prompts)
    index["prompts"][prompts.name] = pair
    index["files"] |= {name: _entry(cache / name) for name in pair}
    _write_index(cache, index, replace=True)


def named_in(files: Collection[str], name: str) -> str | None:
    """Return under which name a cache has its ``classes.json`` and the like; None: it has none.

    A cache that grew may have one with another content, named by that (:func:`_write`).
    """
    stem, _, suffix = name.rpartition(".")
    other = re.compile(rf"{re.escape(stem)}-[0-9a-f]{{8}}\.{suffix}")
    return name if name in files else next(filter(other.fullmatch, files), None)


def read_index(cache: Path, *, check_sizes: bool = True) -> dict[str, Any]:
    """Return the index of a finished cache.

    Args:
        check_sizes: compare the size of every named file.

    Raises:
        CacheError: no cache, an unfinished one, one of another format, or files missing from it.
    """
    path = index_path(cache)
    if not path.exists():
        if plan_path(cache, 1).exists():
            raise CacheError(
                f"{cache}: the extraction has not finished; run the same ltcache extract again"
            )
        raise CacheError(f"not a feature cache: {not_what_is_asked(cache, PlaceKind.CACHE)}")
    index = parse_index(path.read_bytes(), str(path))
    if check_sizes:
        check_file_sizes(cache, index["files"])
    return index


def parse_index(data: bytes, name: str) -> dict[str, Any]:
    """Return the index that stands in a file.

    Args:
        name: of the file, for messages.

    Raises:
        CacheError: it is of another format, or damaged.
    """
    try:
        index = json.loads(data)
        if index["format"] not in (FORMAT, LONG_FORMAT):
            raise CacheError(f"{name}: format {index['format']}, this ltcache reads {LONG_FORMAT}")
        if index.pop(SEAL, None) != digest(index):
            raise ValueError("its content does not have the digest it states")
        if not all({"sha256", "bytes"} <= set(entry) for entry in index["files"].values()):
            raise ValueError("it names a file without its digest")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheError(
            f"{name}: damaged ({error}). Remove it and run the same ltcache extract again: the "
            "shards are kept, only class texts that were added later are to be added again"
        ) from None
    return index


def _named_rows(names: Sequence[str]) -> JsonObject:
    """Return what an index says of the files of its rows: one by its name alone, as ever."""
    if len(names) == 1:
        return {"format": FORMAT, "manifest": names[0]}
    return {"format": LONG_FORMAT, "manifest": list(names)}


def _write_index(cache: Path, index: Mapping[str, Any], *, replace: bool) -> bool:
    """Write the index with the digest of its own content, since no other file names it.

    Returns:
        Whether it was written: one that is there stays unless it is to be replaced.

    Raises:
        UsageError: the cache is a mirror, which is only read.
    """
    if replace and origin_path(cache).exists():
        raise UsageError(
            f"{cache} mirrors a cache at an address, which is only read there: fetch it with "
            "ltcache copy, change the copy, and copy that to another address"
        )
    data = canonical_json({**index, SEAL: digest(index)}).encode()
    if not replace:
        return create_file(cache, index_path(cache), data)
    write_whole(index_path(cache), data)
    return True


def check_file_sizes(cache: Path, files: Mapping[str, Any]) -> None:
    """Refuse a cache of which a file is missing or of another size than the index says.

    Of many shards the names are looked for, a folder at a time, and the sizes of some: each is
    compared with its digest when it is read. A mirror fetches what is missing or damaged when it
    is asked for.
    """
    if origin_path(cache).exists():
        return
    shards = [name for name in files if name.startswith("views/")]
    unseen = set(shards) - set(shards[:: -(-len(shards) // _LOOKED_AT) or 1])
    there = {f"{folder}/{name}" for folder in _folders(unseen) for name in _names(cache / folder)}
    for name, entry in files.items():
        if name in unseen and name in there:
            continue
        size = _size(cache / name)
        if size != entry["bytes"]:
            raise CacheError(
                f"{cache / name}: {'missing' if size is None else f'{size} bytes'}, "
                f"the index says {entry['bytes']} bytes: the cache is damaged"
            )


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def _folders(names: Collection[str]) -> set[str]:
    return {name.rpartition("/")[0] for name in names}


def _names(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


@dataclass(frozen=True)
class _CommittedShards:
    """All committed shards of a cache.

    Args:
        files: the index' entries of their files.
        ranges: shard number, first item and number of items of each, in order.
        columns: sha256, width, height and error of the items of each, mapped from a file.
    """

    files: JsonObject
    ranges: list[list[int]]
    columns: pa.RecordBatchFileReader

    def require(self, cache: Path, items: np.ndarray) -> None:
        """Refuse items that no shard holds."""
        for start in range(0, len(items), _BLOCK):
            self._require(cache, items[start : start + _BLOCK])

    def _require(self, cache: Path, items: np.ndarray) -> None:
        _, first, count = self._ranges()
        shard = self._owners(items)
        outside = shard < 0
        outside[~outside] = (items - first[shard] >= count[shard])[~outside]
        if outside.any():
            item = int(items[np.argmax(outside)])
            raise CacheError(f"{cache}: the shard of item {item} is not there yet")

    def of_items(self, items: np.ndarray) -> pa.Table:
        """Return the columns of items, in the order given."""
        _, first, _ = self._ranges()
        shard = self._owners(items)
        order = np.argsort(shard, kind="stable")
        owners, starts = np.unique(shard[order], return_index=True)
        parts = [self.columns.schema.empty_table()]
        for owner, mine in zip(owners.tolist(), np.split(order, starts[1:]), strict=False):
            batch = pa.Table.from_batches([self.columns.get_batch(owner)])
            parts.append(batch.take(pa.array(items[mine] - first[owner])))
        return pa.concat_tables(parts).combine_chunks().take(pa.array(np.argsort(order)))

    def _owners(self, items: np.ndarray) -> np.ndarray:
        """Return the position of the last shard that does not begin behind each item; -1: none."""
        _, first, _ = self._ranges()
        return np.asarray(np.searchsorted(first, items, side="right") - 1)

    def _ranges(self) -> np.ndarray:
        """Return int64 (3, shards): number, first item and number of items."""
        return np.array(self.ranges, np.int64).reshape(-1, 3).T


def _committed_shards(
    cache: Path, plans: Sequence[Plan], layers: Sequence[Layer], file: IO[bytes]
) -> _CommittedShards:
    """Read all records, one at a time, and gather their columns in a file.

    Millions of items would need gigabytes of memory.
    """
    files: JsonObject = {}
    ranges: list[list[int]] = []
    writer = pa.ipc.new_file(file, _item_columns([], [], [], []).schema)
    for shard in (shard for plan in plans for shard in plan.shards):
        found = {layer.folder: read_shard_record(cache, layer.folder, shard) for layer in layers}
        records = {folder: record for folder, record in found.items() if record is not None}
        if len(records) < len(layers):
            continue
        for folder, record in records.items():
            files |= _shard_entries(cache, folder, shard, record)
        record, errors = records[layers[0].folder], merged_errors(records)
        ranges.append([shard, record.first, record.count])
        texts = [errors.get(position) for position in range(record.count)]
        writer.write(_item_columns(record.content, record.width, record.height, texts))
    writer.close()
    file.flush()
    mapped = pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return _CommittedShards(files, ranges, pa.ipc.open_file(mapped))


def _item_columns(
    content: Sequence[str],
    width: Sequence[int],
    height: Sequence[int],
    errors: Sequence[str | None],
) -> pa.RecordBatch:
    return pa.record_batch(
        {
            "sha256": pa.array(content, pa.string()),
            "width": pa.array(width, pa.int32()),
            "height": pa.array(height, pa.int32()),
            "error": pa.array(errors, pa.string()),
        }
    )


def _with_columns(
    rows: pa.Table, items: np.ndarray, shards: _CommittedShards
) -> Iterator[pa.Table]:
    """Yield the manifest's rows with the columns of :data:`EXTRACTED`, block by block."""
    for start in range(0, max(1, rows.num_rows), _BLOCK):
        block, mine = rows.slice(start, _BLOCK), items[start : start + _BLOCK]
        columns = shards.of_items(mine).append_column("item", pa.array(mine, pa.int64()))
        failed = pc.is_valid(columns["error"])
        columns = columns.append_column("status", pc.if_else(failed, "failed", "ok"))
        for name in EXTRACTED:
            block = block.append_column(name, columns[name])
        yield block


def _write_encoder(cache: Path, encoder: EncoderState, again: bool) -> list[str]:
    record = {
        "identity": encoder.identity,
        "numerics": encoder.numerics,
        "provenance": encoder.provenance,
        "logit_scale": encoder.logit_scale,
        "logit_bias": encoder.logit_bias,
    }
    tensors = {
        name: np.ascontiguousarray(array, dtype=np.float32)
        for name in ("projection", "projection_bias")
        if (array := getattr(encoder, name)) is not None
    }
    files = _write(cache, "encoder.json", canonical_json(record).encode(), again)
    if encoder.rest is not None:
        files += _write(cache, "rest.safetensors", save(dict(encoder.rest)), again)
    return files + _write(cache, "encoder.safetensors", save(tensors), again)


def _write(cache: Path, name: str, data: bytes, again: bool) -> list[str]:
    """Write a file, under a name that says its content where an index names another one.

    That index stays true until a new one takes its place. Without an index, a file of another
    content is a damaged one.
    """
    if not create_whole(cache / name, data) and file_digest(cache / name) != bytes_digest(data):
        if again:
            stem, _, suffix = name.rpartition(".")
            name = f"{stem}-{bytes_digest(data)[:8]}.{suffix}"
        write_whole(cache / name, data)
    return [name]


def _entry(path: Path) -> JsonObject:
    return {"sha256": file_digest(path), "bytes": path.stat().st_size}


def _shard_entries(cache: Path, layer: str, shard: int, record: ShardRecord) -> JsonObject:
    data, committed_by = shard_path(cache, layer, shard), record_path(cache, layer, shard)
    return {
        data.relative_to(cache).as_posix(): {"sha256": record.sha256, "bytes": record.bytes},
        committed_by.relative_to(cache).as_posix(): _entry(committed_by),
    }
