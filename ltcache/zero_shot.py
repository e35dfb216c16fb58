"""Zero-shot classification of cached features: no training, class texts instead of weights.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021,
section 3.1: a class's weight is the mean of its unit sentence embeddings, of unit length again.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from ltcache.cache import (
    Cache,
    PromptEmbeddings,
    check_prompts,
    labelled_split,
    require_labels,
    warn_of_shared,
)
from ltcache.errors import CacheError
from ltcache.manifest import missing_split, some
from ltcache.metrics import Metrics, evaluate_logits
from ltcache.records import one_line


@one_line
@dataclass(frozen=True, eq=False)
class ZeroShotResult:
    """Zero-shot logits of one split.

    Args:
        logits: float32 (n, C), in the order of ``cache.rows(split)``.
        labels: int64 (n,), -1 = unlabelled.
        metrics: over the labelled rows.
        prompts: name of the class texts.
        stale: identity fields that differed and were let pass.
    """

    logits: np.ndarray
    labels: np.ndarray
    metrics: Metrics
    prompts: str
    stale: tuple[str, ...] = ()


def scaled_cosines(
    embeddings: np.ndarray,
    text_mean: np.ndarray,
    logit_scale: float | None,
    logit_bias: float | None = None,
) -> np.ndarray:
    """Return ``logit_scale * cosine + logit_bias``, float32 (N, C).

    Args:
        embeddings: (N, D) in the joint space, of any length.
        text_mean: (C, D), unit rows.
        logit_scale: exponentiated; None counts as 1.
        logit_bias: of encoders trained with a sigmoid; it changes no prediction.
    """
    embeddings = np.asarray(embeddings, np.float32)
    norms = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    unit = embeddings / np.maximum(norms, np.finfo(np.float32).tiny)
    logits = unit @ (np.float32(1 if logit_scale is None else logit_scale) * text_mean.T)
    return np.asarray(logits if logit_bias is None else logits + np.float32(logit_bias), np.float32)


def zero_shot(
    cache: Cache,
    split: str = "test",
    prompts: PromptEmbeddings | str | None = None,
    *,
    view: str = "center",
    allow_stale: Collection[str] = (),
) -> ZeroShotResult:
    """Classify a split of a cache by class texts and score it.

    Args:
        prompts: a set of class texts, or the name of one in the cache (``default`` if None).
        view: where it has several crops, their logits are averaged.
        allow_stale: identity fields that may differ (``prompts``, ``prompts.text_tower``...).

    Raises:
        CacheError: no such split, view or prompts, no labelled row, or unusable embeddings.
        IdentityError: the class texts are of another text tower, tokenizer or class list.
    """
    if not isinstance(prompts, PromptEmbeddings):
        prompts = cache.prompts(prompts)
    stale = tuple(check_prompts(cache, prompts, allow_stale))
    labels = _labels(cache, split)
    warn_of_shared(cache, "train", split)
    _warn_of_equal_texts(cache, prompts)
    logits = cached_logits(cache, split, prompts, view=view)
    metrics = _score(cache, split, logits)
    return ZeroShotResult(
        logits, labels, metrics.marked(stale) if stale else metrics, prompts.name, stale
    )


def _labels(cache: Cache, split: str) -> np.ndarray:
    """Return the labels of a split that can be scored."""
    if split not in cache.splits:
        other = (
            "; or score the images of train, of which zero-shot has learnt nothing: --split train"
            if "train" in cache.splits
            else ""
        )
        raise CacheError(f"{cache.path}: {missing_split(split, cache.splits)}{other}")
    return require_labels(cache, split)


def _warn_of_equal_texts(cache: Cache, prompts: PromptEmbeddings) -> None:
    """Warn where classes have the same sentences, as ImageNet's two of ``missile`` have."""
    labels: dict[frozenset[str], list[int]] = {}
    for label, texts in enumerate(prompts.texts):
        labels.setdefault(frozenset(texts), []).append(label)
    same = [found for found in labels.values() if len(found) > 1]
    if same:
        names = cache.classes.names
        shown = some(f"{' and '.join(map(str, found))} ({names[found[0]]})" for found in same)
        warnings.warn(
            f"{prompts.name} texts are the same for the classes {shown}: zero-shot gives their "
            "images to one of them alone; ltcache prompts adds texts that tell them apart",
            stacklevel=3,
        )


def cached_logits(
    cache: Cache, split: str, prompts: PromptEmbeddings, *, view: str = "center"
) -> np.ndarray:
    """Return float32 (n, C): the mean over a view's crops of their zero-shot logits.

    Raises:
        CacheError: no such split or view, or embeddings that are not finite.
    """
    features = cache.features(split, "embedding", view)  # (n, v, D)
    if not np.isfinite(features).all():
        raise CacheError(f"{cache.path}: embeddings of {split!r} hold NaN: run ltcache verify")
    total = np.zeros((len(features), len(prompts.mean)), np.float32)
    for crop in range(features.shape[1]):
        total += scaled_cosines(
            features[:, crop], prompts.mean, cache.logit_scale, cache.logit_bias
        )
    return total / np.float32(features.shape[1])


def _score(cache: Cache, split: str, logits: np.ndarray) -> Metrics:
    rows = labelled_split(cache, split)
    trained = "train" in cache.splits
    return evaluate_logits(
        logits[rows.positions],
        rows.labels,
        cache.class_counts("train") if trained else np.zeros(len(cache.classes), np.int64),
        groups=cache.manifest.groups,
        units=rows.units,
    )
