"""Run as a process: extracts to an address and stops in the middle of its second commit."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ltcache.extract import extract
from ltcache.records import ObjectStore
from tests.conftest import PATIENCE


def held_extraction(source: str, out: str, model: str, held: Path) -> None:
    """Extract; when the second shard's record is there and its features wait, write a file."""
    left = [2]

    def move(store: ObjectStore, name: str, to: str) -> None:
        left[0] -= 1
        if not left[0]:
            held.write_text(to)
            time.sleep(PATIENCE)
        whole(store, name, to)

    whole, ObjectStore.move = ObjectStore.move, move  # type: ignore[method-assign]
    extract(source, out, model=model, shard_size=4, part="1/2")


if __name__ == "__main__":
    held_extraction(*sys.argv[1:4], Path(sys.argv[4]))
