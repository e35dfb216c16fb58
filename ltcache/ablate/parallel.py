"""Groups of work in several processes, each group in order in one of them.

What belongs together shares a memo and therefore a process; groups go to whoever is idle. A
process that dies costs the rest of the group that it had, nothing else.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ltcache.fit import Memo


class WorkFunction(Protocol):
    """What is done with each item; it never raises."""

    def read(self, items: Sequence[Any], /) -> None:
        """Read what the items need, before processes are forked that share its memory."""

    def begin(self, group: Sequence[Any], /) -> Memo:
        """Return the memo that the items of a group share."""

    def __call__(self, item: Any, memo: Memo, /) -> Any:
        """Return the result of an item."""


@dataclass(frozen=True)
class LostItem:
    """An item whose process died."""

    item: Any
    reason: str


class GroupRunner(Protocol):
    """Does all groups of some work somewhere."""

    def __call__(self, groups: Sequence[Sequence[Any]], work: WorkFunction, /) -> Iterator[Any]:
        """Yield the result of every item as it comes, or :class:`LostItem`."""


def run_groups(groups: Sequence[Sequence[Any]], work: WorkFunction, workers: int) -> Iterator[Any]:
    """Yield the result of every item as it comes, or :class:`LostItem`.

    Args:
        workers: processes; 1: in this one.
    """
    workers = min(workers, len(groups))
    if workers > 1:
        yield from _in_processes(sorted(groups, key=len, reverse=True), work, workers)
        return
    for group in groups:
        memo = work.begin(group)
        for item in group:
            yield work(item, memo)


@dataclass(eq=False)
class _WorkerProcess:
    process: Any
    pending: list[Any]


def _in_processes(
    groups: Sequence[Sequence[Any]], work: WorkFunction, workers: int
) -> Iterator[Any]:
    # a fork shares the features; on a Mac forked libraries crash
    forks = sys.platform == "linux"
    context: Any = multiprocessing.get_context("fork" if forks else "spawn")
    if forks:
        work.read([item for group in groups for item in group])
    queue = [list(group) for group in groups]
    pool: dict[Connection, _WorkerProcess] = {}
    try:
        for _ in range(workers):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, work), daemon=True)
            process.start()
            there.close()  # so that its end is seen when the process dies
            pool[here] = _WorkerProcess(process, queue.pop(0))
            here.send(pool[here].pending)
        while pool:
            for connection in wait(list(pool)):
                assert isinstance(connection, Connection)
                yield from _hear(connection, pool, queue)
        for group in queue:  # every process died
            yield from (LostItem(item, "the processes before it died") for item in group)
    finally:
        for worker in pool.values():
            worker.process.terminate()


def _hear(
    connection: Connection, pool: dict[Connection, _WorkerProcess], queue: list[list[Any]]
) -> Iterator[Any]:
    """Yield what a process reports, and give it the next group when it has none."""
    worker = pool[connection]
    try:
        result = connection.recv()
    except (EOFError, ConnectionResetError):
        del pool[connection]
        worker.process.join()
        reason = f"its process died (exit status {worker.process.exitcode}); out of memory?"
        yield from (LostItem(item, f"{reason} Try --workers 1") for item in worker.pending)
        return
    worker.pending.pop(0)
    if not worker.pending and queue:
        worker.pending = queue.pop(0)
        connection.send(worker.pending)
    elif not worker.pending:
        connection.send(None)
        del pool[connection]
        worker.process.join()
    yield result


def _serve(connection: Connection, work: WorkFunction) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # end at once and without a traceback
    torch.set_num_threads(1)  # more hang after a fork, and small products gain nothing
    while (group := connection.recv()) is not None:
        memo = work.begin(group)
        for item in group:
            connection.send(work(item, memo))
