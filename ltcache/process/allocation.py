"""Freed memory stays with the process: batch after batch takes the same pages, not new ones.

glibc gives large blocks, and the free top of its heap, back to the kernel at once. A forward pass
on a CPU frees all its activations and asks for them again in the next batch, so every batch pays
for every page anew: a fault, and a page of zeros.

Threads that are there already keep the heaps that they have. So the command line begins with this;
a program that uses the Python API calls :func:`keep_freed_memory` before it imports torch.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""Parameters of mallopt, as glibc's <malloc.h> numbers them."""

_MOST_OF_OLDER = 32 << 20
"""The most that older versions of glibc take as MMAP_THRESHOLD."""
KEPT = {TRIM_THRESHOLD: 512 << 20, MMAP_THRESHOLD: _MOST_OF_OLDER}
"""Blocks below 32 MiB, batches of features and their products, come from the heap, of which up to
512 MiB stay at its end when they are free.

Larger arrays, such as all features of a cache, are mapped, and given back when they are freed: in
the heap they would leave holes that nothing fills.
"""
KEPT_OF_TOWERS = {TRIM_THRESHOLD: (2 << 30) - 1, MMAP_THRESHOLD: 1 << 30}
"""The same below 1 GiB, and up to 2 GiB, the most mallopt takes: activations of 16 photographs of
224 pixels are blocks of 77 MiB in a small convolutional network."""
ONE_HEAP = {ARENA_MAX: 1}
"""The heaps of further threads have no place for a block above 64 MiB."""


@functools.cache
def keep_freed_memory() -> bool:
    """Let malloc keep what work in batches frees; for the whole process, and its forks.

    Nothing is done where the C library is not glibc (macOS, musl), and where the environment says
    how malloc is to work (``MALLOC_...``, or ``GLIBC_TUNABLES`` with ``glibc.malloc``). Results do
    not change.

    Returns:
        Whether it was done.
    """
    if not _is_glibc() or _set_by_user():
        return False
    return _told_malloc(ONE_HEAP | KEPT)


@contextmanager
def activations_kept() -> Iterator[None]:
    """Let malloc keep the larger blocks of a tower's passes as well, and give the kernel at the end
    what nobody uses; nothing where :func:`keep_freed_memory` does nothing."""
    if not keep_freed_memory():
        yield
        return
    _told_malloc(KEPT_OF_TOWERS)
    try:
        yield
    finally:
        _told_malloc(KEPT)
        ctypes.CDLL(None).malloc_trim(0)


def _told_malloc(settings: Mapping[int, int]) -> bool:
    """Set parameters of malloc, and return whether all were taken, or in place of a larger
    MMAP_THRESHOLD the most that an older glibc takes."""
    mallopt = ctypes.CDLL(None).mallopt  # returns 1 for what is taken
    done = [mallopt(parameter, size) == 1 for parameter, size in settings.items()]
    return all(done) or mallopt(MMAP_THRESHOLD, _MOST_OF_OLDER) == 1


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):  # a name that other libraries do not know
        return False


def _set_by_user() -> bool:
    return "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "") or any(
        name.startswith("MALLOC_") for name in os.environ
    )
