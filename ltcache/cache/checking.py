"""Is a part of a finished cache what its index says, byte by byte and value by value?

First every file that the index names is compared with its size and SHA-256; the index itself states
the digest of its own content. Only where all files are whole are their contents compared with each
other (:mod:`ltcache.cache.contents`): counts, statuses, NaN, norms, class texts.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ltcache.cache.contents import CacheContents, FeatureLengths, FoundProblems, check_contents
from ltcache.cache.index import named_in
from ltcache.cache.intact import difference
from ltcache.cache.layers import layers_of
from ltcache.cache.layout import index_path, record_path, shard_path
from ltcache.cache.row_files import row_files
from ltcache.manifest import ROOT_FILE
from ltcache.records import JsonRecord, one_line

UNCHECKED = ("cost.jsonl", ROOT_FILE)
"""Files that nothing depends on: never part of the index."""

FilesOfLayers = dict[str, list[str]]

_HERE = Path()
_INDEX = index_path(_HERE).name


@one_line
@dataclass(frozen=True)
class CheckedPart(JsonRecord):
    """What checking some shards of a cache, and all that is not a shard, gave.

    Args:
        path: of the cache.
        files, bytes: whose digests were compared; what is not a shard counts in the first part.
        shards: that were read.
        problems: of files that are no shards. of_shards: layer -> problems of files of its shards.
        contents: None where a file is damaged. leftovers: files that the index does not name.
    """

    path: Path
    files: int
    bytes: int
    shards: int
    problems: FoundProblems
    of_shards: dict[str, FoundProblems]
    contents: CacheContents | None
    leftovers: tuple[str, ...]


def check_part(
    path: Path,
    index: Mapping[str, Any],
    number: int = 0,
    count: int = 1,
    max_shards: int | None = None,
) -> tuple[CheckedPart, FeatureLengths]:
    """Check one of so many parts of a cache, counted from 0: a range of the shards of each view."""
    files, views = index["files"], index["views"]
    every = choose_shards(views)
    chosen = {view: {*numbers} for view, numbers in choose_shards(views, max_shards).items()}
    mine = {view: _share(numbers, number, count) for view, numbers in every.items()}
    read = {view: [n for n in numbers if n in chosen[view]] for view, numbers in mine.items()}
    own = _shard_files(index, mine)
    unread = {*_names(own)} - {*_names(_shard_files(index, read))}
    common = [*files.keys() - {*_names(_shard_files(index, every))}]
    problems = [*_damaged(path, files, sorted(common)), *_unnamed(index)]
    of_shards = {layer: list(_damaged(path, files, names, unread)) for layer, names in own.items()}
    contents, lengths = None, FeatureLengths()
    if not problems and not any(of_shards.values()):
        contents, lengths = check_contents(path, index, read)
    compared = [*(common if number == 0 else ()), *({*_names(own)} & files.keys() - unread)]
    checked = CheckedPart(
        path.resolve(),
        len(compared),
        sum(files[name]["bytes"] for name in compared),
        sum(map(len, read.values())),
        problems,
        of_shards,
        contents,
        tuple(_leftovers(path, files)),
    )
    return checked, lengths


def _share(numbers: list[int], number: int, count: int) -> list[int]:
    return numbers[len(numbers) * number // count : len(numbers) * (number + 1) // count]


def _names(files: FilesOfLayers) -> Iterator[str]:
    return chain.from_iterable(files.values())


def choose_shards(views: Mapping[str, Any], max_shards: int | None = None) -> dict[str, list[int]]:
    """Return view -> shards to read, the first and the last among them."""
    chosen = {}
    for view, entry in views.items():
        numbers = [number for number, _, _ in entry["shards"]]
        wanted = len(numbers) if max_shards is None else min(max_shards, len(numbers))
        spread = np.linspace(0, len(numbers) - 1, wanted).round().astype(int)
        chosen[view] = [numbers[position] for position in np.unique(spread)]
    return chosen


def _shard_files(index: Mapping[str, Any], chosen: Mapping[str, Collection[int]]) -> FilesOfLayers:
    """Return layer -> names of its shards and their records, of the chosen ones."""
    return {
        layer.folder: [
            path(_HERE, layer.folder, number).as_posix()
            for number in chosen[layer.name]
            for path in (shard_path, record_path)
        ]
        for layer in layers_of(index)
    }


def _damaged(
    path: Path, files: Mapping[str, Any], names: Iterable[str], unread: Collection[str] = ()
) -> Iterator[tuple[str, str]]:
    """Yield every named file that is missing, of another size or of another content."""
    for name in names:
        if name not in files:
            continue  # the index does not name it, which is said of the index
        if not _inside(name):
            yield _INDEX, f"names {name!r}, outside the cache"
            continue
        if text := difference(path / name, files[name], read=name not in unread, again=True):
            yield name, text


def _inside(name: str) -> bool:
    return not os.path.isabs(name) and ".." not in name.split("/")


def _unnamed(index: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield files that the index needs but does not name."""
    beside = ("encoder.json", "encoder.safetensors", "classes.json")
    needed = {*row_files(index), *(named_in(index["files"], name) or name for name in beside)}
    needed |= {name for pair in index["prompts"].values() for name in pair}
    needed |= {*chain.from_iterable(_shard_files(index, choose_shards(index["views"])).values())}
    for name in sorted(needed - set(index["files"])):
        yield _INDEX, f"does not name {name}, which it needs"


def _leftovers(path: Path, files: Mapping[str, Any]) -> list[str]:
    known = {*files, _INDEX, *UNCHECKED}
    found = []
    for folder, _, names in os.walk(path):
        beginning = os.path.relpath(folder, path).replace(os.sep, "/") + "/"
        found += [beginning.removeprefix("./") + name for name in names]
    return sorted(set(found) - known)
