"""The overlapped loop: bounded, in order, honest about its time, and whole however it ends."""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from ltcache.cache import Layer, Plan, ShardRecord, read_shard_record
from ltcache.cache.shards import map_array, shard_path
from ltcache.errors import ImageError
from ltcache.extract import encode, reader, shard, writer
from ltcache.extract.items import ImageItems
from ltcache.extract.reader import DecodedBatch
from ltcache.extract.report import ExtractionTally
from ltcache.extract.shard import ShardQueue, ShardToEncode, widened
from ltcache.extract.writer import write_shards
from ltcache.images import ImageStore, Preprocessing

EDGE = 4


def png(number: int) -> bytes:
    """Return an image that is all of one grey level, its number."""
    sink = io.BytesIO()
    Image.fromarray(np.full((EDGE, EDGE, 3), number, np.uint8)).save(sink, "PNG")
    return sink.getvalue()


class Store:
    """Images ``0``, ``1``, ... of one grey level each; ``bad`` ones cannot be read."""

    def __init__(self, bad: Sequence[int] = ()) -> None:
        self.bad = bad

    def read(self, uri: str) -> bytes:
        if int(uri) in self.bad:
            raise ImageError("gone")
        return png(int(uri))


@dataclass
class Encoder:
    """The feature of an image is its grey level, twice; counts what it is given."""

    fails_at: int | None = None
    sizes: list[int] = field(default_factory=list)
    preprocessing: Preprocessing = field(
        default_factory=lambda: Preprocessing((EDGE, EDGE), (0, 0, 0), (1, 1, 1))
    )
    device: Any = field(default_factory=lambda: SimpleNamespace(type="cpu"))

    def submit(self, pixels: torch.Tensor, fields: Sequence[str]) -> Any:
        if len(self.sizes) == self.fails_at:
            raise ValueError("broken encoder")
        self.sizes.append(len(pixels))
        grey = pixels[:, 0, 0, 0].float()
        found = {name: torch.stack([grey, grey], 1) for name in fields}
        return SimpleNamespace(result=lambda: found)


class EndlessQueue(ShardQueue):
    """A queue that lacks every shard, whatever is on disk."""

    def lacking(self, shard: int) -> ShardToEncode:
        return ShardToEncode(shard, tuple(self.layers))


def plan(items: int, shard_size: int = 10, micro_batch: int = 4) -> Plan:
    """Return a plan with the embedding (2 values) as its only field."""
    return Plan({}, {}, {}, ("center",), {"embedding": 2}, items, shard_size, micro_batch)


def run(
    cache: Path,
    plan: Plan,
    encoder: Any = None,
    *,
    shards: Sequence[int] | None = None,
    bad: Sequence[int] = (),
    workers: int = 2,
    tally: ExtractionTally | None = None,
    **more: Any,
) -> Iterator[ShardRecord]:
    """Start the loop on images ``0``, ``1``, ...; closes it when it is closed."""
    cache.mkdir(exist_ok=True)
    layer = Layer("center", {"name": "center"}, plan.fields)
    order = list(plan.shards if shards is None else shards)
    items = ImageItems(0, pa.array([str(item) for item in range(plan.items)]))
    queue = EndlessQueue(cache, plan, items, [layer], None)
    store, tally = cast(ImageStore, Store(bad)), tally or ExtractionTally()
    loop = write_shards(queue, order, store, encoder or Encoder(), workers, tally, **more)
    with contextlib.closing(loop):
        for done in loop:
            yield done.records["center"]


def digests(cache: Path) -> dict[str, str]:
    """Return path -> SHA-256 of the shards, their records and whatever else lies beside them."""
    files = sorted(path for path in cache.glob("views/**/*") if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def threads() -> set[str]:
    """Return the names of the loop's own threads that are alive."""
    names = {thread.name for thread in threading.enumerate()}
    return {name for name in names if name.startswith(("decode", "encode", "commit"))}


def test_uneven_micro_batches_and_shards(tmp_path: Path) -> None:
    encoder = Encoder()
    records = list(run(tmp_path / "c", plan(23), encoder, bad=[7]))
    assert encoder.sizes == [4, 4, 2, 4, 4, 2, 3]
    assert [(record.first, record.count) for record in records] == [(0, 10), (10, 10), (20, 3)]
    content = [value for record in records for value in record.content]
    expected = [hashlib.sha256(png(item)).hexdigest() for item in range(23)]
    assert content == [*expected[:7], "", *expected[8:]]
    stored = [map_array(shard_path(tmp_path / "c", "center", k), "embedding") for k in range(3)]
    grey = np.concatenate(stored)[:, 0, 0]
    assert np.isnan(grey[7])
    assert np.delete(grey, 7).tolist() == [*range(7), *range(8, 23)]
    assert [record.errors for record in records] == [{7: "gone"}, {}, {}]


@pytest.mark.parametrize(("shard_size", "micro_batch"), [(1, 1), (7, 100), (50, 7), (6, 3)])
def test_values_do_not_depend_on_the_pieces(
    tmp_path: Path, shard_size: int, micro_batch: int
) -> None:
    pieces = plan(40, shard_size, micro_batch)
    list(run(tmp_path / "c", pieces, workers=3))
    paths = [shard_path(tmp_path / "c", "center", shard) for shard in pieces.shards]
    grey = np.concatenate([map_array(path, "embedding") for path in paths])[:, 0, 0]
    assert grey.tolist() == list(range(40))


class Counted(DecodedBatch):
    """A micro-batch that is counted for as long as anything holds it."""

    alive: weakref.WeakSet[Counted]
    __hash__ = object.__hash__

    def __init__(self, *values: Any, **more: Any) -> None:
        super().__init__(*values, **more)
        self.alive.add(self)


@pytest.mark.parametrize(("workers", "micro_batch", "most"), [(2, 16, 5), (4, 4, 12), (1, 64, 5)])
def test_read_ahead_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, micro_batch: int, most: int
) -> None:
    class Watching(Encoder):
        peak = 0

        def submit(self, pixels: torch.Tensor, fields: Sequence[str]) -> Any:
            Watching.peak = max(Watching.peak, len(Counted.alive))
            return super().submit(pixels, fields)

    monkeypatch.setattr(reader, "DecodedBatch", Counted)
    peaks, image = [], png(0)
    for batches in (20, 60):
        Counted.alive = weakref.WeakSet()
        Watching.peak = 0
        pieces = plan(batches * micro_batch, 5 * micro_batch, micro_batch)
        monkeypatch.setattr(Store, "read", lambda self, uri: image)
        list(run(tmp_path / str(batches), pieces, Watching(), workers=workers))
        peaks.append(Watching.peak)
    assert peaks[0] == peaks[1] <= most
    assert not Counted.alive


def test_closing_early_waits_for_the_commit_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = shard.commit_shard

    def slow(*values: Any, **more: Any) -> ShardRecord:
        time.sleep(0.1)
        return commit(*values, **more)

    monkeypatch.setattr(shard, "commit_shard", slow)
    pieces = plan(200)
    records = run(tmp_path / "c", pieces)
    assert next(records).first == 0
    records.close()
    assert not threads()
    committed = [read_shard_record(tmp_path / "c", "center", shard) for shard in range(20)]
    assert [record is not None for record in committed] == [True] * 2 + [False] * 18
    assert sorted(digests(tmp_path / "c")) == ["00000.h5", "00000.json", "00001.h5", "00001.json"]


def finish_and_compare(cache: Path, pieces: Plan) -> None:
    """Check that no half file is left and that going on gives the bytes of an unbroken run."""
    assert not threads()
    assert all(name.endswith((".h5", ".json")) for name in digests(cache))
    todo = [k for k in pieces.shards if read_shard_record(cache, "center", k) is None]
    assert todo
    list(run(cache, pieces, shards=todo))
    whole = cache.with_name("whole")
    list(run(whole, pieces))
    assert digests(cache) == digests(whole)


def test_a_failing_encoder_leaves_what_is_done(tmp_path: Path) -> None:
    pieces = plan(47)
    records = run(tmp_path / "c", pieces, Encoder(fails_at=7))  # in the third shard
    with pytest.raises(ValueError, match="broken encoder"):
        list(records)
    assert read_shard_record(tmp_path / "c", "center", 1) is not None
    assert read_shard_record(tmp_path / "c", "center", 2) is None
    finish_and_compare(tmp_path / "c", pieces)


def several_at_once(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let a CPU run so many passes at once."""
    monkeypatch.setattr(writer, "passes_at_once", lambda _: number)


def test_passes_at_once_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Uneven(Encoder):
        """Every third pass takes long, so that others overtake it."""

        running, most = 0, 0

        def submit(self, pixels: torch.Tensor, fields: Sequence[str]) -> Any:
            with lock:
                Uneven.running += 1
                Uneven.most = max(Uneven.most, Uneven.running)
                late = len(self.sizes) % 3 == 0
                found = super().submit(pixels, fields)
            time.sleep(0.02 if late else 0)
            with lock:
                Uneven.running -= 1
            return found

    lock, pieces = threading.Lock(), plan(95, 9, 2)
    list(run(tmp_path / "alone", pieces, bad=[7, 8, 30]))
    for number in (2, 3, 7):  # the last: more than a shard has batches
        several_at_once(monkeypatch, number)
        Uneven.most = 0
        list(run(tmp_path / f"{number}", pieces, Uneven(), bad=[7, 8, 30]))
        assert 1 < Uneven.most <= number
        assert digests(tmp_path / f"{number}") == digests(tmp_path / "alone")
    assert not threads()


def test_an_error_of_one_pass_among_several_leaves_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several_at_once(monkeypatch, 3)
    pieces = plan(47)
    with pytest.raises(ValueError, match="broken encoder"):
        list(run(tmp_path / "c", pieces, Encoder(fails_at=7)))  # in the third shard
    assert read_shard_record(tmp_path / "c", "center", 1) is not None
    assert read_shard_record(tmp_path / "c", "center", 2) is None
    finish_and_compare(tmp_path / "c", pieces)


@pytest.mark.parametrize("step", ["before", "features", "record"])
def test_a_failing_commit_leaves_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    from ltcache.cache import shards

    name = {"before": "stored", "features": "write_whole", "record": "create_whole"}[step]
    original = getattr(shards, name)
    calls = []

    def full(*values: Any) -> Any:
        calls.append(values)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return original(*values)

    pieces = plan(47)
    with monkeypatch.context() as patch:
        patch.setattr(shards, name, full)
        with pytest.raises(OSError, match="No space left"):
            list(run(tmp_path / "c", pieces))
    assert read_shard_record(tmp_path / "c", "center", 1) is not None
    assert read_shard_record(tmp_path / "c", "center", 2) is None
    finish_and_compare(tmp_path / "c", pieces)


def test_a_failing_decoder_is_not_taken_for_a_bad_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Store, uri: str) -> bytes:
        raise ZeroDivisionError

    pieces = plan(47)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "read", broken)
        with pytest.raises(ZeroDivisionError):
            list(run(tmp_path / "c", pieces))
    finish_and_compare(tmp_path / "c", pieces)


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_stages_hold_the_time_of_their_work_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    for module in (encode, writer):
        monkeypatch.setattr(module, "time", clock)

    class Slow(Encoder):
        def submit(self, pixels: torch.Tensor, fields: Sequence[str]) -> Any:
            clock.now += 1
            return super().submit(pixels, fields)

    tally = ExtractionTally()
    encoder = Slow()
    for _ in run(tmp_path / "c", plan(47), encoder, tally=tally):
        clock.now += 1000  # what the caller does with a record is nobody's stage
    assert (tally.decode, tally.encode, tally.write) == (0, len(encoder.sizes), 0)
    assert tally.binding() == "encoding binds (100% of the time)"


@pytest.mark.parametrize("stage", ["decode", "write"])
def test_waiting_counts_for_what_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    clock, waits = Clock(), [0]

    class SlowPool(ThreadPoolExecutor):
        """To wait for what it does takes a second."""

        def submit(self, *values: Any, **more: Any) -> Future[Any]:
            future = super().submit(*values, **more)
            if self._thread_name_prefix.startswith({"decode": "decode", "write": "commit"}[stage]):
                future.result = partial(self.wait, future.result)  # type: ignore[method-assign]
            return future

        def wait(self, result: Callable[[], Any]) -> Any:
            clock.now += 1
            waits[0] += 1
            return result()

    for module in (encode, writer):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(writer, "ThreadPoolExecutor", SlowPool)
    tally = ExtractionTally()
    list(run(tmp_path / "c", plan(48, 3, 3), workers=1, tally=tally))
    assert getattr(tally, stage) == waits[0] == 16
    assert tally.decode + tally.encode + tally.write == 16
    assert tally.binding().startswith({"decode": "decoding", "write": "writing"}[stage])


def test_nothing_has_happened_yet() -> None:
    assert ExtractionTally().binding() == "starting"


@pytest.mark.parametrize("scale", [1e-7, 1e6])
def test_tokens_that_float16_would_change_are_kept_in_float32(scale: float) -> None:
    values = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    held = np.zeros((4, 5, 8), np.float16)
    assert widened(held, values) is held
    values[1, 3] *= scale
    assert widened(held, values).dtype == np.float32
