"""The order in which processes take shards: few are encoded twice, whoever is slow or dead."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from ltcache.cache import Layer, Plan
from ltcache.extract.order import joined_by_hand, own_part_first, taken_shards
from ltcache.extract.shard import ShardToEncode
from ltcache.extract.signs import ShardSigns
from ltcache.process import LaunchedProcess

AHEAD = 2  # shards that a process has in work: one encoded, one decoded


@dataclass
class Sharing:
    """Processes that share shards by the rule alone, each shard in one unit of time.

    Args:
        parts: of the processes. shards: how many there are.
        speeds: 0 is a process that never begins. starts: when they begin.
        dies: process -> when it is killed; what it was at seems in its hands for ever.
        blind: whether they do not see each other's signs, as at an address.
    """

    parts: Sequence[LaunchedProcess]
    shards: int
    speeds: Sequence[float]
    starts: Sequence[float] = ()
    dies: Mapping[int, float] = field(default_factory=dict)
    blind: bool = False

    def run(self) -> tuple[float, float]:
        """Let them work.

        Returns:
            Shards encoded, as a multiple of those there are, and the time until all are there, as
            a multiple of what these processes would need if they divided the work perfectly from
            the beginning.
        """
        noise = random.Random(0)
        self.done: set[int] = set()
        self.at: list[list[int]] = [[] for _ in self.parts]
        self.orders: list[Iterator[Any]] = [iter(()) for _ in self.parts]
        starts = self.starts or [0.0] * len(self.parts)
        events = [(start, process) for process, start in enumerate(starts)]
        encoded, end = 0, 0.0
        while events:
            now, process = heapq.heappop(events)
            if now > self.dies.get(process, math.inf):
                continue
            if self.at[process]:
                encoded += 1
                self.done.add(self.at[process].pop(0))
                end = end if len(self.done) < self.shards else end or now
            self.take(process)
            if self.at[process] and (speed := self.speeds[process]):
                heapq.heappush(events, (now + noise.uniform(0.9, 1.1) / speed, process))
        assert len(self.done) == self.shards
        return encoded / self.shards, end * sum(self.speeds) / self.shards

    def take(self, process: int) -> None:
        """Let a process take shards until it has enough; the second time over what is left then."""
        numbers, part = range(self.shards), self.parts[process]
        at = self.at[process]
        at[:] = [shard for shard in at if shard not in self.done]  # what others have committed
        for _ in range(2):
            while len(at) < AHEAD:
                if (work := next(self.orders[process], None)) is None:
                    break
                at.append(work.shard)
            if len(at) == AHEAD:
                return
            left = [n for n in numbers if n not in self.done and n not in at]
            order = own_part_first(left, numbers, part)
            signs: Any = Signs(self, process)
            self.orders[process] = taken_shards(order, self.lacking, signs)

    def lacking(self, shard: int) -> ShardToEncode:
        """Return a shard, with layers where nobody has committed it."""
        return ShardToEncode(shard, () if shard in self.done else (CENTER,))


@dataclass
class Signs:
    """What a process sees of the others."""

    sharing: Sharing
    process: int

    def of_others(self) -> set[int]:
        """Return what they are at, or were when they died."""
        if self.sharing.blind:
            return set()
        others = enumerate(self.sharing.at)
        return {shard for other, at in others if other != self.process for shard in at}

    def put(self, shard: int) -> None:
        """Say that it is at a shard, which it has then taken."""


CENTER: Any = Layer("center", {"name": "center"}, {"embedding": 2})


def simulate(
    parts: Sequence[LaunchedProcess], shards: int, speeds: Sequence[float], **how: Any
) -> tuple[float, float]:
    """Return what :class:`Sharing` gives."""
    return Sharing(parts, shards, speeds, **how).run()


def parts_of(size: int) -> list[LaunchedProcess]:
    return [LaunchedProcess(rank, size) for rank in range(size)]


@pytest.mark.parametrize(("size", "shards"), [(1, 24), (4, 24), (8, 200), (32, 200), (32, 1000)])
@pytest.mark.parametrize("late", [0.0, 0.5, 1.1])
def test_each_process_encodes_at_most_its_last_shard_in_vain(
    size: int, shards: int, late: float
) -> None:
    starts = [late * shards / size * (process % 2) for process in range(size)]
    encoded, _ = simulate(parts_of(size), shards, [1.0] * size, starts=starts)
    assert encoded <= 1 + 1.2 * (size - 1) / shards


def test_processes_of_one_speed_finish_together() -> None:
    for size, shards in ((1, 24), (4, 1000), (8, 1000), (32, 1000)):
        assert simulate(parts_of(size), shards, [1.0] * size)[1] <= 1.05


@pytest.mark.parametrize("slow", [0.3, 0.0], ids=["three times slower", "never there"])
def test_the_part_of_a_slow_process_is_taken_by_the_others(slow: float) -> None:
    encoded, time = simulate(parts_of(32), 1000, [*[1.0] * 31, slow])
    assert encoded <= 1.08
    assert time <= 1.08


def test_what_a_killed_process_was_at_is_done_last() -> None:
    encoded, time = simulate(parts_of(4), 200, [1.0] * 4, dies={3: 25.0, 2: 20.0})
    assert encoded <= 1.05
    assert time <= 1.8  # half of them are there after an eighth of the work


def test_who_sees_no_signs_encodes_more_twice() -> None:
    blind = {"blind": True, "starts": [0.0, 15.0] * 16}
    assert 1.05 < simulate(parts_of(32), 1000, [1.0] * 32, **blind)[0] <= 1.15


@pytest.mark.parametrize("blind", [False, True])
def test_processes_that_nobody_has_numbered_take_orders_of_their_own(blind: bool) -> None:
    bound = 1.25 if blind else 1.05
    for parts in (
        [joined_by_hand() for _ in range(8)],
        [LaunchedProcess(rank, None) for rank in range(8)],  # Kubernetes
    ):
        encoded, time = simulate(parts, 1000, [1.0] * 8, blind=blind)
        assert encoded <= bound
        assert time <= bound


def test_signs_are_seen_by_others_alone_and_go_with_the_work(tmp_path: Path) -> None:
    (tmp_path / "plans").mkdir()
    plan = Plan({}, {}, {}, ("center",), {"embedding": 2}, 40, 10, 4)
    one, two = ShardSigns(tmp_path, plan), ShardSigns(tmp_path, plan)
    other_plan = ShardSigns(tmp_path, replace(plan, number=2))
    for shard in (3, 12):
        one.put(shard)
    two.put(12)
    assert (one.of_others(), two.of_others()) == ({12}, {3, 12})
    assert other_plan.of_others() == set()
    one.remove(12)
    one.remove(7)  # it never was at it
    assert two.of_others() == {3}
    one.clear()
    two.clear()
    assert not list((tmp_path / "plans").iterdir())
    closed = ShardSigns(tmp_path / "gone", plan)
    closed.put(1)  # nobody sees it, and the work goes on
    assert closed.of_others() == set()


def test_what_others_are_at_comes_last_and_what_they_have_committed_not_at_all() -> None:
    sharing = Sharing(parts_of(2), 6, [1.0, 1.0])
    sharing.done, sharing.at = {2}, [[], [0, 3]]
    shards = taken_shards(range(6), sharing.lacking, cast(Any, Signs(sharing, 0)))
    assert [next(shards).shard for _ in range(2)] == [1, 4]
    sharing.done |= {3, 5}
    assert [work.shard for work in shards] == [0]


def test_every_shard_that_is_left_comes_once_and_the_own_part_first() -> None:
    shards = range(100, 125)
    todo = [shard for shard in shards if shard % 3]
    parts = []
    for process in parts_of(4):
        order = own_part_first(todo, shards, process)
        assert sorted(order) == todo
        own = [s for s in todo if process.rank * 25 // 4 <= s - 100 < (process.rank + 1) * 25 // 4]
        assert order[: len(own)] == own
        parts += own
    assert parts == todo
    assert own_part_first(todo, shards, LaunchedProcess()) == todo
