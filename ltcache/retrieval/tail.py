"""From a labelled cache and a pool to images for the rare classes.

TACKLE (as its poster has it; no paper or code was found) builds training images for tail classes
from web images by ``p_k = softmax_k(f_P(k) . f_I / tau)``. What it leaves open is chosen here and
written down with the result: which classes, how many images, which p_k is enough, and what must be
kept out.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from ltcache.cache import Cache, open_cache
from ltcache.cache.fingerprint import require_equal
from ltcache.errors import UsageError
from ltcache.metrics import GroupScheme
from ltcache.retrieval.decisions import Decisions, apply_decisions
from ltcache.retrieval.guards import Evidence, Limits, Verdicts, alone, check_guards, judge
from ltcache.retrieval.neighbours import (
    FALSE_ALARM,
    Neighbours,
    calibrate_near,
    close_pairs,
    neighbours,
    surroundings,
    units_of,
)
from ltcache.retrieval.pool import CachedPool
from ltcache.retrieval.queries import Queries, class_queries
from ltcache.retrieval.result import ACCEPTED, REJECTED, Retrieved, check_place, tally
from ltcache.retrieval.scoring import Scores, score_pool
from ltcache.retrieval.selection import quotas, tail_classes
from ltcache.retrieval.threshold import (
    FIXED,
    ProbabilityThreshold,
    calibrated_threshold,
    fixed_threshold,
)
from ltcache.zero_shot import check_prompts

if TYPE_CHECKING:
    from ltcache.retrieval.index import PoolIndex

OVERSAMPLING, RESERVE = 4, 20
"""Candidates of a class: that many times its quota and some more, for guards to choose from."""

_ALIASES = {
    "source": ("source", "vendor", "host", "provider"),
    "url": ("url", "image_url", "original_url"),
    "caption": ("caption", "text", "alt"),
    "licence": ("licence", "license"),
}


@dataclass(frozen=True)
class Settings:
    """What is retrieved and what is kept out; written into retrieve.json as it is.

    Args:
        groups, max_count, labels: which classes (:func:`ltcache.retrieval.selection.tail_classes`).
        per_class, up_to: how many each (:func:`ltcache.retrieval.selection.quotas`).
        candidates: per class, before the guards; None: four times the quota and 20 more.
        tau: of the softmax; None: 1 / logit_scale of the encoder.
        prompts: a set of class texts of the cache; None: the default set.
        pooling: of a class's sentences, ``mean`` or ``max``.
        mean_weight: of the class mean of training images in each prompt, 0..1.
        threshold: least p_k; None: 0.5, or calibrated where ``precision`` is given.
        precision: calibrate the threshold to it on training images.
        margin: least log p_k - log p_runner_up.
        false_alarm: rate at which distinct training images may count as near duplicates.
        per_source: picks of one source in one class, at most.
        source_column: of the pool's manifest; None: source, vendor, host, or the url's host.
        off: guards that are switched off (:data:`ltcache.retrieval.guards.GUARDS`, or ``all``).
        view: of both caches. seed: of the training images that a threshold is calibrated on.
    """

    groups: tuple[str, ...] = ()
    max_count: int | None = None
    labels: tuple[int, ...] | None = None
    per_class: int | None = None
    up_to: int | str | None = None
    candidates: int | None = None
    tau: float | None = None
    prompts: str | None = None
    pooling: str = "mean"
    mean_weight: float = 0.0
    threshold: float | None = None
    precision: float | None = None
    margin: float = 0.0
    false_alarm: float = FALSE_ALARM
    per_source: int | None = None
    source_column: str | None = None
    off: tuple[str, ...] = ()
    view: str = "center"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.threshold is not None and self.precision is not None:
            raise UsageError("give a threshold on p_k or a precision to calibrate it to, not both")
        if not 0 < self.false_alarm < 1:
            raise UsageError(f"the rate of false alarms is {self.false_alarm}, not within 0 and 1")
        for name in ("candidates", "per_source"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}: it must be at least 1")
        check_guards(self.off)


def retrieve_tail(
    cache: Cache | str | Path,
    pool: Cache | str | Path,
    out: str | Path | None = None,
    settings: Settings | None = None,
    *,
    index: PoolIndex | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    allow_stale: Collection[str] = (),
    overwrite: bool = False,
    decisions: Decisions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Retrieved:
    """Choose images of an unlabelled pool for the rare classes of a cache.

    Args:
        cache: the labelled cache, with class texts. pool: the pool's, by the same encoder.
        out: directory of the result; None: it is not written.
        settings: see :class:`Settings`.
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
        check_place(Path(out), None, overwrite)
    work = _Work(cache, pool, settings or Settings(), allow_stale)
    scores = work.candidates(index, device, precision, progress)
    evidence, nearest = work.evidence(scores)
    verdicts = judge(evidence, work.limits, work.quotas)
    table = work.table(evidence, nearest, verdicts)
    record = work.record(table) | {"index": index.record if index else None}
    record["candidate_precision"] = precision
    record["seconds"] = round(time.perf_counter() - started, 3)
    rows = np.unique(scores.rows)
    result = Retrieved(table, record, _features(pool, rows, work.settings.view), rows)
    if decisions is not None:
        result = apply_decisions(result, decisions)
    if out is not None:
        result.save(out, overwrite)
    return result


class _Work:
    """One retrieval: what its steps share."""

    def __init__(
        self, cache: Cache, pool: Cache, settings: Settings, allow_stale: Collection[str]
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
        self.tau = _tau(cache, settings.tau)
        self.queries = make_queries(cache, settings)
        self.threshold = self._threshold()
        self.near = calibrate_near(
            cache, false_alarm=settings.false_alarm, view=settings.view, seed=settings.seed
        )
        self.limits = Limits(
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
    ) -> Scores:
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

    def evidence(self, scores: Scores) -> tuple[Evidence, tuple[Neighbours, Neighbours]]:
        """Return what guards look at, and the nearest images of training and of other splits."""
        rows, inverse = np.unique(scores.rows, return_inverse=True)
        images, view = self.pool.unit(rows), self.settings.view
        held_out = [split for split in self.cache.splits if split != "train"]
        train = _nearest_of(self.cache, ["train"], images, view).take(inverse)
        others = _nearest_of(self.cache, held_out, images, view).take(inverse)
        both = train.joined(others)
        content = _texts(self.pool.cache, "sha256", scores.rows)
        evidence = Evidence(
            scores,
            content,
            self._sources(scores.rows),
            self._looks_like(train, both),
            self._looks_like(others, both),
            _copies(self.cache, ["train"], content),
            _copies(self.cache, held_out, content),
        )
        if "duplicates" not in self.limits.off:
            evidence = replace(evidence, close=self._close(evidence, images[inverse], both))
        return evidence, (train, others)

    def _looks_like(self, found: Neighbours, both: Neighbours) -> np.ndarray:
        return self.near.holds(found.best, surroundings(both, found.units[:, 0]))

    def _close(
        self, evidence: Evidence, images: np.ndarray, labelled: Neighbours
    ) -> dict[int, np.ndarray]:
        """Return near duplicates among the candidates of each class that nothing else keeps out."""
        free = np.array([not reason for reason in alone(evidence, self.limits)], bool)
        result: dict[int, np.ndarray] = {}
        for label in np.unique(evidence.scores.labels[free]):
            mine = np.flatnonzero(free & (evidence.scores.labels == label))
            pairs = close_pairs(images[mine], labelled.take(mine), self.near)
            for place, near in enumerate(pairs):
                if len(near):
                    result[int(mine[place])] = mine[near]
        return result

    def _sources(self, rows: np.ndarray) -> list[str]:
        name = self.settings.source_column
        if name is not None:
            if name not in self.pool.cache.manifest.rows.column_names:
                raise UsageError(f"{self.pool.cache.path}: the pool has no column {name!r}")
            return _texts(self.pool.cache, name, rows)
        found = _texts(self.pool.cache, "source", rows)
        urls = _texts(self.pool.cache, "url", rows)
        return [
            text or (urlsplit(url).hostname or "") for text, url in zip(found, urls, strict=True)
        ]

    def table(
        self, evidence: Evidence, nearest: tuple[Neighbours, Neighbours], verdicts: Verdicts
    ) -> pa.Table:
        """Return the columns of :data:`ltcache.retrieval.result.COLUMNS`."""
        scores, names = evidence.scores, self.cache.classes.names
        train, held_out = nearest
        train_rows, held_out_rows = train.rows[:, 0], held_out.rows[:, 0]
        pool, mine = self.pool.cache, self.cache
        keys = _texts(pool, "key", scores.rows)
        train_keys = _texts(mine, "key", train_rows)
        held_out_keys = _texts(mine, "key", held_out_rows)
        train_labels = _numbers(mine, "label", train_rows)
        columns: dict[str, Any] = {
            "pool_row": _numbers(pool, "row_id", scores.rows),
            "key": keys,
            "uri": _texts(pool, "uri", scores.rows),
            "label": scores.labels,
            "class_name": [names[label] for label in scores.labels],
            "p": scores.probability,
            "log_odds": scores.log_odds,
            "margin": scores.margin,
            "runner_up": scores.runner_up,
            "runner_up_name": [names[label] for label in scores.runner_up],
            "rank": scores.rank,
            "status": [REJECTED if reason else ACCEPTED for reason in verdicts.reasons],
            "reason": verdicts.reasons,
            "duplicate_of": _duplicate_of(verdicts, keys, train_keys, held_out_keys),
            "train_row": train_rows,
            "train_key": train_keys,
            "train_label": train_labels,
            "train_similarity": train.best,
            "held_out_key": held_out_keys,
            "held_out_similarity": held_out.best,
            "sha256": list(evidence.content),
            "width": _numbers(pool, "width", scores.rows),
            "height": _numbers(pool, "height", scores.rows),
            "source": list(evidence.source),
        }
        for name in ("url", "caption", "licence"):
            columns[name] = _texts(pool, name, scores.rows)
        return pa.table(columns)

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


def make_queries(cache: Cache, settings: Settings) -> Queries:
    """Return what a pool is scored with under some settings.

    Raises:
        UsageError: settings that cannot be meant. CacheError: no such class texts.
    """
    weight = settings.mean_weight
    return class_queries(
        cache.prompts(settings.prompts),
        _tau(cache, settings.tau),
        pooling=settings.pooling,
        class_means=class_sums(cache, settings.view) if weight else None,
        weight=weight,
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


def class_sums(cache: Cache, view: str = "center") -> np.ndarray:
    """Return float64 (C, D): sums of the unit embeddings of each class's training images."""
    train = CachedPool(cache, view, "train")
    labels = cache.labels("train")
    sums = np.zeros((len(cache.classes), train.dim))
    for start in range(0, len(labels), 4096):
        part = slice(start, start + 4096)
        known = labels[part] >= 0
        np.add.at(sums, labels[part][known], train.unit(train.rows[part][known]))
    return sums


def _tau(cache: Cache, tau: float | None) -> float:
    if tau is not None:
        return tau
    if cache.logit_scale is None:
        raise UsageError(f"{cache.path}: its encoder has no logit scale: give --tau")
    return 1 / cache.logit_scale


def _train_counts(cache: Cache) -> np.ndarray:
    if "train" in cache.splits:
        return cache.class_counts("train")
    return np.zeros(len(cache.classes), np.int64)


def _nearest_of(cache: Cache, splits: Sequence[str], images: np.ndarray, view: str) -> Neighbours:
    """Return the nearest images of some splits for each of ``images``."""
    none = np.full((len(images), 1), -1, np.int64)
    best = Neighbours(none, np.full(none.shape, -1, np.float32), none)
    for split in splits:
        if split in cache.splits and len(cache.rows(split)):
            units, _ = units_of(cache, split)
            best = best.joined(neighbours(CachedPool(cache, view, split), units, images))
    return best


def _copies(cache: Cache, splits: Sequence[str], content: Sequence[str]) -> np.ndarray:
    """Return whether an image of some splits has the same bytes, bool (n,)."""
    known: set[str] = set()
    for split in splits:
        if split in cache.splits:
            hashes = cache.column("sha256", split)
            known |= set() if hashes is None else set(hashes.tolist())
    return np.array([text != "" and text in known for text in content], bool)


def _duplicate_of(
    verdicts: Verdicts,
    keys: Sequence[str],
    train_keys: Sequence[str],
    held_out_keys: Sequence[str],
) -> list[str]:
    """Return the key of the image that each duplicate or leak repeats, else ""."""
    result = []
    for n, reason in enumerate(verdicts.reasons):
        if verdicts.twins[n] >= 0:
            result.append(keys[int(verdicts.twins[n])])
        elif reason in ("duplicate", "near-duplicate"):
            result.append(train_keys[n])
        elif reason in ("leak", "near-leak"):
            result.append(held_out_keys[n])
        else:
            result.append("")
    return result


def _texts(cache: Cache, name: str, rows: np.ndarray) -> list[str]:
    """Return a column's texts for rows; "" where there is no column, no value or no row (-1)."""
    columns = {column.lower(): column for column in cache.manifest.rows.column_names}
    named = next((columns[a] for a in _ALIASES.get(name, (name,)) if a in columns), None)
    if named is None:
        return [""] * len(rows)
    column = cache.manifest.rows[named].combine_chunks()
    values = column.take(pa.array(np.where(rows < 0, 0, rows))).to_pylist() if len(rows) else []
    return [
        "" if row < 0 or value is None else str(value)
        for row, value in zip(rows, values, strict=True)
    ]


def _numbers(cache: Cache, name: str, rows: np.ndarray) -> np.ndarray:
    """Return a column's int64 numbers for rows; -1 where there is no row (-1)."""
    values = cache.manifest.rows[name].to_numpy(zero_copy_only=False)
    return np.where(rows < 0, -1, values[np.where(rows < 0, 0, rows)]).astype(np.int64)


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
