"""What no store hands out: images that are too long, and paths that leave their root."""

from __future__ import annotations

from pathlib import PurePosixPath

from ltcache.errors import ImageError
from ltcache.manifest import leaves_root

MAX_BYTES = 1 << 30
"""Largest accepted encoded image: what is longer is no image, or a bomb."""


def check_size(size: int) -> None:
    """Refuse an encoded image of more than ``MAX_BYTES`` before it is read.

    Raises:
        ImageError: names both sizes.
    """
    if size > MAX_BYTES:
        raise ImageError(f"{size} bytes, more than {MAX_BYTES} (MAX_BYTES)")


def safe_uri(uri: str) -> PurePosixPath:
    """Return ``uri`` as a relative path; a path that leaves its root is refused.

    Raises:
        ImageError: absolute, or with a ``..`` part.
    """
    if leaves_root(uri):
        raise ImageError("the path leaves the root of the images")
    return PurePosixPath(uri)
