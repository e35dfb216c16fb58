"""A shard on its way: what is to be encoded, its features in memory, and its commit to disk."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltcache.cache import (
    Layer,
    Plan,
    ShardRecord,
    commit_shard,
    dims_of,
    index_path,
    lost_in_half,
    read_shard_record,
)
from ltcache.errors import CacheError
from ltcache.extract.items import ImageItems
from ltcache.extract.reader import DecodedBatch
from ltcache.images import PartnerRows, View
from ltcache.manifest import Root

if TYPE_CHECKING:
    from ltcache.encoder import PendingFeatures

TOKENS = "tokens"
Pending = Future[list["PendingFeatures"]]
"""Features of one crop to come: the slices of the micro-batch."""


@dataclass(frozen=True)
class ShardToEncode:
    """A shard and the layers in which it is to be encoded."""

    shard: int
    layers: tuple[Layer, ...]

    @property
    def folders(self) -> set[str]:
        """The folders of the layers."""
        return {layer.folder for layer in self.layers}

    @property
    def views(self) -> list[View]:
        """The views of the layers, each once."""
        known = {layer.name: View.from_identity(layer.view) for layer in self.layers}
        return list(known.values())

    def fields(self, view: str) -> tuple[str, ...]:
        """Return the fields that the layers of a view have."""
        named = (name for layer in self.layers if layer.name == view for name in layer.fields)
        return tuple(dict.fromkeys(named))


@dataclass(frozen=True, eq=False)
class ShardQueue:
    """A plan's shards in some layers.

    Args:
        items: the plan's images.
        layers: in which they are to be encoded.
        root: where they are.
        alone: whether this process began it.
        shards: of the plan, if not all.
        finished: whether the cache was when the task began; one that others finish meanwhile lacks
            nothing any more, whatever becomes of its shards.
        partners: what the composites among the layers are made of.
    """

    out: Path
    plan: Plan
    items: ImageItems
    layers: Sequence[Layer]
    root: Root | None
    alone: bool = True
    shards: Collection[int] | None = None
    finished: bool = True
    partners: PartnerRows | None = None

    @property
    def numbers(self) -> Sequence[int]:
        """The numbers of all its shards, ascending."""
        return self.plan.shards if self.shards is None else sorted(self.shards)

    def todo(self) -> list[ShardToEncode]:
        """Return what has not been committed."""
        found = (self.lacking(shard) for shard in self.numbers)
        return [work for work in found if work.layers]

    def lacking(self, shard: int) -> ShardToEncode:
        """Return a shard and the layers in which it has not been committed."""
        if not self.finished and index_path(self.out).exists():
            return ShardToEncode(shard, ())
        records = {x.folder: read_shard_record(self.out, x.folder, shard) for x in self.layers}
        found = {name for name, record in records.items() if record and not self.lacks(record)}
        return ShardToEncode(shard, tuple(x for x in self.layers if x.folder not in found))

    def lacks(self, record: ShardRecord) -> bool:
        """Whether a shard has no features of an item that should have them."""
        excused = self.items.excused
        if excused is None:
            return False
        failed = np.array(list(record.errors), np.int64) + record.first - self.plan.first_item
        return not excused[failed].all()


@dataclass(frozen=True)
class CommittedShard:
    """A shard that is on disk: folder of the layer -> record, and how many images were encoded.

    No image was, where another process had committed the shard meanwhile.
    """

    shard: int
    records: Mapping[str, ShardRecord]
    encoded: int


class EncodedShard:
    """A shard's features in memory, on their way to disk.

    Args:
        items: numbers of the shard's items. micro_batch: images in one forward pass.
    """

    def __init__(self, work: ShardToEncode, items: range, micro_batch: int) -> None:
        self.work = work
        self.items = items
        self.limits = {view.name: micro_batch for view in work.views}
        self.content: list[str] = []
        self.width: list[int] = []
        self.height: list[int] = []
        self.excused: set[int] = set()
        self.errors: dict[str, dict[int, str]] = {layer.folder: {} for layer in work.layers}

    @cached_property
    def features(self) -> dict[str, dict[str, np.ndarray]]:
        """Folder of the layer -> field -> (items, crops, dim).

        Made for the first batch that is placed: a GPU is given batches before that, while the two
        shards before this one hold their features.
        """
        return {
            layer.folder: {
                name: np.empty((len(self.items), layer.crops, *dims_of(shape)), storage_type(name))
                for name, shape in layer.fields.items()
            }
            for layer in self.work.layers
        }

    @property
    def images(self) -> int:
        """Images that were encoded, those of each view counted apart."""
        return (len(self.content) - len(self.excused)) * len(self.limits)

    @property
    def complete(self) -> bool:
        """Whether every micro-batch was placed."""
        return len(self.content) == len(self.items)

    def add(
        self, position: int, batch: DecodedBatch, pending: Mapping[str, Sequence[Pending]]
    ) -> None:
        """Place a micro-batch at ``position``; what is not finite counts as failed.

        Args:
            pending: view -> features to come of each of its crops.
        """
        stop = position + len(batch.content)
        for view, crops in pending.items():
            for crop, parts in enumerate(crops):
                start = position
                for found in (part.result() for part in parts.result()):
                    start = self._place(view, crop, start, found)
        for layer in self.work.layers:
            written = {n: v[position:stop] for n, v in self.features[layer.folder].items()}
            errors = dict(batch.errors)
            for row in _not_finite(written):
                errors.setdefault(row, "the encoder gave features that are not finite")
            for rows in written.values():
                rows[list(errors)] = np.nan
            self.errors[layer.folder] |= {position + row: text for row, text in errors.items()}
        self.content += batch.content
        self.width += batch.width
        self.height += batch.height
        self.excused |= {position + row for row in batch.excused}

    def _place(self, view: str, crop: int, start: int, found: Mapping[str, Any]) -> int:
        """Place one crop's features of a slice; returns where the next slice begins."""
        stop = start
        for layer in self.work.layers:
            if layer.name != view:
                continue
            arrays = self.features[layer.folder]
            for name in layer.fields:
                values = found[name].numpy()
                stop = start + len(values)
                arrays[name] = widened(arrays[name], values)
                arrays[name][start:stop, crop] = values
        return stop

    def check(self, queue: ShardQueue) -> None:
        """Refuse failures of items that have features already: a layer must not lose any."""
        items = queue.items
        if items.known is None:
            return
        for folder, errors in self.errors.items():
            lost = sorted(set(errors) - self.excused)
            if lost and folder in queue.lacking(self.work.shard).folders:
                first = ", ".join(
                    f"{items.uri(self.items[row])}: {errors[row]}" for row in lost[:5]
                )
                raise CacheError(
                    f"{len(lost)} images have features in the cache but cannot be encoded for "
                    f"{folder} now, for example {first}. The cache is as it was, and what is done "
                    "is kept for the next call. Bring these images back, or leave them out of the "
                    "list"
                )

    def commit(self, queue: ShardQueue) -> CommittedShard:
        """Write the shard and its record in every layer that lacks it still."""
        lacking = queue.lacking(self.work.shard).folders  # others may have finished the cache
        written = {
            layer.folder: commit_shard(
                queue.out,
                layer.folder,
                self.work.shard,
                self.features[layer.folder],
                queue.lacks,
                first=self.items.start,
                count=len(self.content),
                micro_batch=self.limits[layer.name],
                content=self.content,
                width=self.width,
                height=self.height,
                errors=self.errors[layer.folder],
            )
            for layer in self.work.layers
            if layer.folder in lacking
        }
        records = {
            layer.folder: written.get(layer.folder)
            or read_shard_record(queue.out, layer.folder, self.work.shard)
            for layer in self.work.layers
        }
        return CommittedShard(
            self.work.shard,
            {folder: record for folder, record in records.items() if record is not None},
            self.images if any(written.values()) else 0,
        )


def storage_type(field: str) -> type[np.floating[Any]]:
    """Return the type of a field in memory: tokens are too many to be held in float32."""
    return np.float16 if field == TOKENS else np.float32


def widened(array: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the array, in float32 from now on where float16 would change a row."""
    if array.dtype != np.float16 or not lost_in_half(values).any():
        return array
    return array.astype(np.float32)


def _not_finite(features: Mapping[str, np.ndarray]) -> list[int]:
    bad: set[int] = set()
    for values in features.values():
        finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        bad |= set(np.flatnonzero(~finite).tolist())
    return sorted(bad)
