"""The loop of an extraction on a few images, for its speed alone."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from ltcache.cache import CENTER, Plan, first_layer
from ltcache.extract.items import ImageItems
from ltcache.extract.layers import first_fields
from ltcache.extract.report import ExtractionTally
from ltcache.extract.shard import ShardQueue
from ltcache.extract.writer import write_shards
from ltcache.images import open_store
from ltcache.manifest import Root

if TYPE_CHECKING:
    from ltcache.encoder import Encoder

_BATCHES = 4  # in a shard, as on a GPU by default


@dataclass(frozen=True)
class LoopSpeed:
    """Decoding, encoding and writing at once, as an extraction does it.

    Args:
        images_per_second: of all together. decode, encode, write: the share of its time, 0..1, that
            the loop waited for each; what is left is the loop's own.
    """

    images_per_second: float
    decode: float
    encode: float
    write: float

    @property
    def binds(self) -> str:
        """The stage that the loop waited for longest: ``decode``, ``encode`` or ``write``."""
        return max(("decode", "encode", "write"), key=lambda stage: float(getattr(self, stage)))


def trial_loop(
    root: Root | None,
    uris: Sequence[str],
    encoder: Encoder,
    *,
    batch: int,
    workers: int,
    decode_processes: int = 0,
) -> LoopSpeed:
    """Encode images into shards of a temporary folder, and say how fast that was.

    Args:
        uris: of the images, below the root; they may repeat.
        batch: images in one forward pass. workers: decoding threads.
        decode_processes: what decodes in their place; 0: none.
    """
    fields, tally = first_fields(encoder, None), ExtractionTally()
    plan = Plan({}, {}, {}, (CENTER,), fields, len(uris), _BATCHES * batch, batch)
    with tempfile.TemporaryDirectory(prefix="ltcache-trial-") as folder:
        items = ImageItems(0, pa.array(uris, pa.string()))
        queue = ShardQueue(Path(folder), plan, items, [first_layer(plan)], root)
        started = time.perf_counter()
        todo = [work.shard for work in queue.todo()]
        written = write_shards(
            queue, todo, open_store(root), encoder, workers, tally, decode_processes
        )
        for _ in written:
            pass
        seconds = time.perf_counter() - started
    shares = (part / seconds for part in (tally.decode, tally.encode, tally.write))
    return LoopSpeed(len(uris) / seconds, *shares)
