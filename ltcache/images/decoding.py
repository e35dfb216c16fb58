"""From encoded bytes to pixels: one image in, pixels or an :class:`ImageError` out."""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ltcache.errors import ImageError, UsageError
from ltcache.images.composites import PartnerImages, PartnerRows
from ltcache.images.decoders import DECODERS, PILLOW
from ltcache.images.preprocessing import MAX_PIXELS, Preprocessing
from ltcache.images.views import View
from ltcache.manifest import image_formats, stable_text
from ltcache.records import one_line

# what Pillow logs of a broken file is in the row's reason; without a handler it would be printed
logging.getLogger("PIL").addHandler(logging.NullHandler())

_CENTER = View("center")


@one_line
@dataclass(frozen=True)
class DecodedImage:
    """Pixels uint8 (3, H, W) at the encoder's size, and the size of the source in pixels."""

    pixels: np.ndarray
    width: int
    height: int


@one_line
@dataclass(frozen=True)
class DecodedViews:
    """View -> pixels uint8 (crops, 3, H, W), the size of the source in pixels, and whether its EXIF
    says that it is to be shown turned or mirrored, which the pixels are not."""

    pixels: Mapping[str, np.ndarray]
    width: int
    height: int
    turned: bool = False


def decode(data: bytes, preprocessing: Preprocessing, decoder: str = PILLOW) -> DecodedImage:
    """Decode one image and bring it to the encoder's input size.

    What becomes of unusual images stands in the table of :mod:`ltcache.images`.

    Raises:
        ImageError: empty, truncated, unknown, larger than ``MAX_PIXELS``, or of more than 8 bits.
    """
    found = decode_views(data, preprocessing, [_CENTER], decoder=decoder)
    return DecodedImage(found.pixels[_CENTER.name][0], found.width, found.height)


def decode_views(
    data: bytes,
    preprocessing: Preprocessing,
    views: Sequence[View],
    content: str = "",
    partners: PartnerImages | None = None,
    decoder: str = PILLOW,
) -> DecodedViews:
    """Decode one image once and cut every view's crops from it.

    Args:
        content: SHA-256 of ``data``, which random crops depend on.
        partners: what composites are made with.
        decoder: one of :data:`ltcache.images.DECODERS`.

    Raises:
        ImageError: what :func:`opened` raises; or that of a partner.
        UsageError: a view of composites without partners.
    """
    with opened(data) as image:
        (width, height), turned = image.size, _to_be_turned(image)
        source = DECODERS[decoder](image, data)
        source.info.pop("transparency", None)  # dropped below in any case, but with a warning
        source = source.convert("RGB") if preprocessing.rgb_first else source
        pixels = {
            view.name: np.stack(
                [_channels(crop) for crop in view.cut(source, preprocessing, content)]
            )
            for view in views
        }
    for view in (view for view in views if view.composite):
        if partners is None:
            raise UsageError(f"view {view.name!r} is made of the training images of a cache")
        partners.paste(view, content, pixels[view.name])
    return DecodedViews(pixels, width, height, turned)


def partner_images(
    partners: PartnerRows,
    read: Callable[[str], bytes],
    preprocessing: Preprocessing,
    decoder: str = PILLOW,
) -> PartnerImages:
    """Return what pastes the centre crops of training images into others.

    Args:
        read: uri -> the bytes of an image's file.
    """
    return PartnerImages(partners, read, lambda data: decode(data, preprocessing, decoder).pixels)


@contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """Open an image whose size is fine; whatever a decoder raises inside is an ImageError.

    Raises:
        ImageError: empty, truncated, unknown, larger than ``MAX_PIXELS``, or of more than 8 bits.
    """
    if not data:
        raise ImageError("empty file (0 bytes)")
    try:
        with Image.open(io.BytesIO(data), formats=image_formats()) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(f"{width} x {height} pixels, more than {MAX_PIXELS} (MAX_PIXELS)")
            _require_eight_bits(image)
            yield image
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("not an image that Pillow knows") from None
    except Exception as error:  # a decoder may raise anything on a broken file
        raise ImageError(stable_text(error)) from None


def _to_be_turned(image: Image.Image) -> bool:
    """Whether EXIF asks for an orientation other than that of the pixels.

    Pillow turns TIFF files itself. Its reader of EXIF warns of metadata that it cannot read, which
    says nothing of the pixels, so that the one entry is looked up here.
    """
    exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or image.format == "TIFF":
        return False
    try:
        (directory,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, directory)
        for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, entry)
            if tag == ExifTags.Base.Orientation:
                return 2 <= value <= 8
    except struct.error:
        pass
    return False


def _require_eight_bits(image: Image.Image) -> None:
    """Refuse grey levels that Pillow, and so open_clip, would clip to white or black.

    Raises:
        ImageError: there are some.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return
    extrema: Any = image.getextrema()  # of one band
    low, high = extrema
    share = image.mode == "F" and 0 < high <= 1
    if low < 0 or high > 255 or share:
        raise ImageError(
            f"grey levels from {low:g} to {high:g}, which would be clipped to white or black: "
            "bring it to 8 bits (0 to 255)"
        )


def _channels(image: Image.Image) -> np.ndarray:
    """Return uint8 (3, H, W)."""
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
