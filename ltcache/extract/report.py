"""What an extraction says of itself: while it runs, and at its end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.compute as pc

from ltcache.cache import Cache, SharedContent
from ltcache.extract.splitting import SplitReport
from ltcache.records import JsonRecord, one_line


@dataclass(frozen=True)
class ExtractionProgress:
    """Where an extraction stands, for whoever shows it.

    Args:
        done, total: items; ``done`` counts those of earlier runs too.
        failed: items that could not be read, decoded or encoded.
        rate: images per second of this process.
        binding: the stage that limits the rate, in words.
    """

    done: int
    total: int
    failed: int
    rate: float
    binding: str


@dataclass
class ExtractionTally:
    """What adds up while images are encoded.

    Attributes:
        decode, encode, write: seconds that the encoding thread spent in each stage: what it waits
            for is what binds.
        turned: see :class:`ExtractReport`.
    """

    decode: float = 0.0
    encode: float = 0.0
    write: float = 0.0
    turned: int = 0

    def binding(self) -> str:
        """Return the stage to improve first, in words."""
        total = self.decode + self.encode + self.write
        if total == 0:
            return "starting"
        names = {"decode": "decoding", "encode": "encoding", "write": "writing"}
        name = max(names, key=lambda stage: getattr(self, stage))
        return f"{names[name]} binds ({getattr(self, name) / total:.0%} of the time)"


@one_line
@dataclass(frozen=True)
class ExtractReport(JsonRecord):
    """What an extraction did.

    Args:
        path: of the cache, or its address.
        rows: rows of the manifest; ``items`` are its distinct images.
        encoded: items that this call encoded; 0 when the cache was there already.
        failed: rows whose image could not be used.
        failures: the first few as (key, reason).
        seconds: of this call.
        binding: the stage that limited the rate, in words.
        shared: images that stand in two splits, byte for byte.
        split: how the images were divided, in a cache that was divided.
        turned: images among those encoded by this call whose EXIF asks for another orientation,
            which the encoder did not see, as in open_clip.
    """

    path: Path | str
    rows: int
    items: int
    encoded: int
    failed: int
    failures: tuple[tuple[str, str], ...]
    seconds: float
    binding: str
    shared: tuple[SharedContent, ...] = ()
    split: SplitReport | None = None
    turned: int = 0

    @property
    def exit_status(self) -> int:
        """0, or 3 where some rows failed."""
        return 3 if self.failed else 0


def joined_report(reports: Sequence[ExtractReport], started: float) -> ExtractReport:
    """Return the report of processes that have made one cache together.

    Args:
        reports: of each process. started: when the first one was, as :func:`make_report` takes it.
    """
    longest = max(reports, key=lambda report: (_assigned(report), report.encoded))
    return replace(
        longest,
        encoded=sum(report.encoded for report in reports),
        turned=sum(report.turned for report in reports),
        seconds=time.perf_counter() - started,
        binding="1 process" if len(reports) == 1 else f"{len(reports)} processes together",
    )


def _assigned(report: ExtractReport) -> int:
    return report.split.assigned if report.split else 0


def make_report(
    cache: Cache, encoded: int, binding: str, started: float, turned: int = 0
) -> ExtractReport:
    """Return what there is to say of a cache that is finished now."""
    rows, items, failed = 0, 0, 0
    failures: tuple[tuple[str, str], ...] = ()
    for block in cache.row_blocks("key", "status", "error", "item"):
        rows, items = rows + len(block), max(items, pc.max(block["item"]).as_py() + 1)
        lost = block.filter(pc.equal(block["status"], "failed"))
        pairs = zip(lost["key"].to_pylist(), lost["error"].to_pylist(), strict=True)
        failed, failures = failed + len(lost), (*failures, *pairs)[:5]
    return ExtractReport(
        path=cache.path,
        rows=rows,
        items=items,
        encoded=encoded,
        failed=failed,
        failures=failures,
        seconds=time.perf_counter() - started,
        binding=binding,
        shared=cache.shared_content,
        turned=turned,
    )
