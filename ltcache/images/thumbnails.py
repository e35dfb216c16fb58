"""Small copies of images for people to look at."""

from __future__ import annotations

import base64
import io

from PIL import Image

from ltcache.errors import ImageError
from ltcache.images.decoding import opened
from ltcache.records import bytes_digest

EDGE, QUALITY = 96, 60


def thumbnail(data: bytes, edge: int = EDGE) -> bytes:
    """Return an image as WebP whose longer edge is ``edge`` pixels at most.

    Transparent parts stay so; like the encoder's input it is not rotated by EXIF.

    Raises:
        ImageError: what :func:`ltcache.images.decode` would raise.
    """
    with opened(data) as image:
        image.draft("RGB", (2 * edge, 2 * edge))  # JPEG alone: fewer pixels, still enough of them
        small = image.convert("RGBA" if image.has_transparency_data else "RGB")
    small.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    small.info.clear()  # no profile, no EXIF
    stream = io.BytesIO()
    small.save(stream, "WEBP", quality=QUALITY, method=4)
    return stream.getvalue()


def thumbnail_uri(data: bytes, content: str = "") -> str:
    """Return the thumbnail of an image as a data URI, for a page that is one file.

    Args:
        content: SHA-256 of the bytes that were encoded; empty: not known.

    Raises:
        ImageError: the bytes are others, or what :func:`thumbnail` raises.
    """
    if content and bytes_digest(data) != content:
        raise ImageError("the file is no longer the one that was encoded")
    return "data:image/webp;base64," + base64.b64encode(thumbnail(data)).decode()
