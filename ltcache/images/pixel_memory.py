"""Memory for the pixels of a few batches, which are used again and again.

It can be seen by other processes, and be pinned as a whole so that a GPU copies from it directly.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Mapping

import numpy as np


class PixelMemory:
    """Slots for batches; take, fill, and give back from one thread.

    Attributes:
        bytes: all of it, uint8.
        file: descriptor of what other processes map, None where they cannot.

    Args:
        slots: how many batches there are at a time. size: bytes of the largest one.
        shared: whether other processes are to see it.
    """

    def __init__(self, slots: int, size: int, *, shared: bool = False) -> None:
        self._size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._free = list(range(slots))
        self.file = _anonymous_file(slots * self._size) if shared else None
        self._map = mmap.mmap(-1 if self.file is None else self.file, slots * self._size)
        self.bytes = np.frombuffer(self._map, np.uint8)

    def take(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, dict[str, np.ndarray]]:
        """Return a free slot and arrays of uint8 in it, by name; what they hold is left over."""
        slot = self._free.pop()
        place, arrays = slot * self._size, {}
        for name, shape in shapes.items():
            stop = place + int(np.prod(shape))
            arrays[name] = self.bytes[place:stop].reshape(shape)
            place = stop
        return slot, arrays

    def give_back(self, slot: int) -> None:
        """Let a slot be taken again."""
        self._free.append(slot)

    def place_of(self, array: np.ndarray) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """Return where an array lies in the memory: offset, shape, strides."""
        return array.ctypes.data - self.bytes.ctypes.data, array.shape, array.strides

    def close(self) -> None:
        """Close the file; the memory stays until nothing holds it."""
        if self.file is not None:
            os.close(self.file)
            self.file = None


def array_at(
    memory: mmap.mmap, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> np.ndarray:
    """Return what :meth:`PixelMemory.place_of` describes, in another process' map of the memory."""
    return np.ndarray(shape, np.uint8, memory, offset, strides)


def _anonymous_file(size: int) -> int:
    """Return the descriptor of a file without a name, which no crash leaves behind.

    Not in ``/dev/shm``, of which a container has 64 MB.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("ltcache-pixels")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
