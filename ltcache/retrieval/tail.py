"""From a labelled cache and a pool to images for the rare classes.

TACKLE (as its poster has it; no paper or code was found) builds training images for tail classes
from web images by ``p_k = softmax_k(f_P(k) . f_I / tau)``. What it leaves open is chosen here and
written down with the result: which classes, how many images, which p_k is enough, and what must be
kept out.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ltcache.cache import Cache
from ltcache.manifest import keep_root, kept_root
from ltcache.metrics import GroupScheme
from ltcache.records import PlaceKind, require_replaceable
from ltcache.retrieval.candidate_table import candidate_table
from ltcache.retrieval.guards.evidence import gather
from ltcache.retrieval.guards.lookalikes import judge_pool
from ltcache.retrieval.guards.neighbours import calibrate_near
from ltcache.retrieval.guards.verdicts import GuardLimits, check_guards
from ltcache.retrieval.record import RetrievalRecord, RetrievalThresholds, RetrievedClass
from ltcache.retrieval.result import RetrievalResult, pool_folders, tallied
from ltcache.retrieval.review.decisions import ReviewDecisions, apply_decisions
from ltcache.retrieval.scoring.index import PoolIndex
from ltcache.retrieval.scoring.pool import JoinedPool
from ltcache.retrieval.scoring.pool_scores import RankedPairs
from ltcache.retrieval.scoring.ranking import ExactPass, IndexRequest, best_candidates
from ltcache.retrieval.scoring.threshold import least_probability
from ltcache.retrieval.selection import train_counts
from ltcache.retrieval.settings import RetrievalSettings
from ltcache.retrieval.tail_search import PoolPlace, TailSearch, open_search


def retrieve_tail(
    cache: Cache | str | Path,
    pool: PoolPlace | Sequence[PoolPlace],
    out: str | Path | None = None,
    settings: RetrievalSettings | None = None,
    *,
    ranking: ExactPass | IndexRequest | PoolIndex | None = None,
    allow_stale: Collection[str] = (),
    overwrite: bool = False,
    decisions: ReviewDecisions | None = None,
) -> RetrievalResult:
    """Choose images of an unlabelled pool for the rare classes of a cache.

    Args:
        cache: the labelled cache, with class texts.
        pool: the pool's, by the same encoder, or those of several pools, of which the result is
            that of one pool that holds the rows of all in their order.
        out: directory of the result; None: it is not written.
        settings: see :class:`ltcache.retrieval.settings.RetrievalSettings`.
        ranking: where candidates come from, an exact pass on the CPU by default; the p_k of those
            that an index gives are exact, too.
        allow_stale: identity fields (``encoder``, ``prompts``...) that may differ.
        overwrite: replace a result of other settings.
        decisions: of a person, applied last (:mod:`ltcache.retrieval.review.decisions`).

    Raises:
        IdentityError: another encoder made a pool, or the class texts, or the decisions are
            about another retrieval (status 4).
        UsageError: settings that cannot be meant, or ``out`` is taken.
        CacheError: a cache without embeddings or texts.

    Example:
        >>> result = retrieve_tail("cache", "pool", settings=RetrievalSettings(per_class=3))
        >>> [(found.name, found.quota) for found in result.record.classes]
        [('cat', 3), ('newt', 3)]
    """
    started = time.perf_counter()
    if out is not None:
        require_replaceable(out, PlaceKind.RETRIEVED)
    search, ranking = open_search(cache, pool, settings, allow_stale), ranking or ExactPass()
    if isinstance(ranking, IndexRequest):
        ranking = ranking.build(search.pool, search.queries)
    found = best_candidates(
        ranking, search.pool, search.queries, search.wanted, search.settings.candidates
    )
    result = judged_result(search, found, ranking)
    seconds = round(time.perf_counter() - started, 3)
    result.record = replace(result.record, seconds=seconds)
    if decisions is not None:
        result = apply_decisions(result, decisions)
    if out is not None:
        write_result(result, search.pool, out, overwrite)
    return result


def judged_result(
    search: TailSearch, candidates: RankedPairs, ranking: ExactPass | PoolIndex
) -> RetrievalResult:
    """Return the candidates with what guards let through, all that needs the whole pool.

    Args:
        candidates: the best images of each class, from ``ranking``.
    """
    cache, pool, settings = search.cache, search.pool, search.settings
    labels = np.array([*search.wanted])
    least = least_probability(cache, search.queries, labels, settings)
    near = calibrate_near(
        cache, false_alarm=settings.false_alarm, view=settings.view, seed=settings.seed
    )
    evidence = gather(cache, pool, candidates, near, settings.source_column)
    off = check_guards(settings.off)
    limits = GuardLimits(least.value if least else None, settings.margin, settings.per_source, off)
    verdicts = judge_pool(evidence, limits, search.wanted, pool, near)
    table = candidate_table(cache, pool, evidence, verdicts)
    record = RetrievalRecord(
        settings,
        search.identities,
        cache.manifest.name,
        ", ".join(pool.names),
        RetrievalThresholds(least, near),
        GroupScheme.from_dict(cache.manifest.groups).describe(train_counts(cache)),
        tuple(tallied(entry, table) for entry in _classes(cache, settings, search.wanted)),
        ranking.record if isinstance(ranking, PoolIndex) else None,
        ranking.precision if isinstance(ranking, ExactPass) else "fp32",
        search.stale,
        pools=pool.names if len(pool.pools) > 1 else (),
    )
    rows = np.unique(candidates.rows)
    return RetrievalResult(table, record, _features(pool, rows), rows, cache_path=cache.path)


def write_result(
    result: RetrievalResult, pool: JoinedPool, out: str | Path, overwrite: bool
) -> None:
    """Write a result, and beside it where the images of its pool are."""
    folders = pool_folders(result.save(out, overwrite), result.record.pools)
    for folder, one in zip(folders, pool.pools, strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        keep_root(folder, kept_root(one.cache.path))


def _classes(
    cache: Cache, settings: RetrievalSettings, wanted: Mapping[int, int]
) -> list[RetrievedClass]:
    """Return each class with the images wanted, before any is chosen."""
    counts, texts = train_counts(cache), cache.prompts(settings.prompts).texts
    names = cache.classes.names
    return [
        RetrievedClass(label, names[label], tuple(texts[label]), int(counts[label]), quota)
        for label, quota in wanted.items()
    ]


def _features(pool: JoinedPool, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return field -> (m, v, D) as stored, of the fields of all pools that heads take.

    Args:
        rows: ascending.
    """
    result = {}
    there = [one.cache.field_dims(pool.view) for one in pool.pools]
    for name, dim in there[0].items():
        if name == "tokens" or not all(name in dims for dims in there):
            continue
        parts = [
            values
            for number, _, own in pool.divided(rows)
            for _, values in pool.pools[number].cache.feature_blocks(own, 4096, name, pool.view)
        ]
        result[name] = np.concatenate(parts) if parts else np.zeros((0, 1, dim), np.float16)
    return result
