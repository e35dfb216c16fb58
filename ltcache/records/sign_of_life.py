"""A sign that a process is at work on a file, which other processes can see, and see to stop.

It is no lock: who does not see it, or waits too long, may do the same work, and the results are the
same. It spares many processes a long piece of work that one of them is doing.
"""

from __future__ import annotations

import glob
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ltcache.records.files import remove_dead, temporary_path

_BEAT, _LOOK = 1.0, 0.2  # seconds between two signs of life, and between two looks for one
_SILENCE = 10.0  # seconds without a sign of life after which a process counts as dead or stopped


@contextmanager
def at_work(path: Path) -> Iterator[None]:
    """Say beside ``path``, again and again until the end, that this process is at work on it.

    What a killed process has left is removed as its other temporary files are.
    """
    sign, ended = temporary_path(path), threading.Event()

    def beat() -> None:
        with suppress(OSError):  # of a folder that is gone: who waits there sees no sign
            while not ended.wait(_BEAT):
                sign.touch()

    path.parent.mkdir(parents=True, exist_ok=True)
    sign.touch()
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        sign.unlink(missing_ok=True)


def wait_for_others(path: Path, done: Callable[[], bool], patience: float = 0.0) -> bool:
    """Wait as long as another process is seen at work on ``path`` and it is not done.

    Args:
        patience: seconds to wait for such a process where none is seen.

    Returns:
        Whether it is done; else this process may do it.
    """
    last, since = -1, time.monotonic()
    while not done():
        beat = _beat(path)
        if beat != last:
            last, since = beat, time.monotonic()
        if time.monotonic() - since >= (patience if beat < 0 else _SILENCE):
            return done()
        time.sleep(_LOOK)
    return True


def seen_at_work(path: Path) -> bool:
    """Whether another process gives a sign of life beside ``path``; looks for some seconds where a
    process of another machine, or one that is stopped, has left one."""
    remove_dead(path.parent, path.name)
    first, since = _beat(path), time.monotonic()
    while (beat := _beat(path)) >= 0 and time.monotonic() - since <= _SILENCE:
        if beat != first:
            return True
        time.sleep(_LOOK)
    return False


def _beat(path: Path) -> int:
    """Return when the last sign was given, in nanoseconds; -1: there is none."""
    signs = path.parent.glob(f".{glob.escape(path.name)}.tmp-*")
    return max((_time(sign) for sign in signs), default=-1)


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return -1
