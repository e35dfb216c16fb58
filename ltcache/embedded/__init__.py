"""What travels inside the package so that the first command works offline."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def encoder_path() -> Path:
    """Return the folder of the embedded encoder, which open_clip opens as ``local-dir:``."""
    return Path(str(files("ltcache.embedded"))) / "encoder"
