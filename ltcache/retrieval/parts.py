"""A retrieval in parts: each process ranks its part of the pool, and one judges what all found.

A candidate's scores are the same to the bit whatever is scored with it
(:func:`ltcache.retrieval.scoring.pool_scores.exact_scores`), and the best of a class in the whole
pool are among the best of its parts. So the merged result is that of one pass, ties included.
What guards need of the whole pool is looked at after the merge.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ltcache.cache import Cache, place_of
from ltcache.errors import CacheError
from ltcache.process import part_to_merge
from ltcache.records import (
    JsonObject,
    JsonRecord,
    PartialResult,
    PlaceKind,
    parts_folder,
    plain_json,
    read_parts,
    read_record,
    require_equal,
    require_replaceable,
)
from ltcache.retrieval.result import RetrievalResult
from ltcache.retrieval.scoring.pool_scores import RankedPairs, ranked
from ltcache.retrieval.scoring.ranking import (
    ExactPass,
    best_candidates,
    candidates_of_each,
    within_quota,
)
from ltcache.retrieval.settings import RetrievalSettings
from ltcache.retrieval.tail import judged_result, write_result
from ltcache.retrieval.tail_search import PoolPlace, TailSearch, open_search

COMMAND = "retrieve-tail"


@dataclass(frozen=True)
class RankedPart(JsonRecord):
    """What a part says of itself beside its candidates.

    Args:
        cache, pools: where they were. allow_stale: what was let pass. seconds: that it took.
    """

    cache: str
    pools: tuple[str, ...]
    allow_stale: tuple[str, ...]
    seconds: float


def retrieve_part(
    cache: Cache | str | Path,
    pool: PoolPlace | Sequence[PoolPlace],
    part: str,
    out: str | Path,
    settings: RetrievalSettings | None = None,
    *,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    allow_stale: Collection[str] = (),
) -> Path:
    """Rank one part of a pool for the rare classes of a cache, for :func:`merge_retrieval`.

    Args:
        cache, pool, settings, allow_stale: as of :func:`ltcache.retrieval.retrieve_tail`.
        part: ``I/N``, the I-th of N parts from 1, or ``auto`` where a launcher, a job array or an
            indexed Job numbers the processes. A part is a range of rows, of whole shards.
        out: a folder, of this part alone or of all parts.
        device: of the products, ``cpu`` or a GPU as torch names it.
        progress: called with rows done and rows of the part.

    Returns:
        The file, ``part-I-of-N.npz`` in ``out``.

    Raises:
        UsageError: no such part, or settings that cannot be meant.
        IdentityError, CacheError: as :func:`ltcache.retrieval.retrieve_tail`.

    Example:
        >>> three = RetrievalSettings(per_class=3)
        >>> parts = [retrieve_part("cache", "pool", f"{n}/2", "parts", three) for n in (1, 2)]
        >>> [(found.name, found.quota) for found in merge_retrieval(parts).record.classes]
        [('cat', 3), ('newt', 3)]
    """
    folder = parts_folder(out)
    return ranked_part(
        cache, pool, part, settings, device=device, progress=progress, allow_stale=allow_stale
    ).save(folder)


def ranked_part(
    cache: Cache | str | Path,
    pool: PoolPlace | Sequence[PoolPlace],
    part: str,
    settings: RetrievalSettings | None = None,
    *,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    allow_stale: Collection[str] = (),
) -> PartialResult:
    """Return what :func:`retrieve_part` writes."""
    started = time.perf_counter()
    number, count = part_to_merge(part)
    search = open_search(cache, pool, settings, allow_stale)
    mine = search.pool.part(number, count)
    ranking = ExactPass(device, progress=progress)
    asked = search.settings.candidates
    pairs = best_candidates(ranking, mine, search.queries, search.wanted, asked)
    found = RankedPart(
        place_of(search.cache.path),
        tuple(place_of(one.cache.path) for one in search.pool.pools),
        tuple(allow_stale),
        round(time.perf_counter() - started, 3),
    )
    whole = _determined_by(search)
    return PartialResult(COMMAND, number + 1, count, whole, found.to_dict(), vars(pairs))


def merge_retrieval(
    parts: Sequence[str | Path], out: str | Path | None = None, *, overwrite: bool = False
) -> RetrievalResult:
    """Merge the parts of a retrieval into its result, which equals that of one pass to the bit.

    Args:
        parts: all that :func:`retrieve_part` wrote, files or folders that hold them. The cache and
            the pools are opened where the first part had them.
        out: directory of the result; None: it is not written.
        overwrite: replace a result of other settings.

    Raises:
        UsageError: a part is missing or there twice, or ``out`` is taken.
        IdentityError: parts of different caches, pools or settings, or a cache that has changed
            since (status 4).
        CacheError: a part is damaged, or a cache is not where the first part had it.
    """
    if out is not None:
        require_replaceable(out, PlaceKind.RETRIEVED)
    return merged(read_parts(parts, COMMAND), out, overwrite)


def merged(
    read: Sequence[PartialResult], out: str | Path | None, overwrite: bool
) -> RetrievalResult:
    """Return the result of all parts, in their order, as :func:`merge_retrieval` does."""
    started = time.perf_counter()
    found = [read_record(RankedPart, part.found, name="the record of a part") for part in read]
    search = _search_again(found[0], read[0].whole)
    result = judged_result(search, _joined_candidates(read, search), ExactPass())
    seconds = sum(part.seconds for part in found) + time.perf_counter() - started
    result.record = replace(result.record, seconds=round(seconds, 3))
    if out is not None:
        write_result(result, search.pool, out, overwrite)
    return result


def _determined_by(search: TailSearch) -> JsonObject:
    """Return what determines the retrieval, the same in all its parts; groups of the cache, which
    its identities leave out, say which classes are wanted."""
    return {
        "settings": plain_json(asdict(search.settings)),
        "wanted": {str(label): quota for label, quota in search.wanted.items()},
        **search.identities,
        "stale": list(search.stale),
    }


def _search_again(part: RankedPart, whole: Mapping[str, Any]) -> TailSearch:
    """Open what a part was made of.

    Raises:
        CacheError: it is not there. IdentityError: it is not what it was.
    """
    settings = read_record(RetrievalSettings, whole["settings"], name="the settings of a part")
    try:
        search = open_search(part.cache, part.pools, settings, part.allow_stale)
    except CacheError as error:
        raise CacheError(
            f"{error}; the parts were made of {', '.join([part.cache, *part.pools])}: merge them "
            "where these can be reached under the same paths"
        ) from None
    require_equal(
        "retrieval",
        whole,
        _determined_by(search),
        remedy="the cache or a pool has changed since the parts were made: make them again",
    )
    return search


def _joined_candidates(parts: Sequence[PartialResult], search: TailSearch) -> RankedPairs:
    """Return the best candidates of each class among those of all parts."""
    joined = RankedPairs(
        **{
            name: np.concatenate([part.arrays[name] for part in parts])
            for name in RankedPairs.__dataclass_fields__
        }
    )
    labels = np.array(list(search.wanted), np.int64)
    each = candidates_of_each(search.wanted, search.settings.candidates)
    where = np.searchsorted(labels, joined.labels)
    most = max(each.values(), default=1)
    best = ranked(
        joined.rows, where, joined.log_odds, joined.margin, joined.runner_up, labels, most
    )
    return within_quota(best, each)
