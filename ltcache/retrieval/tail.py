"""From a labelled cache and a pool to images for the rare classes.

TACKLE (as its poster has it; no paper or code was found) builds training images for tail classes
from web images by ``p_k = softmax_k(f_P(k) . f_I / tau)``. What it leaves open is chosen here and
written down with the result: which classes, how many images, which p_k is enough, and what must be
kept out.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ltcache.cache import Cache, check_prompts, open_cache
from ltcache.manifest import keep_root, kept_root
from ltcache.metrics import GroupScheme
from ltcache.records import PlaceKind, require_equal, require_replaceable
from ltcache.retrieval.candidate_table import candidate_table
from ltcache.retrieval.guards.evidence import gather
from ltcache.retrieval.guards.lookalikes import judge_pool
from ltcache.retrieval.guards.neighbours import calibrate_near
from ltcache.retrieval.guards.verdicts import GuardLimits, check_guards
from ltcache.retrieval.record import RetrievalRecord, RetrievalThresholds, RetrievedClass
from ltcache.retrieval.result import RetrievalResult, tallied
from ltcache.retrieval.review.decisions import ReviewDecisions, apply_decisions
from ltcache.retrieval.scoring.cached_queries import make_queries, temperature
from ltcache.retrieval.scoring.index import PoolIndex
from ltcache.retrieval.scoring.pool import CachedPool
from ltcache.retrieval.scoring.ranking import ExactPass, IndexRequest, best_candidates
from ltcache.retrieval.scoring.threshold import least_probability
from ltcache.retrieval.selection import tail_quotas, train_counts
from ltcache.retrieval.settings import RetrievalSettings


def retrieve_tail(
    cache: Cache | str | Path,
    pool: Cache | str | Path,
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
        cache: the labelled cache, with class texts. pool: the pool's, by the same encoder.
        out: directory of the result; None: it is not written.
        settings: see :class:`ltcache.retrieval.settings.RetrievalSettings`.
        ranking: where candidates come from, an exact pass on the CPU by default; the p_k of those
            that an index gives are exact, too.
        allow_stale: identity fields (``encoder``, ``prompts``...) that may differ.
        overwrite: replace a result of other settings.
        decisions: of a person, applied last (:mod:`ltcache.retrieval.review.decisions`).

    Raises:
        IdentityError: another encoder made the pool, or the class texts, or the decisions are
            about another retrieval (status 4).
        UsageError: settings that cannot be meant, or ``out`` is taken.
        CacheError: a cache without embeddings or texts.

    Example:
        >>> result = retrieve_tail("cache", "pool", settings=RetrievalSettings(per_class=3))
        >>> [(found.name, found.quota) for found in result.record.classes]
        [('cat', 3), ('newt', 3)]
    """
    started = time.perf_counter()
    cache, pool = open_cache(cache), open_cache(pool)
    if out is not None:
        require_replaceable(out, PlaceKind.RETRIEVED)
    stale = check_pool(cache, pool, allow_stale)
    settings = _in_full(settings or RetrievalSettings(), cache)
    stale += check_prompts(cache, cache.prompts(settings.prompts), allow_stale)
    result = _retrieve(cache, CachedPool(pool, settings.view), settings, ranking or ExactPass())
    seconds = round(time.perf_counter() - started, 3)
    result.record = replace(result.record, stale=tuple(stale), seconds=seconds)
    if decisions is not None:
        result = apply_decisions(result, decisions)
    if out is not None:
        keep_root(result.save(out, overwrite), kept_root(pool.path))
    return result


def _retrieve(
    cache: Cache,
    pool: CachedPool,
    settings: RetrievalSettings,
    ranking: ExactPass | IndexRequest | PoolIndex,
) -> RetrievalResult:
    """Rank the pool for each rare class, and reject what guards keep out.

    Args:
        settings: with temperature and class texts filled in.
    """
    wanted = tail_quotas(cache, settings)  # label -> images
    queries = make_queries(cache, settings)
    least = least_probability(cache, queries, np.array([*wanted]), settings)
    near = calibrate_near(
        cache, false_alarm=settings.false_alarm, view=settings.view, seed=settings.seed
    )
    if isinstance(ranking, IndexRequest):
        ranking = ranking.build(pool, queries)
    candidates = best_candidates(ranking, pool, queries, wanted, settings.candidates)
    evidence = gather(cache, pool, candidates, near, settings.source_column)
    off = check_guards(settings.off)
    limits = GuardLimits(least.value, settings.margin, settings.per_source, off)
    verdicts = judge_pool(evidence, limits, wanted, pool, near)
    table = candidate_table(cache, pool.cache, evidence, verdicts)
    record = RetrievalRecord(
        settings,
        _identities(cache, pool, settings),
        cache.manifest.name,
        pool.cache.manifest.name,
        RetrievalThresholds(least, near),
        GroupScheme.from_dict(cache.manifest.groups).describe(),
        tuple(tallied(entry, table) for entry in _classes(cache, settings, wanted)),
        ranking.record if isinstance(ranking, PoolIndex) else None,
        ranking.precision if isinstance(ranking, ExactPass) else "fp32",
    )
    rows = np.unique(candidates.rows)
    return RetrievalResult(table, record, _features(pool.cache, rows, settings.view), rows)


def _identities(
    cache: Cache, pool: CachedPool, settings: RetrievalSettings
) -> Mapping[str, Mapping[str, Any]]:
    """Return what both caches are, for the record."""
    texts = cache.prompts(settings.prompts)
    rows = cache.manifest.identity()["rows"]
    return {
        "cache": cache.identities(settings.view, texts) | {"rows": rows},
        "pool": pool.identity() | {"numerics": pool.cache.numerics},
    }


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


def _in_full(settings: RetrievalSettings, cache: Cache) -> RetrievalSettings:
    """Return settings with what they leave to the cache: the temperature and the class texts."""
    tau = temperature(cache, settings.tau)
    return replace(settings, tau=tau, prompts=cache.prompts(settings.prompts).name)


def check_pool(cache: Cache, pool: Cache, allow_stale: Collection[str] = ()) -> list[str]:
    """Refuse a pool by another encoder; warn of other numerics.

    Returns:
        Identity fields that differ and were let pass.

    Raises:
        IdentityError: with every differing field.
    """
    stale = require_equal(
        "encoder",
        cache.encoder,
        pool.encoder,
        allow_stale=allow_stale,
        remedy=f"extract the pool {pool.path} with the encoder that made {cache.path}",
    )
    loose = require_equal("numerics", cache.numerics, pool.numerics, allow_stale=["numerics"])
    if loose:
        warnings.warn(
            f"the pool's features were computed otherwise ({', '.join(loose)}); p_k can differ in "
            "their last digits",
            stacklevel=3,
        )
    return stale


def _features(pool: Cache, rows: np.ndarray, view: str) -> dict[str, np.ndarray]:
    """Return field -> (m, v, D) as stored, of the fields that heads take."""
    result = {}
    for name, dim in pool.field_dims(view).items():
        if name == "tokens":
            continue
        parts = [values for _, values in pool.feature_blocks(rows, 4096, name, view)]
        result[name] = np.concatenate(parts) if parts else np.zeros((0, 1, dim), np.float16)
    return result
