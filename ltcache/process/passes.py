"""Forward passes on a CPU: several at once, with few threads each, in place of one with many.

Threads that share one pass wait for the slowest at the end of every operation, the longer the
smaller a model is and the more decoding goes on beside it; passes of one thread each do not wait
for each other. And what a pass of one thread computes is the same, bit for bit, however many
processors a machine has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from ltcache.process.launched import launched_process
from ltcache.process.processors import usable_processors

THREADS = 1
"""Compute threads of a pass on a CPU where nothing else is said."""

P = ParamSpec("P")
T = TypeVar("T")

_MOST = 16  # each pass holds the activations of a batch
_OMP = "OMP_NUM_THREADS"


@contextmanager
def threads_of_passes(threads: int | None) -> Iterator[None]:
    """Let torch compute with so many threads in each thread of this process, then as before.

    Args:
        threads: None: as many as it does.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def passes_at_once(device: str) -> int:
    """Return how many passes a device is given at once: on a CPU by the threads that torch has.

    Together they have the processors of this process, one rank among those of the machine, and no
    more than ``OMP_NUM_THREADS`` allows.

    Args:
        device: its kind; one pass at a time uses all of a GPU.
    """
    import torch

    if device != "cpu":
        return 1
    processors = usable_processors() // launched_process().local_size
    allowed = os.environ.get(_OMP, "")
    if allowed.isdecimal():
        processors = min(processors, int(allowed))
    return max(1, min(_MOST, processors // torch.get_num_threads()))


class ConcurrentPasses:
    """Passes that run beside the thread that asks for them; one at a time runs in it.

    Args:
        at_once: how many; see :func:`passes_at_once`.
    """

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self._pool = ThreadPoolExecutor(at_once, "encode") if at_once > 1 else None

    def submit(self, run: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Begin a pass, or run it where there is one at a time.

        Raises:
            Exception: what a pass that was run raises; of another one its result does.
        """
        if self._pool is not None:
            return self._pool.submit(run, *args, **kwargs)
        done: Future[T] = Future()
        done.set_result(run(*args, **kwargs))
        return done

    def __enter__(self) -> ConcurrentPasses:
        """See :meth:`__exit__`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the passes that run; those that have not begun are dropped."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
