"""Reading a cache at an address: a folder of this machine mirrors it, file by file as it is asked.

HDF5, Parquet and memory maps want files, and every one of them is compared with its digest before
it is read, for which all of it has to come here anyway; so a file is fetched whole, once, and the
tokens that nobody asks for stay where they are. A mirror is named by the digest of the index: what
is fetched is never of another state of the cache than the one that was opened.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ltcache.cache.copying import LocalFiles, bring, index_at
from ltcache.cache.index import parse_index
from ltcache.cache.layout import index_path, origin_path
from ltcache.errors import CacheError
from ltcache.records import ObjectStore, address_of, bytes_digest, write_json, write_whole

MIRRORS = "LTCACHE_MIRRORS"
"""Environment variable: the folder of mirrors, by default ``ltcache`` among the user's caches."""


def local_folder(place: str | Path) -> Path:
    """Return the folder of a cache: a local one as it is, the mirror of one at an address.

    Raises:
        CacheError: there is no finished cache at the address.
    """
    address = address_of(place)
    if address is None:
        return Path(place)
    data = index_at(ObjectStore(address))
    name = address.rstrip("/").rpartition("/")[2]
    folder = _mirrors() / f"{name}-{bytes_digest(data)[:16]}"
    write_json(origin_path(folder), {"address": address})
    write_whole(index_path(folder), data)
    return folder


def place_of(cache: Path) -> str:
    """Return where a cache is: the address that its folder mirrors, or the folder's whole path."""
    try:
        return str(json.loads(origin_path(cache).read_text())["address"])
    except FileNotFoundError:
        return str(cache.resolve())


def fetch_again(cache: Path, name: str, sha256: str) -> bool:
    """Fetch a file of a mirror, in the place of a damaged one; returns whether it is a mirror.

    Raises:
        CacheError: it is missing or damaged at the address, too.
    """
    address = address_of(place_of(cache))
    if address is None:
        return False
    (cache / name).unlink(missing_ok=True)
    bring(ObjectStore(address), LocalFiles(cache), name, sha256)
    return True


@contextmanager
def fetched(address: str) -> Iterator[Path]:
    """Yield a temporary folder with all files of a cache as they are now, whole or damaged.

    Raises:
        CacheError: nothing is there, or the index is damaged.
    """
    origin = ObjectStore(address)
    index = origin.read(index_path(Path()).name)
    with tempfile.TemporaryDirectory(prefix="ltcache-") as temporary:
        if index is None:
            names = origin.names()
            if not names:
                raise CacheError(f"{address}: nothing is there")
        else:
            names = list(parse_index(index, origin / "cache.json")["files"])
            write_whole(index_path(Path(temporary)), index)
        for name in names:
            path = Path(temporary, name).resolve()
            if not path.is_relative_to(Path(temporary).resolve()):
                raise CacheError(f"{address}: names {name!r}, outside the cache: damaged")
            path.parent.mkdir(parents=True, exist_ok=True)
            origin.fetch(name, path)
        yield Path(temporary)


def _mirrors() -> Path:
    if named := os.environ.get(MIRRORS):
        return Path(named)
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches, "ltcache", "mirrors")
