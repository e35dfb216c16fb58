"""A folder of this machine for what its processes share while they run, and nobody else writes."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def private_folder() -> Path | None:
    """Return ``ltcache-<user>`` in the temporary folder; None where others could write to it."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir(), f"ltcache-{user}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    mine = stat.S_ISDIR(status.st_mode) and status.st_uid == user
    return folder if mine and not status.st_mode & 0o022 else None
