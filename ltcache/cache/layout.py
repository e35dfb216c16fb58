"""Where the files of a cache lie, and how a file appears there: whole, or not at all.

    CACHE/
      cache.json                 the index; absent = not finished
      plans/0001.json            what one extraction set out to do
      plans/layer-<layer>.json   a view or a field that was added, see ltcache.cache.layers
      views/<layer>/00000.h5     features of an item range; 00000.json is its commit record
      prompts/<id>.h5            class texts
      encoder.json encoder.safetensors classes.json manifest-<sha8>.parquet
      rest.safetensors           of a cache with tokens: the image tower behind them

A file is written under a unique temporary name in its own directory, flushed to disk, renamed, and
the directory is flushed. A process that is killed leaves at most a temporary file, which nobody
reads and the next writer on the same host removes.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

CENTER = "center"
"""The view that every cache has: the encoder's own preprocessing."""

_TEMPORARY = re.compile(r"^\.(?P<name>.+)\.tmp-(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{8}$")


def index_path(cache: Path) -> Path:
    """Return the path of the index, the only file that is ever replaced."""
    return cache / "cache.json"


def plan_path(cache: Path, number: int) -> Path:
    """Return the path of the ``number``-th plan, counted from 1."""
    return cache / "plans" / f"{number:04d}.json"


def layer_path(cache: Path, layer: str) -> Path:
    """Return the path of what a layer that was added is to hold."""
    return cache / "plans" / f"layer-{layer}.json"


def shard_path(cache: Path, layer: str, shard: int) -> Path:
    """Return the path of a shard's features in a layer (by the name of its folder)."""
    return cache / "views" / layer / f"{shard:05d}.h5"


def record_path(cache: Path, layer: str, shard: int) -> Path:
    """Return the path of a shard's commit record; without it the shard does not exist."""
    return cache / "views" / layer / f"{shard:05d}.json"


def prompts_path(cache: Path, identity_digest: str) -> Path:
    """Return the path of a set of class texts, named by what made it."""
    return cache / "prompts" / f"{identity_digest[:16]}.h5"


@contextlib.contextmanager
def committed(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on leaving, flush it and rename it to ``path``.

    An exception inside removes the temporary file and leaves ``path`` as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error  # name the file
        raise
    _flush(path.parent)


def write_whole(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds all of it or is as it was before."""
    with committed(path) as temporary:
        temporary.write_bytes(data)


def write_directory(out: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a directory beside ``out``, then put it in the place of ``out``."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.{uuid4().hex}"
    try:
        partial.mkdir()
        write(partial)
        if out.exists():
            old = out.parent / f".{out.name}.{uuid4().hex}"
            os.rename(out, old)
            os.rename(partial, out)
            shutil.rmtree(old)
        else:
            os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def create_whole(path: Path, data: bytes) -> bool:
    """Write ``data`` unless ``path`` exists, in one step even against other processes.

    Returns:
        Whether this call created the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        temporary.write_bytes(data)
        _flush(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            return _create_exclusively(path, data)
    finally:
        temporary.unlink(missing_ok=True)
    _flush(path.parent)
    return True


def remove_leftovers(cache: Path) -> None:
    """Remove temporary files of processes of this host that are no longer alive."""
    for directory in [cache, *(path for path in cache.glob("**/") if path != cache)]:
        for path in directory.glob(".*.tmp-*"):
            match = _TEMPORARY.match(path.name)
            if match and match["host"] == _host() and not _alive(int(match["pid"])):
                path.unlink(missing_ok=True)


def _create_exclusively(path: Path, data: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return True


def _temporary(path: Path) -> Path:
    unique = f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.name}.tmp-{unique}")


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname()) or "localhost"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _flush(path: Path) -> None:
    """Flush a file or a directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
