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

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""Parameters of mallopt, as glibc's <malloc.h> numbers them."""

KEPT = {ARENA_MAX: 1, TRIM_THRESHOLD: (2 << 30) - 1, MMAP_THRESHOLD: 1 << 30}
"""Blocks below 1 GiB come from one heap, of which up to 2 GiB, the most mallopt takes, stay at its
end when they are free.

Activations of 16 photographs of 224 pixels are blocks of 77 MiB in a small convolutional network.
One heap, for the heaps of further threads have no place for a block above 64 MiB. Larger arrays are
mapped and given back as ever.
"""
_OLDER_THRESHOLD = 32 << 20
"""The most that older versions of glibc take as MMAP_THRESHOLD."""


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
    mallopt = ctypes.CDLL(None).mallopt  # returns 1 for what is taken
    done = [mallopt(parameter, size) == 1 for parameter, size in KEPT.items()]
    return all(done) or mallopt(MMAP_THRESHOLD, _OLDER_THRESHOLD) == 1


def give_back_freed_memory() -> None:
    """Let malloc give the kernel what it kept and nobody uses, at the end of work in batches."""
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):  # a name that other libraries do not know
        return False


def _set_by_user() -> bool:
    return "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "") or any(
        name.startswith("MALLOC_") for name in os.environ
    )
