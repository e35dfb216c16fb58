"""For ``ltcache --import``: every list is long, and who maps one says so in a file beside them."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import ltcache.extract
from ltcache.manifest import Manifest

here = sys.modules["ltcache.extract.read_once"]
mapped = here._mapped


def noted(file: Path) -> Manifest | None:
    """Map a list file and note it."""
    found = mapped(file)
    if found is not None:
        with open(Path(tempfile.gettempdir(), "mapped"), "a") as log:
            log.write(f"{os.getpid()}\n")
    return found


here._LONG, here._mapped = 0, noted
assert ltcache.extract.read_once
