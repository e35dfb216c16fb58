"""Batches stay in flight across the borders of shards, and shards do not depend on it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ltcache.cache import read_shard_record
from ltcache.extract import encode, shard, writer
from ltcache.extract.shard import EncodedShard, ShardQueue, ShardToEncode
from tests.extract.test_writer import Clock, Encoder, digests, finish_and_compare, plan, run


class Device(Encoder):
    """A device that works on what it is given, a second a batch, while the host goes on."""

    def __init__(self, clock: Clock, **options: Any) -> None:
        super().__init__(device=SimpleNamespace(type="cuda"), **options)
        self.clock, self.free_at, self.idle = clock, 0.0, 0.0

    def submit(self, pixels: torch.Tensor, fields: Sequence[str]) -> Any:
        found = super().submit(pixels, fields).result()
        start = max(self.clock.now, self.free_at)
        if self.free_at:
            self.idle += start - self.free_at
        self.free_at = start + 1
        return SimpleNamespace(result=partial(self.result, self.free_at, found))

    def result(self, done_at: float, found: Any) -> Any:
        self.clock.now = max(self.clock.now, done_at)
        return found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What the loop takes for the time; there is no memory to pin."""
    monkeypatch.setattr(writer, "pinned_memory", lambda *_: nullcontext())
    clock = Clock()
    for module in (encode, writer):
        monkeypatch.setattr(module, "time", clock)
    return clock


def test_the_device_never_waits_at_a_border(tmp_path: Path, clock: Clock) -> None:
    device = Device(clock)
    for _ in run(tmp_path / "c", plan(60, 12), device):
        clock.now += 0.9  # what the host does between two shards
    assert len(device.sizes) == 15
    assert device.idle == pytest.approx(0)


def test_shards_are_those_of_an_encoder_that_waits(tmp_path: Path, clock: Clock) -> None:
    pieces = plan(47, 9)
    for name, encoder in (("waits", Encoder()), ("does not", Device(clock))):
        list(run(tmp_path / name, pieces, encoder, bad=[8, 9, 17]))
    assert digests(tmp_path / "waits") == digests(tmp_path / "does not")


@pytest.mark.parametrize(("fails_at", "done"), [(6, 2), (7, 2), (8, 2), (9, 3)])
def test_an_error_costs_no_shard_that_the_device_was_given(
    tmp_path: Path, clock: Clock, fails_at: int, done: int
) -> None:
    pieces = plan(47)  # three batches a shard
    with pytest.raises(ValueError, match="broken encoder"):
        list(run(tmp_path / "c", pieces, Device(clock, fails_at=fails_at)))
    committed = [n for n in pieces.shards if read_shard_record(tmp_path / "c", "center", n)]
    assert committed == list(range(done))
    finish_and_compare(tmp_path / "c", pieces)


def test_features_of_two_shards_are_held_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    held: weakref.WeakSet[Any] = weakref.WeakSet()
    most = 0

    class Watched(np.ndarray):
        __hash__ = object.__hash__

    def empty(*values: Any) -> np.ndarray:
        nonlocal most
        made = np.empty(*values).view(Watched)
        held.add(made)
        most = max(most, len(held))
        return made

    monkeypatch.setattr(shard, "np", SimpleNamespace(**{**vars(np), "empty": empty}))
    list(run(tmp_path / "c", plan(80, 4), Device(clock)))
    assert most == 2
    assert not held


class TakenAway(ShardQueue):
    """A queue of which another process commits a shard when its second batch is due."""

    asked = 0

    def lacking(self, shard: int) -> ShardToEncode:
        if shard == 1:
            TakenAway.asked += 1
        return ShardToEncode(shard, () if TakenAway.asked > 2 and shard == 1 else (*self.layers,))


def test_a_shard_that_another_process_commits_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    seen: list[tuple[int, bool]] = []

    def noted(*values: Any) -> Iterator[EncodedShard]:
        for encoded in encode.encode_shards(*values):
            seen.append((encoded.work.shard, encoded.complete))
            yield encoded

    monkeypatch.setattr("tests.extract.test_writer.EndlessQueue", TakenAway)
    monkeypatch.setattr(writer, "encode_shards", noted)
    device = Device(clock)
    records = list(run(tmp_path / "c", plan(30), device))
    assert seen == [(0, True), (1, False), (2, True)]
    assert [record.first for record in records] == [0, 20]
    assert len(device.sizes) == 7  # one batch of the shard that was taken away
