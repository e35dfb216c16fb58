"""Is a finished cache what its index says? The report about all of it, or about its parts.

What is looked at: :mod:`ltcache.cache.checking`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ltcache.cache.checking import CheckedPart, check_part
from ltcache.cache.contents import (
    CacheContents,
    FeatureLengths,
    FoundProblems,
    length_statistics,
)
from ltcache.cache.index import read_index
from ltcache.cache.intact import damage_remedy
from ltcache.cache.norms import NormStats
from ltcache.process import ActorRequest, part_to_merge
from ltcache.records import (
    JsonObject,
    JsonRecord,
    PartialResult,
    digest,
    one_line,
    parts_folder,
    parts_on_ray,
    read_parts,
    read_record,
    require_equal,
    require_local,
)

COMMAND = "verify"
_ITEMS, _LENGTHS = "/items", "/lengths"


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
    return _report(path, index, [check_part(path, index, max_shards=max_shards)])


def verify_part(
    path: str | Path, part: str, out: str | Path, *, max_shards: int | None = None
) -> Path:
    """Check one part of the shards of a finished cache, for :func:`merge_verified`.

    Args:
        path, max_shards: as of :func:`verify_files`.
        part: ``I/N``, the I-th of N parts from 1, or ``auto`` where a launcher, a job array or an
            indexed Job numbers the processes.
        out: a folder, of this part alone or of all parts.

    Returns:
        The file, ``part-I-of-N.npz`` in ``out``.

    Raises:
        UsageError: no such part, or an address in place of a folder.
        CacheError: not a cache, not finished, or its index is damaged.
    """
    folder = parts_folder(out)
    return _verified_part(require_local(path), max_shards, part).save(folder)


def _verified_part(path: Path, max_shards: int | None, part: str) -> PartialResult:
    """Return what :func:`verify_part` writes."""
    number, count = part_to_merge(part)
    index = read_index(path, check_sizes=False)
    checked, lengths = check_part(path, index, number, count, max_shards)
    arrays = {}
    for name, both in lengths.items():
        arrays[name + _ITEMS], arrays[name + _LENGTHS] = both
    whole = {"index": digest(index), "max_shards": max_shards}
    return PartialResult(COMMAND, number + 1, count, whole, checked.to_dict(), arrays)


def verify_on_ray(
    path: str | Path,
    *,
    max_shards: int | None = None,
    request: ActorRequest | None = None,
) -> VerifyReport:
    """Check the files of a finished cache by actors of a Ray cluster: :func:`verify_files`.

    Args:
        path: the same on all machines.
        request: how many actors, and what they import.

    Raises:
        UsageError, IdentityError, CacheError: as of :func:`verify_part`, :func:`merge_verified`
            and :func:`ltcache.records.parts_on_ray`.
    """
    path = require_local(path)
    check = partial(_verified_part, path.resolve(), max_shards)
    report = _merged(parts_on_ray(check, str(path), request or ActorRequest()))
    return replace(report, path=path)


def merge_verified(parts: Sequence[str | Path]) -> VerifyReport:
    """Merge the parts of a verification into its report, which equals that of the whole.

    Args:
        parts: all that :func:`verify_part` wrote, files or folders that hold them.

    Raises:
        UsageError: a part is missing or there twice.
        IdentityError: parts of different caches or of another number of shards, or a cache that
            has changed since (status 4).
        CacheError: a part is damaged, or the cache is not where the first part had it.
    """
    return _merged(read_parts(parts, COMMAND))


def _merged(read: Sequence[PartialResult]) -> VerifyReport:
    """Return the report of all parts, in their order."""
    checked = [read_record(CheckedPart, part.found, name="the record of a part") for part in read]
    path = checked[0].path
    index = read_index(path, check_sizes=False)
    require_equal(
        "cache",
        read[0].whole["index"],
        digest(index),
        remedy=f"{path} has changed since the parts were made: make them again",
    )
    lengths = [_lengths_in(part.arrays) for part in read]
    return _report(path, index, list(zip(checked, lengths, strict=True)))


def _report(
    path: Path, index: Mapping[str, Any], parts: Sequence[tuple[CheckedPart, FeatureLengths]]
) -> VerifyReport:
    """Return what all parts of a cache found."""
    checked = [part for part, _ in parts]
    problems = _joined_problems(checked)
    contents = [] if problems else [part.contents for part in checked if part.contents]
    unread = [found for found in contents if found.rows is None]
    problems += _joined_problems(unread[:1] or contents)
    first = (unread or contents or [CacheContents()])[0]
    known = _joined_lengths([own for _, own in parts]) if contents and not unread else {}
    norms, warnings = length_statistics(path, index, known)
    return VerifyReport(
        path=path,
        files=sum(part.files for part in checked),
        bytes=sum(part.bytes for part in checked),
        shards=sum(part.shards for part in checked),
        all_shards=sum(len(view["shards"]) for view in index["views"].values()),
        rows=first.rows,
        failed=first.failed,
        problems=tuple(
            CacheDamage(file, text, damage_remedy(file, len(index["plans"])))
            for file, text in problems
        ),
        warnings=tuple(warnings),
        leftovers=checked[0].leftovers,
        norms=norms,
    )


def _joined_problems(parts: Sequence[CheckedPart | CacheContents]) -> FoundProblems:
    """Return what parts found in what they have in common, then in the shards of each."""
    common = dict.fromkeys((file, text) for part in parts for file, text in part.problems)
    result = [*common]
    for kind in dict.fromkeys(kind for part in parts for kind in part.of_shards):
        for part in parts:
            result += part.of_shards.get(kind, ())
    return result


def _lengths_in(arrays: Mapping[str, np.ndarray]) -> FeatureLengths:
    names = [name.removesuffix(_ITEMS) for name in arrays if name.endswith(_ITEMS)]
    return {name: (arrays[name + _ITEMS], arrays[name + _LENGTHS]) for name in names}


def _joined_lengths(parts: Sequence[FeatureLengths]) -> FeatureLengths:
    return {
        name: (
            np.concatenate([part[name][0] for part in parts]),
            np.concatenate([part[name][1] for part in parts]),
        )
        for name in parts[0]
    }
