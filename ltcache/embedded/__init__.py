"""What travels inside the package so that the first command works offline."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def encoder_path() -> Path:
    """Return the folder of the default embedded encoder, which open_clip opens as ``local-dir:``.

    The convolutional tower is the default: it is the more accurate one of the two.
    """
    return Path(str(files("ltcache.embedded"))) / "encoder_conv"


def vit_encoder_path() -> Path:
    """Return the folder of the small ViT, for token maps and block adapters."""
    return Path(str(files("ltcache.embedded"))) / "encoder"
