"""Freed memory stays with the process: batch after batch takes the same pages, not new ones.

glibc gives large blocks, and the free top of its heap, back to the kernel at once. A forward pass
on a CPU frees all its activations and asks for them again in the next batch, so every batch pays
for every page anew: a fault, and a page of zeros.
"""

from __future__ import annotations

import ctypes
import functools
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt, as glibc's <malloc.h> numbers them."""

KEPT = {MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: 512 << 20}
"""Blocks below 32 MiB come from the heap, of which up to 512 MiB stay when they are free.

32 MiB is what glibc's own adaptation may reach, and the most that each of its versions takes;
larger arrays are mapped and given back as ever, so what is kept stays bounded.
"""


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
    mallopt = ctypes.CDLL(None).mallopt
    done = [mallopt(parameter, size) for parameter, size in KEPT.items()]  # 1: taken
    return done == [1] * len(KEPT)


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):  # a name that other libraries do not know
        return False


def _set_by_user() -> bool:
    return "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "") or any(
        name.startswith("MALLOC_") for name in os.environ
    )
