"""From a labelled cache and a pool to images for the rare classes.

TACKLE (as its poster has it; no paper or code was found) builds training images for tail classes
from web images by ``p_k = softmax_k(f_P(k) . f_I / tau)``. What it leaves open is chosen here and
written down with the result: which classes, how many images, which p_k is enough, and what must be
kept out.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ltcache.cache import Cache, check_prompts, open_cache
from ltcache.metrics import GroupScheme
from ltcache.records import PlaceKind, require_equal, require_replaceable
from ltcache.retrieval.cached_queries import class_sums, make_queries, temperature
from ltcache.retrieval.candidate_table import candidate_table
from ltcache.retrieval.decisions import ReviewDecisions, apply_decisions
from ltcache.retrieval.evidence import gather
from ltcache.retrieval.guards import GuardLimits, check_guards
from ltcache.retrieval.lookalikes import PoolLookalikes
from ltcache.retrieval.neighbours import calibrate_near
from ltcache.retrieval.pool import CachedPool
from ltcache.retrieval.queries import class_queries
from ltcache.retrieval.result import RetrievalResult, tally
from ltcache.retrieval.scoring import RankedPairs, score_pool
from ltcache.retrieval.selection import quotas, tail_classes
from ltcache.retrieval.settings import RetrievalSettings
from ltcache.retrieval.threshold import (
    FIXED,
    ProbabilityThreshold,
    calibrated_threshold,
    fixed_threshold,
)

if TYPE_CHECKING:
    from ltcache.retrieval.index import PoolIndex

OVERSAMPLING, RESERVE = 4, 20
"""Candidates of a class: that many times its quota and some more, for guards to choose from."""


def retrieve_tail(
    cache: Cache | str | Path,
    pool: Cache | str | Path,
    out: str | Path | None = None,
    settings: RetrievalSettings | None = None,
    *,
    index: PoolIndex | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    allow_stale: Collection[str] = (),
    overwrite: bool = False,
    decisions: ReviewDecisions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RetrievalResult:
    """Choose images of an unlabelled pool for the rare classes of a cache.

    Args:
        cache: the labelled cache, with class texts. pool: the pool's, by the same encoder.
        out: directory of the result; None: it is not written.
        settings: see :class:`ltcache.retrieval.settings.RetrievalSettings`.
        index: candidates from it in place of the exact pass; their p_k are exact either way.
        device: of the pass, ``cpu`` or a GPU as torch names it. precision: of its candidates.
        allow_stale: identity fields (``encoder``, ``prompts``...) that may differ.
        overwrite: replace a result of other settings.
        decisions: of a person, applied last (:mod:`ltcache.retrieval.decisions`).
        progress: called with rows done and rows in all.

    Raises:
        IdentityError: another encoder made the pool, or the class texts, or the decisions are
            about another retrieval (status 4).
        UsageError: settings that cannot be meant, or ``out`` is taken.
        CacheError: a cache without embeddings or texts.
    """
    started = time.perf_counter()
    cache, pool = _opened(cache), _opened(pool)
    if out is not None:
        require_replaceable(out, PlaceKind.RETRIEVED)
    work = _Retrieval(cache, pool, settings or RetrievalSettings(), allow_stale)
    scores = work.candidates(index, device, precision, progress)
    evidence, nearest = gather(cache, work.pool, scores, work.near, work.settings.source_column)
    alike = PoolLookalikes(work.pool, work.near, nearest)
    verdicts = alike.judge(evidence, work.limits, work.quotas)
    table = candidate_table(cache, pool, evidence, nearest, verdicts)
    record = work.record(table) | {"index": index.record if index else None}
    record["candidate_precision"] = precision
    record["seconds"] = round(time.perf_counter() - started, 3)
    rows = np.unique(scores.rows)
    result = RetrievalResult(table, record, _features(pool, rows, work.settings.view), rows)
    if decisions is not None:
        result = apply_decisions(result, decisions)
    if out is not None:
        result.save(out, overwrite)
    return result


class _Retrieval:
    """One retrieval: what its steps share."""

    def __init__(
        self, cache: Cache, pool: Cache, settings: RetrievalSettings, allow_stale: Collection[str]
    ) -> None:
        self.cache, self.settings = cache, settings
        self.stale = check_pool(cache, pool, allow_stale)
        self.pool = CachedPool(pool, settings.view)
        self.texts = cache.prompts(settings.prompts)
        self.stale += check_prompts(cache, self.texts, allow_stale)
        self.counts = _train_counts(cache)
        scheme = GroupScheme.from_mapping(cache.manifest.groups)
        self.scheme = scheme.describe()
        self.labels = tail_classes(
            self.counts,
            scheme,
            groups=settings.groups,
            max_count=settings.max_count,
            labels=settings.labels,
        )
        wanted = quotas(
            self.counts, self.labels, per_class=settings.per_class, up_to=settings.up_to
        )
        self.quotas = dict(zip(self.labels.tolist(), wanted.tolist(), strict=True))
        self.tau = temperature(cache, settings.tau)
        self.queries = make_queries(cache, settings)
        self.threshold = self._threshold()
        self.near = calibrate_near(
            cache, false_alarm=settings.false_alarm, view=settings.view, seed=settings.seed
        )
        self.limits = GuardLimits(
            probability=self.threshold.value,
            margin=settings.margin,
            per_source=settings.per_source,
            off=check_guards(settings.off),
        )

    def candidates(
        self,
        index: PoolIndex | None,
        device: str,
        precision: str,
        progress: Callable[[int, int], None] | None,
    ) -> RankedPairs:
        """Return the best rows of each class that wants any."""
        wanted = np.array([label for label in self.labels if self.quotas[int(label)]], np.int64)
        each = {label: self._candidates(quota) for label, quota in self.quotas.items()}
        top = max(each.values(), default=1)
        if index is not None:
            found = index.candidates(self.pool, self.queries, wanted, top)
        else:
            found = score_pool(
                self.pool,
                self.queries,
                wanted,
                top,
                precision=precision,
                device=device,
                progress=progress,
            )
        most = np.array([each[int(label)] for label in found.labels], np.int64)
        return found.take(np.flatnonzero(found.rank <= most))

    def _candidates(self, quota: int) -> int:
        return self.settings.candidates or OVERSAMPLING * quota + RESERVE

    def record(self, table: pa.Table) -> dict[str, Any]:
        """Return what stands in retrieve.json, but for times."""
        cache, pool = self.cache, self.pool
        settings = asdict(self.settings) | {"tau": self.tau, "prompts": self.texts.name}
        return {
            "settings": settings,
            "identities": {
                "cache": cache.identities(self.settings.view, self.texts)
                | {"rows": cache.manifest.identity()["rows"]},
                "pool": pool.identity() | {"numerics": pool.cache.numerics},
            },
            "cache": cache.manifest.name,
            "pool": pool.cache.manifest.name,
            "thresholds": {"p": self.threshold.to_dict(), "near": self.near.to_dict()},
            "group_scheme": self.scheme,
            "stale": self.stale,
            "classes": [self._class_record(table, int(label)) for label in self.labels],
        }

    def _class_record(self, table: pa.Table, label: int) -> dict[str, Any]:
        return {
            "label": label,
            "name": self.cache.classes.names[label],
            "prompts": list(self.texts.texts[label]),
            "train": int(self.counts[label]),
            "quota": self.quotas[label],
            **tally(table, label),
        }

    def _threshold(self) -> ProbabilityThreshold:
        chosen = self.settings
        if chosen.precision is None:
            return fixed_threshold(FIXED if chosen.threshold is None else chosen.threshold)
        text = class_queries(self.texts, self.tau, pooling=chosen.pooling).rows
        return calibrated_threshold(
            self.cache,
            self.queries,
            self.labels,
            chosen.precision,
            class_sums=class_sums(self.cache, chosen.view) if chosen.mean_weight else None,
            text=text,
            weight=chosen.mean_weight,
            view=chosen.view,
        )


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


def _train_counts(cache: Cache) -> np.ndarray:
    if "train" in cache.splits:
        return cache.class_counts("train")
    return np.zeros(len(cache.classes), np.int64)


def _features(pool: Cache, rows: np.ndarray, view: str) -> dict[str, np.ndarray]:
    """Return field -> (m, v, D) as stored, of the fields that heads take."""
    result = {}
    for name, dim in pool.field_dims(view).items():
        if name == "tokens":
            continue
        parts = [values for _, values in pool.feature_blocks(rows, 4096, name, view)]
        result[name] = np.concatenate(parts) if parts else np.zeros((0, 1, dim), np.float16)
    return result


def _opened(cache: Cache | str | Path) -> Cache:
    return open_cache(cache) if isinstance(cache, (str, Path)) else cache
