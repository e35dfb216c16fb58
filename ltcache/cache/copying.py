"""A finished cache from one place to another, file by file, each compared with its SHA-256.

Nothing that is there is ever replaced: what has the right content is passed over, and anything else
is refused. The index goes last, so that a copy that was interrupted is no cache yet, and the same
copy goes on with it. Until then a local copy is an extraction that has not finished, which it also
could go on as: its plan comes first, and each shard's features before the record that commits them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ltcache.cache.index import index_path, parse_index, read_index
from ltcache.errors import CacheError, UsageError
from ltcache.manifest import keep_root, kept_root
from ltcache.records import (
    JsonRecord,
    ObjectStore,
    PlaceKind,
    address_of,
    committed,
    file_digest,
    one_line,
    require_replaceable,
)

_TOGETHER = 8  # transfers at once: an object store answers slowly, but many at a time
_INDEX = index_path(Path()).name
_COSTS = "cost.jsonl"


@dataclass(frozen=True)
class LocalFiles:
    """The files below a folder of this machine, as :class:`ObjectStore` has those of an address."""

    root: Path

    def __truediv__(self, name: str) -> str:
        """Return the path of a file, for messages."""
        return str(self.root / name)

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None where there is none."""
        path = self.root / name
        return path.read_bytes() if path.is_file() else None

    def digest(self, name: str) -> str | None:
        """Return the SHA-256 of a file; None where there is none."""
        path = self.root / name
        return file_digest(path) if path.is_file() else None

    def fetch(self, name: str, path: Path) -> bool:
        """Write a file to another path; returns False where there is none."""
        if there := (self.root / name).is_file():
            shutil.copyfile(self.root / name, path)
        return there

    @contextlib.contextmanager
    def receiving(self, name: str) -> Iterator[Path]:
        """Yield a temporary path to write to; on leaving, the file is there, whole."""
        with committed(self.root / name) as path:
            yield path


FilePlace = LocalFiles | ObjectStore


@one_line
@dataclass(frozen=True)
class CopyReport(JsonRecord):
    """What a copy did.

    Args:
        source, target: path or address of the caches.
        files, bytes: that the cache consists of, its index not counted.
        copied: files that this call has copied; the others were there.
    """

    source: str
    target: str
    files: int
    bytes: int
    copied: int


def copy_cache(
    source: str | Path,
    target: str | Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> CopyReport:
    """Copy a finished cache between folders of this machine and addresses, and verify its digests.

    A copy that was interrupted goes on where it stopped; what it finds is read, and kept where its
    SHA-256 is the right one. Where the images are (``root.json``) is copied between local folders
    alone, since it is another place elsewhere.

    Args:
        source: a folder, or an address such as ``s3://bucket/cache`` or ``https://host/cache``.
        target: a folder or an ``s3://`` address, with nothing in it or with such a copy.
        progress: called after every file with files done and files in all.

    Raises:
        CacheError: the source is no finished cache, or a file of it is missing or damaged.
        UsageError: something else is at the target, or it is an address that is only read.
    """
    origin, goal = file_place(source), file_place(target)
    data = index_at(origin)
    files = parse_index(data, origin / _INDEX)["files"]
    _require_room(goal, data)
    plans = sorted(name for name in files if name.startswith("plans/"))
    copied, done, size = 0, 0, 0
    with _pool() as pool:
        for names in (plans, sorted(set(files) - set(plans))):
            found = pool.map(lambda name: bring(origin, goal, name, files[name]["sha256"]), names)
            for name, new in zip(names, found, strict=True):
                copied, done, size = copied + new, done + 1, size + files[name]["bytes"]
                if progress is not None:
                    progress(done, len(files))
    _bring_beside(origin, goal)
    if goal.read(_INDEX) is None:
        with goal.receiving(_INDEX) as path:
            path.write_bytes(data)
    return CopyReport(str(source), str(target), len(files), size, copied)


def file_place(place: str | Path) -> FilePlace:
    """Return what reads and writes the files of a folder or an address."""
    address = address_of(place)
    return LocalFiles(Path(place)) if address is None else ObjectStore(address)


def bring(origin: FilePlace, goal: FilePlace, name: str, sha256: str) -> bool:
    """Copy one file of a cache unless it is there; returns whether it was copied.

    Raises:
        CacheError: it is missing or not what the index says. UsageError: another one is there.
    """
    if os.path.isabs(name) or ".." in Path(name).parts:
        raise CacheError(f"{origin / _INDEX}: names {name!r}, outside the cache: damaged")
    there = goal.digest(name)
    if there == sha256:
        return False
    if there is not None:
        raise UsageError(
            f"{goal / name}: another content is there already, as of another cache or of an "
            "extraction: remove what is there, or choose another place"
        )
    with goal.receiving(name) as path:
        if not origin.fetch(name, path):
            raise CacheError(f"{origin / name}: missing: the cache is damaged, see ltcache verify")
        if file_digest(path) != sha256:
            raise CacheError(
                f"{origin / name}: its content is not that which the index names by SHA-256: the "
                "cache is damaged, see ltcache verify"
            )
    return True


def index_at(origin: FilePlace) -> bytes:
    """Return the index of a finished cache, as it is written."""
    if isinstance(origin, LocalFiles):
        read_index(origin.root)  # says what is there instead
    data = origin.read(_INDEX)
    if data is None:
        raise CacheError(f"{origin / _INDEX}: there is none, so here is no finished cache")
    return data


def _require_room(goal: FilePlace, data: bytes) -> None:
    """Refuse a target that holds something else than a copy of the cache with this index."""
    if isinstance(goal, LocalFiles):
        require_replaceable(goal.root, PlaceKind.CACHE)
    else:
        goal.require_writable()
    there = goal.read(_INDEX)
    if there is not None and there != data:
        raise UsageError(
            f"{goal / _INDEX}: a finished cache is there, another one or an earlier state of this "
            "one, and is not replaced: choose another place, or remove it first"
        )


def _bring_beside(origin: FilePlace, goal: FilePlace) -> None:
    """Copy what no digest covers: the costs, and between local folders where the images are."""
    costs = origin.read(_COSTS)
    if costs is not None and goal.read(_COSTS) is None:
        with goal.receiving(_COSTS) as path:
            path.write_bytes(costs)
    if isinstance(origin, LocalFiles) and isinstance(goal, LocalFiles):
        keep_root(goal.root, kept_root(origin.root))


@contextlib.contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """Yield threads for transfers; those that have not begun are dropped on an error."""
    pool = ThreadPoolExecutor(_TOGETHER, "copy")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
