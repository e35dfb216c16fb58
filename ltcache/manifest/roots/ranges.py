"""Bytes of a file from here to there: what an archive that is never unpacked is read with."""

from __future__ import annotations

import os

from ltcache.errors import ImageError
from ltcache.manifest.roots.places import Place, RemotePlace


def read_range(place: Place, stamp: tuple[int, int], start: int, size: int) -> bytes:
    """Return ``size`` bytes of a file from ``start`` on; safe in several threads.

    Args:
        stamp: size and time of change that the file had when it was indexed.

    Raises:
        ImageError: the file is gone, was changed since, or ends too early.
    """
    try:
        if isinstance(place, RemotePlace):
            data = place.read(start, start + size) if size else b""
        else:
            data = _read_local(os.fspath(place), stamp, start, size)
    except OSError as error:
        raise ImageError(error.strerror or type(error).__name__) from None
    if len(data) != size:
        raise ImageError(f"the archive ends {size - len(data)} bytes too early")
    return data


def _read_local(path: str, stamp: tuple[int, int], start: int, size: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if (status.st_size, status.st_mtime_ns) != stamp:
            raise ImageError("the archive was changed while it was read")
        parts = []
        while size > 0 and (part := os.pread(descriptor, size, start)):
            parts.append(part)
            start, size = start + len(part), size - len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)
