"""Is a finished cache what its index says, byte by byte and value by value?

First every file that the index names is compared with its size and SHA-256; the index itself states
the digest of its own content. Only where all files are whole are their contents compared with each
other (:mod:`ltcache.cache.contents`): counts, statuses, NaN, norms, class texts.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ltcache.cache.contents import CacheContents, check_contents
from ltcache.cache.index import named_in, read_index
from ltcache.cache.intact import damage_remedy, difference
from ltcache.cache.layers import layers_of
from ltcache.cache.layout import index_path, record_path, shard_path
from ltcache.cache.norms import NormStats
from ltcache.manifest import ROOT_FILE
from ltcache.records import JsonObject, JsonRecord, one_line, require_local

UNCHECKED = ("cost.jsonl", ROOT_FILE)
"""Files that nothing depends on: never part of the index."""

_HERE = Path()
_INDEX = index_path(_HERE).name


@dataclass(frozen=True)
class CacheDamage:
    """One damage.

    Args:
        file: relative to the cache.
        text: what is wrong with it.
        remedy: what the user can do.
    """

    file: str
    text: str
    remedy: str

    def __str__(self) -> str:
        """The problem as one line."""
        return f"{self.file}: {self.text}. Remedy: {self.remedy}"


@one_line
@dataclass(frozen=True)
class VerifyReport(JsonRecord):
    """What a verification looked at and found.

    Args:
        path: of the cache, or its address.
        files, bytes: whose digests were compared.
        shards, all_shards: shards that were read, and shards there are.
        rows, failed: rows of the manifest, and those whose image could not be used; None where
            damaged files kept the contents from being looked at.
        problems: damages; empty where the cache is fine.
        warnings: what is odd but no damage.
        leftovers: files that the index does not name; harmless.
        norms: ``view/field`` -> statistics of the features' lengths.
        reencoded: what encoding a sample again gave, or None where none was asked for.
        finished: whether the cache is; if not, only what is committed of it was checked.
        items, all_items: images in committed shards and in all, of a cache that is not finished.
        repaired: shards that were removed, for extraction to encode again.
    """

    path: Path | str
    files: int
    bytes: int
    shards: int
    all_shards: int
    rows: int | None = None
    failed: int | None = None
    problems: tuple[CacheDamage, ...] = ()
    warnings: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
    norms: Mapping[str, NormStats] = field(default_factory=dict)
    reencoded: Mapping[str, Any] | None = None
    finished: bool = True
    items: int | None = None
    all_items: int | None = None
    repaired: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing was found to be damaged."""
        return not self.problems

    @property
    def exit_status(self) -> int:
        """0 where the cache is finished and fine, or all that was damaged has been removed for
        extraction to make again; 1 where it is damaged or not finished."""
        return 0 if not self.left and self.finished else 1

    @property
    def left(self) -> tuple[CacheDamage, ...]:
        """The damages that a repair has not removed."""
        removed = set(self.repaired)
        return tuple(p for p in self.problems if p.file.rpartition(".")[0] not in removed)

    def to_dict(self) -> JsonObject:
        """Return the report as a value for JSON."""
        return {**super().to_dict(), "ok": self.ok, "left": len(self.left)}


def verify_files(path: str | Path, *, max_shards: int | None = None) -> VerifyReport:
    """Check the files of a finished cache and what is in them; no image and no encoder is needed.

    Args:
        path: the cache's directory.
        max_shards: read at most so many shards of each view, spread evenly; all by default. Every
            shard's size is compared, and every other file is read, in any case.

    Raises:
        CacheError: not a cache, not finished, or its index is damaged.
    """
    path = require_local(path)
    index = read_index(path, check_sizes=False)
    chosen = choose_shards(index["views"], max_shards)
    unread = set()
    if max_shards is not None:
        unread = _shard_files(index) - _shard_files(index, chosen)
    problems = [*_damaged(path, index["files"], unread), *_unnamed(index)]
    contents = CacheContents() if problems else check_contents(path, index, chosen)
    return VerifyReport(
        path=path,
        files=len(index["files"]) - len(unread),
        bytes=sum(e["bytes"] for name, e in index["files"].items() if name not in unread),
        shards=sum(len(shards) for shards in chosen.values()),
        all_shards=sum(len(view["shards"]) for view in index["views"].values()),
        rows=contents.rows,
        failed=contents.failed,
        problems=tuple(
            CacheDamage(file, text, damage_remedy(file, len(index["plans"])))
            for file, text in problems + contents.problems
        ),
        warnings=tuple(contents.warnings),
        leftovers=tuple(_leftovers(path, index["files"])),
        norms=contents.norms,
    )


def choose_shards(views: Mapping[str, Any], max_shards: int | None = None) -> dict[str, list[int]]:
    """Return view -> shards to read, the first and the last among them."""
    chosen = {}
    for view, entry in views.items():
        numbers = [number for number, _, _ in entry["shards"]]
        wanted = len(numbers) if max_shards is None else min(max_shards, len(numbers))
        spread = np.linspace(0, len(numbers) - 1, wanted).round().astype(int)
        chosen[view] = [numbers[position] for position in np.unique(spread)]
    return chosen


def _shard_files(
    index: Mapping[str, Any], chosen: Mapping[str, Collection[int]] | None = None
) -> set[str]:
    """Return the names of all layers' shards and records, of all or of the chosen ones."""
    names = set()
    for layer in layers_of(index):
        every = [number for number, _, _ in index["views"][layer.name]["shards"]]
        for number in every if chosen is None else chosen[layer.name]:
            for path in (shard_path, record_path):
                names.add(path(_HERE, layer.folder, number).as_posix())
    return names


def _damaged(
    path: Path, files: Mapping[str, Any], unread: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Yield every named file that is missing, of another size or of another content."""
    for name, entry in files.items():
        if not _inside(name):
            yield _INDEX, f"names {name!r}, outside the cache"
            continue
        if text := difference(path / name, entry, read=name not in unread, again=True):
            yield name, text


def _inside(name: str) -> bool:
    return not os.path.isabs(name) and ".." not in name.split("/")


def _unnamed(index: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield files that the index needs but does not name."""
    beside = ("encoder.json", "encoder.safetensors", "classes.json")
    needed = {index["manifest"], *(named_in(index["files"], name) or name for name in beside)}
    needed |= {name for pair in index["prompts"].values() for name in pair}
    needed |= _shard_files(index)
    for name in sorted(needed - set(index["files"])):
        yield _INDEX, f"does not name {name}, which it needs"


def _leftovers(path: Path, files: Mapping[str, Any]) -> list[str]:
    known = {*files, _INDEX, *UNCHECKED}
    found = []
    for folder, _, names in os.walk(path):
        beginning = os.path.relpath(folder, path).replace(os.sep, "/") + "/"
        found += [beginning.removeprefix("./") + name for name in names]
    return sorted(set(found) - known)
