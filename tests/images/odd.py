"""Images as the wild has them: name -> encoded bytes."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """Return an image file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def picture(width: int = 50, height: int = 40, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Return noise in some mode of Pillow."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def sixteen_bits() -> Image.Image:
    """Return grey in 16 bits, all of it below 256."""
    return Image.fromarray((np.arange(2000).reshape(40, 50) // 8).astype(np.uint16))


def _beyond_eight_bits() -> dict[str, tuple[bytes, str]]:
    levels = np.arange(2000).reshape(40, 50)
    grey = Image.fromarray((levels * 32).astype(np.uint16))
    shares = Image.fromarray((levels / 1999).astype(np.float32))
    signed = Image.fromarray((levels // 8 - 1).astype(np.int32))
    return {
        "sixteen-white.png": (encoded(grey), "from 0 to 63968, which would be clipped"),
        "sixteen-white.tif": (encoded(grey, "TIFF"), "from 0 to 63968, .* 8 bits"),
        "shares-black.tif": (encoded(shares, "TIFF"), "from 0 to 1, which would be clipped"),
        "signed.tif": (encoded(signed, "TIFF"), "from -1 to 248"),
    }


def _rotated() -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    return encoded(picture(), "JPEG", exif=exif)


def _animated(format: str) -> bytes:
    frames = [picture(seed=seed) for seed in range(1, 3)]
    return encoded(picture(), format, save_all=True, append_images=frames)


def bomb(width: int = 20_000, height: int = 20_000) -> bytes:
    """Return a PNG of a few bytes that claims to be large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def readable() -> dict[str, bytes]:
    """Return odd images that Pillow and open_clip can use."""
    palette = picture().quantize(16)
    return {
        "cmyk.jpg": encoded(picture(mode="CMYK"), "JPEG"),
        "ycbcr.tif": encoded(picture(mode="YCbCr"), "TIFF"),
        "lab.tif": encoded(picture(mode="LAB"), "TIFF"),
        "palette.png": encoded(palette),
        "palette-clear.png": encoded(palette, transparency=bytes([0, 128] + [255] * 14)),
        "palette-one-clear.gif": encoded(palette, "GIF", transparency=3),
        "rgb-clear.png": encoded(picture(), transparency=(1, 2, 3)),
        "bits.png": encoded(picture(mode="1")),
        "sixteen.png": encoded(sixteen_bits()),
        "sixteen.tif": encoded(sixteen_bits(), "TIFF"),
        "thirty-two.tif": encoded(sixteen_bits().convert("I"), "TIFF"),
        "float.tif": encoded(sixteen_bits().convert("I").convert("F"), "TIFF"),
        "grey-alpha.png": encoded(picture(mode="LA")),
        "rgba.webp": encoded(picture(mode="RGBA"), "WEBP"),
        "rotated.jpg": _rotated(),
        "animated.gif": _animated("GIF"),
        "animated.webp": _animated("WEBP"),
        "animated.png": _animated("PNG"),
        "pixel.png": encoded(picture(1, 1)),
        "wide.png": encoded(picture(2000, 1)),
        "tall.png": encoded(picture(1, 2000)),
        "upper.JPEG": encoded(picture(), "JPEG"),
        "png-named.jpg": encoded(picture()),
    }


def unreadable() -> dict[str, tuple[bytes, str]]:
    """Return files that are no usable images, and a pattern of what is said of them."""
    jpeg, png = encoded(picture(), "JPEG"), encoded(picture())
    return {
        "truncated.jpg": (jpeg[:-400], "truncated"),
        "truncated.png": (png[: len(png) // 2], "truncated"),
        "header-only.png": (png[:60], "Error|truncated"),
        "zero.jpg": (b"", r"0 bytes"),
        "text.jpg": (b"<html>404 not found</html>", "not an image"),
        "zeros.jpg": (bytes(5000), "not an image"),
        "bomb.png": (bomb(), "pixels"),
        "no-pixels.png": (bomb(0, 5), "Error|not an image"),
        **_beyond_eight_bits(),
        "not-an-svg.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    }
