"""What no store hands out: images that are too long, and paths that leave their root."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from ltcache.errors import ImageError
from ltcache.manifest.file_names import leaves_root

_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-f]+>")
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


def stable_text(error: Exception) -> str:
    """Return an error's text without memory addresses, so that records are reproducible."""
    text = _ADDRESS.sub("the image", str(error)).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
