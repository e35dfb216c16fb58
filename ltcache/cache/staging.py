"""Making a cache at an address: the store is where the processes meet, not a disk.

Each process works in a temporary folder of its own that stands for the address. What processes
must agree on, the plan, the layers, the record of a shard and the index, is created at the address,
where the first one wins; features go there at once and are not kept here. The order is that of a
folder: features wait under a name that says their content, their record is created, and they take
their place. A process that is killed on the way leaves what any other one completes or passes over.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ltcache.cache.layout import index_path, origin_path, plan_path
from ltcache.records import ObjectStore, create_whole, write_json, write_whole

_STAGED = "staged"


@contextmanager
def staging_folder(address: str) -> Iterator[Path]:
    """Yield a temporary folder that stands for a cache that is made at an address.

    Raises:
        UsageError: what is created there could be replaced by another process.
    """
    store = ObjectStore(address)
    store.require_writable()
    with tempfile.TemporaryDirectory(prefix="ltcache-") as temporary:
        folder = Path(temporary)
        write_json(origin_path(folder), {"address": address, _STAGED: True})
        (folder / "plans").mkdir()
        for path in (plan_path(folder, 1), index_path(folder)):
            if (data := store.read(path.relative_to(folder).as_posix())) is not None:
                write_whole(path, data)
        yield folder


def staged_at(cache: Path) -> ObjectStore | None:
    """Return the store in which a folder's cache is made; None of any other folder."""
    try:
        origin = json.loads(origin_path(cache).read_text())
    except FileNotFoundError:
        return None
    return ObjectStore(origin["address"]) if origin.get(_STAGED) else None


def create_file(cache: Path, path: Path, data: bytes) -> bool:
    """Create a file of a cache unless there is one: where all processes see it.

    Returns:
        Whether this call created it; else ``path`` holds what another one has created.
    """
    store = staged_at(cache)
    if store is None:
        return create_whole(path, data)
    name = path.relative_to(cache).as_posix()
    created = store.create(name, data)
    there = data if created else store.read(name)
    if there is not None:
        write_whole(path, there)
    return created


def send_files(cache: Path, entries: Mapping[str, Any]) -> None:
    """Write what an index names beside the shards to the address where the cache is made."""
    store = staged_at(cache)
    if store is None or store.size(index_path(Path()).name) is not None:
        return
    for name, entry in entries.items():
        if not store.create(name, cache / name) and store.digest(name) != entry["sha256"]:
            store.write(name, cache / name)  # of a process that was killed: no index names it
