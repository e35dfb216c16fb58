"""The order in which processes take shards: few are encoded twice, whoever is slow or dead."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence

import pytest

from ltcache.extract.order import joined_by_hand, own_part_first
from ltcache.process import LaunchedProcess

AHEAD = 2  # shards that a process has in work: one encoded, one decoded


def simulate(
    parts: Sequence[LaunchedProcess],
    shards: int,
    speeds: Sequence[float],
    starts: Sequence[float] | None = None,
) -> tuple[float, float]:
    """Let processes share shards by the rule alone; a speed of 0 is a process that is dead.

    Returns:
        Shards encoded, as a multiple of those there are, and the time until all are there, as a
        multiple of what these processes would need if they divided the work perfectly.
    """
    noise, numbers = random.Random(0), range(shards)
    done: set[int] = set()
    orders = [iter(own_part_first(numbers, numbers, part)) for part in parts]
    taken: list[list[int]] = [[] for _ in parts]
    events: list[tuple[float, int]] = []

    def draw(process: int) -> int | None:
        for _ in range(2):  # the second time over what is left then
            for shard in orders[process]:
                if shard not in done and shard not in taken[process]:
                    return shard
            left = [shard for shard in numbers if shard not in done]
            orders[process] = iter(own_part_first(left, numbers, parts[process]))
        return None

    def begin(process: int, now: float) -> None:
        while len(taken[process]) < AHEAD and (shard := draw(process)) is not None:
            taken[process].append(shard)
        if taken[process] and speeds[process]:
            heapq.heappush(events, (now + noise.uniform(0.9, 1.1) / speeds[process], process))

    for process, start in enumerate(starts or [0.0] * len(parts)):
        heapq.heappush(events, (start, process))
    encoded, end = 0, 0.0
    while events:
        now, process = heapq.heappop(events)
        if taken[process]:
            encoded += 1
            done.add(taken[process].pop(0))
            end = end if len(done) < shards else end or now
        begin(process, now)
    assert len(done) == shards
    return encoded / shards, end * sum(speeds) / shards


def parts_of(size: int) -> list[LaunchedProcess]:
    return [LaunchedProcess(rank, size) for rank in range(size)]


@pytest.mark.parametrize(("size", "shards"), [(1, 24), (4, 1000), (8, 1000), (32, 1000)])
def test_processes_of_one_speed_encode_hardly_anything_twice(size: int, shards: int) -> None:
    encoded, time = simulate(parts_of(size), shards, [1.0] * size)
    assert encoded <= 1.10
    assert time <= 1.10


@pytest.mark.parametrize(
    ("slow", "bound"), [(0.3, 1.15), (0.0, 1.15)], ids=["three times slower", "dead"]
)
def test_the_part_of_a_slow_or_dead_process_is_taken_by_the_others(
    slow: float, bound: float
) -> None:
    encoded, time = simulate(parts_of(32), 1000, [*[1.0] * 31, slow])
    assert encoded <= bound
    assert time <= bound


def test_late_processes_find_what_is_left() -> None:
    encoded, _ = simulate(parts_of(4), 200, [1.0] * 4, starts=[0.0, 0.0, 60.0, 60.0])
    assert encoded <= 1.10


def test_processes_that_nobody_has_numbered_take_orders_of_their_own() -> None:
    encoded, time = simulate([joined_by_hand() for _ in range(8)], 1000, [1.0] * 8)
    assert encoded <= 1.20
    assert time <= 1.20
    ranked = [LaunchedProcess(rank, None) for rank in range(8)]  # Kubernetes
    assert simulate(ranked, 1000, [1.0] * 8)[0] <= 1.20


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
