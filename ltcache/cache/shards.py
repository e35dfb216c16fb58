"""One shard: the features of an item range, and the record that commits it.

A shard holds one contiguous dataset per field, (n, v, D): n items, v crops of the view. float16,
or float32 where float16 would change a row; the slot of a failed item is NaN. Contiguous, because a
memory map at the dataset's offset reads it ten times faster than any chunked layout.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ltcache.cache.layout import CENTER, record_path, shard_path
from ltcache.cache.staging import staged_at
from ltcache.errors import CacheError
from ltcache.records import (
    JsonRecord,
    ObjectStore,
    bytes_digest,
    canonical_json,
    create_whole,
    one_line,
    read_record,
    write_whole,
)

_LARGEST = float(np.finfo(np.float16).max)
_MOVED = 2**-10  # of a row's length


@one_line
@dataclass(frozen=True)
class ShardRecord(JsonRecord):
    """What a shard holds, item by item; its creation commits the shard.

    Args:
        first, count: the item range.
        sha256, bytes: of the shard's file.
        micro_batch: images in one forward pass; smaller than the plan's after a memory back-off.
        content: SHA-256 of each item's encoded image ("" where it could not be read).
        width, height: of each source image in pixels, 0 where unknown.
        errors: position in the shard -> why the item failed.
    """

    first: int
    count: int
    sha256: str
    bytes: int
    micro_batch: int
    content: list[str]
    width: list[int]
    height: list[int]
    errors: dict[int, str]


def commit_shard(
    cache: Path,
    layer: str,
    shard: int,
    features: Mapping[str, np.ndarray],
    given_up: Callable[[ShardRecord], bool] = lambda there: False,
    **record: Any,
) -> ShardRecord | None:
    """Write a shard, unless another process was quicker; whole or not at all.

    The features are written under a name that says their content, and wait there. Then the record
    is created, which names that content: the first record wins. Then its features take their
    place, by this process or by whoever reads the record first, so that a process which is killed
    or stopped on the way, and goes on when others have finished, can replace nothing.

    Args:
        layer: the folder of the layer.
        features: field -> float32 (n, v, D); NaN rows for failed items.
        given_up: whether a record that is there is of an earlier attempt and may go.
        record: the remaining fields of :class:`ShardRecord`.

    Returns:
        What was written, or None where the shard was there.
    """
    data = array_file({name: stored(array) for name, array in features.items()})
    result = ShardRecord(sha256=bytes_digest(data), bytes=len(data), **record)
    path, waiting = record_path(cache, layer, shard), _waiting_path(cache, layer, shard, result)
    if store := staged_at(cache):
        return _commit_at(store, cache, layer, shard, result, data)
    if path.exists() and read_shard_record(cache, layer, shard) is None:
        path.unlink(missing_ok=True)  # its features are lost, and it must not vouch for these
    write_whole(waiting, data)
    while not create_whole(path, canonical_json(result.to_dict()).encode()):
        there = read_shard_record(cache, layer, shard)
        if there is not None and not given_up(there):
            waiting.unlink(missing_ok=True)
            return None
        path.unlink(missing_ok=True)
    _take_place(cache, layer, shard, result)
    return result


def read_shard_record(cache: Path, layer: str, shard: int) -> ShardRecord | None:
    """Return a shard's record, or None where the shard is not (wholly) there.

    Raises:
        CacheError: the record cannot be read.
    """
    path, store = record_path(cache, layer, shard), staged_at(cache)
    try:
        if store is not None and not path.exists():
            _fetch_record(store, cache, layer, shard)
        record = read_record(ShardRecord, json.loads(path.read_text()), name="the record")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise CacheError(f"{path}: not a shard record ({error}); remove it to redo") from None
    if store is not None:
        return record
    _take_place(cache, layer, shard, record)
    data = shard_path(cache, layer, shard)
    if not data.exists() or data.stat().st_size != record.bytes:
        return None
    return record


def _commit_at(
    store: ObjectStore, cache: Path, layer: str, shard: int, record: ShardRecord, data: bytes
) -> ShardRecord | None:
    """Write a shard to the address where its cache is made, in the steps of a local one."""
    path, waiting = record_path(cache, layer, shard), _waiting_path(cache, layer, shard, record)
    names = [place.relative_to(cache).as_posix() for place in (path, waiting)]
    written = canonical_json(record.to_dict()).encode()
    store.create(names[1], data)
    while not store.create(names[0], written):
        if read_shard_record(cache, layer, shard) is not None:
            store.remove(names[1])
            return None
        store.remove(names[0])  # its features are lost, and it must not vouch for these
    _fetch_record(store, cache, layer, shard)
    return record


def _fetch_record(store: ObjectStore, cache: Path, layer: str, shard: int) -> None:
    """Fetch a shard's record once its features are in their place, to which they are helped."""
    path, place = record_path(cache, layer, shard), shard_path(cache, layer, shard)
    data = store.read(path.relative_to(cache).as_posix())
    if data is None:
        return
    record = read_record(ShardRecord, json.loads(data), name=str(path))
    waiting = _waiting_path(cache, layer, shard, record).relative_to(cache).as_posix()
    name = place.relative_to(cache).as_posix()
    if store.size(name) != record.bytes or store.size(waiting) is not None:
        store.move(waiting, name)
    if store.size(name) == record.bytes:
        write_whole(path, data)


def _waiting_path(cache: Path, layer: str, shard: int, record: ShardRecord) -> Path:
    """Return where the features of a record wait until it is there."""
    place = shard_path(cache, layer, shard)
    return place.with_name(f".{record.sha256[:16]}.{place.name}")


def _take_place(cache: Path, layer: str, shard: int, record: ShardRecord) -> None:
    """Let the features of a record that is there take their place, if they wait still."""
    waiting = _waiting_path(cache, layer, shard, record)
    if waiting.exists():
        with contextlib.suppress(OSError):  # another process was quicker, or may not write here
            os.replace(waiting, shard_path(cache, layer, shard))


def merged_errors(records: Mapping[str, ShardRecord]) -> dict[int, str]:
    """Return position -> why an item failed, from the records of one shard in every layer.

    Args:
        records: folder of the layer -> record, the first layer first.
    """
    errors: dict[int, str] = {}
    for folder, record in records.items():
        for position, text in record.errors.items():
            errors.setdefault(position, text if folder == CENTER else f"{folder}: {text}")
    return errors


def stored(array: np.ndarray) -> np.ndarray:
    """Return float16, or float32 where float16 would change a row (:func:`lost_in_half`)."""
    if array.dtype == np.float16:
        return array
    return array.astype(np.float32 if lost_in_half(array).any() else np.float16)


def lost_in_half(rows: np.ndarray) -> np.ndarray:
    """Return which rows float16 cannot hold, bool (...) for rows (..., D).

    float16 rounds a value between 6.1e-5 and 65504 by at most 2^-11 of itself. A row is lost where
    rounding moves it by more than 2^-10 of its length: values overflow, or the row is so short that
    its values are among the subnormals, of fewer digits, or become zero. Rows that are zero or not
    finite anyway are not.
    """
    largest = np.abs(rows).max(axis=-1, initial=0)
    # subnormals are off by 2^-25 at most: nothing beside a value of 1/16, up to a million of them
    doubtful = np.isfinite(largest) & (largest > 0) & ((largest < 2**-4) | (largest > _LARGEST))
    if doubtful.any():
        chosen = rows[doubtful].astype(np.float64)
        with np.errstate(over="ignore"):
            error = chosen - chosen.astype(np.float16)
        moved = np.linalg.norm(error, axis=-1) > _MOVED * np.linalg.norm(chosen, axis=-1)
        doubtful[doubtful] = moved
    return np.asarray(doubtful)


def array_file(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return an HDF5 file of arrays as contiguous datasets; equal arrays give equal bytes.

    HDF5 builds the file in memory, for Python to write it: HDF5's own writer crashes the process
    when the disk is full.
    """
    name = f"in memory of {threading.get_ident()}"  # no two open files have one name
    with h5py.File(name, "w", driver="core", backing_store=False) as file:
        for field in sorted(arrays):
            file.create_dataset(field, data=arrays[field], track_times=False)
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def map_array(path: Path, name: str) -> np.ndarray:
    """Return a read-only memory map of one dataset.

    Raises:
        CacheError: the file is damaged or has no such contiguous dataset.
    """
    try:
        with h5py.File(path, "r") as file:
            dataset = file[name]
            offset, dtype, shape = dataset.id.get_offset(), dataset.dtype, dataset.shape
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise CacheError(f"{path}: cannot read {name!r} ({error})") from None
    if 0 in shape:
        return np.zeros(shape, dtype)
    if offset is None:
        raise CacheError(f"{path}: {name!r} is not contiguous, so ltcache did not write it")
    try:
        return np.memmap(path, dtype, "r", offset, shape)
    except (OSError, ValueError) as error:
        raise CacheError(f"{path}: cannot map {name!r} ({error})") from None
