"""Is a file still what the index of its cache says? Asked when the file is first read.

Every file that a reader opens is compared with its SHA-256 once in a process, and again when its
size, time or inode has changed: a flipped byte would else end in features, labels or class texts
that nobody can tell from good ones. Hashing took 1.5 seconds a gigabyte on one busy core, so that a
cache of a million images (1 GB a field) pays about that, once. What is known is kept in memory
alone: a ledger on disk would have to be trusted, and a disk that loses bits does not touch a
file's time.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltcache.cache.mirror import fetch_again
from ltcache.errors import CacheError
from ltcache.records import file_digest

_KNOWN: dict[str, tuple[str, int, int, int]] = {}
"""Path -> digest, size, time and inode of a file as it was when its content was read."""


def require_intact(cache: Path, name: str, index: Mapping[str, Any]) -> Path:
    """Return the path of a file that the index names, after comparing its content.

    Args:
        name: relative to the cache.

    Raises:
        CacheError: the file is missing, damaged, or not named by the index; says what to do.
    """
    entry = index["files"].get(name)
    text = "the index does not name it" if entry is None else difference(cache / name, entry)
    if text and entry and fetch_again(cache, name, entry["sha256"]):
        text = difference(cache / name, entry)
    if text:
        advice = damage_remedy(name, len(index["plans"]))
        raise CacheError(f"{cache / name}: {text}: the cache is damaged. Remedy: {advice}")
    return cache / name


def difference(
    path: Path, entry: Mapping[str, Any], *, read: bool = True, again: bool = False
) -> str:
    """Return in which way a file is not the one of an index' entry, or "".

    Args:
        read: compare the content, not only the size.
        again: even where this process has done so before.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if not stat.S_ISREG(status.st_mode):
        return "not a file"
    if status.st_size != entry["bytes"]:
        return f"{status.st_size} bytes, the index says {entry['bytes']}"
    if not read:
        return ""
    state = (entry["sha256"], status.st_size, status.st_mtime_ns, status.st_ino)
    if again or _KNOWN.get(os.path.abspath(path)) != state:
        try:
            found = file_digest(path)
        except OSError as error:
            return f"cannot be read ({error.strerror or error})"
        if found != entry["sha256"]:
            return "its content is not that which the index names by SHA-256"
        _KNOWN[os.path.abspath(path)] = state
    return ""


def damage_remedy(name: str, plans: int = 1) -> str:
    """Return what to do about a damaged file of a finished cache that so many plans made."""
    stem = name.rpartition(".")[0]
    if name.startswith("views/"):
        return (
            "ltcache verify --repair removes this shard, and the same ltcache extract (or import) "
            "then makes exactly this one again"
        )
    if plans > 1 or name.startswith("plans/"):
        return (
            "restore it from a copy; without one, extract into another --out, since only the plan "
            "of a cache that never grew can be carried out again"
        )
    again = "cache.json, and run the same ltcache extract or import again"
    if name.startswith("prompts/"):
        what = f"remove {stem}.h5, {stem}.json and {again}: no image is encoded"
    else:
        what = f"remove {again}: it is written anew and no image is encoded"
    return (
        f"{what}. Class texts that were added later are added again with ltcache prompts. A cache "
        "whose list has changed since refuses this: restore the file from a copy, or extract into "
        "another --out"
    )
