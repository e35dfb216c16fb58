"""Scores of a run on a split of a cache."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ltcache.adjustments import is_transductive
from ltcache.cache import labelled_digest, require_labels, warn_of_shared
from ltcache.errors import FitError, UsageError
from ltcache.evaluate.prior_shift import (
    NAMED,
    PriorProfile,
    class_weights,
    draw_rows,
    estimate_prior,
    profile_prior,
    read_prior,
    retarget,
)
from ltcache.fit import warn_of_training
from ltcache.metrics import Metrics, evaluate_logits
from ltcache.records import PlaceKind, not_what_is_asked, seed_folders, write_json
from ltcache.runs import LabelledLogits, Run, check_features, open_run, score, warn_of_division

if TYPE_CHECKING:
    from ltcache.cache import Cache

_PROFILE = re.compile("(forward|backward)-")


def evaluate(
    run: Run | str | Path,
    cache: Cache | str | Path | None = None,
    split: str = "test",
    allow_stale: Collection[str] = (),
    *,
    write: bool = False,
    test_prior: str | Path | ArrayLike | None = None,
    shift: str | None = None,
    seed: int = 0,
) -> Metrics:
    """Score a run on a split, after comparing the identities of both.

    Args:
        run: a run or its directory.
        cache: a cache or its directory; None: the one the run was fitted on.
        split: which rows; only labelled ones count.
        allow_stale: identity fields that may differ; the scores then name them.
        write: also write the scores into the run's directory, as ``metrics-<split>.json`` (with
            the shift and the prior in the name where they are given).
        test_prior: class prior to move the logits to: ``uniform``; ``train``; ``forward-50`` and
            the like; a csv with label and prior; numbers (C,); or ``estimate``, by EM on the
            logits of the scored rows without their labels (transductive). But for ``estimate``
            the rows are then weighted so that their classes have this prior. None: as fitted.
        shift: score a long-tailed subset of the split instead, drawn by ``seed``: ``forward-50``
            (:func:`ltcache.evaluate.prior_shift.draw_rows`).

    Raises:
        IdentityError: the cache's encoder, classes, view or prompts are not those of the run.
        UsageError: there is no cache to score on, or no such prior.
    """
    if test_prior is not None and not isinstance(test_prior, (str, Path)):
        test_prior = _numbers(test_prior)
    run = open_run(run)
    opened = cache_of(run, cache)
    stale = check_features(run, opened, allow_stale)
    warn_of_shared(opened, "train", split)
    warn_of_division(run, opened, split)
    warn_of_training(run)
    if test_prior is None and shift is None:
        metrics = score(run, opened, split, stale)
    else:
        shifted = _shifted_score(run, opened, split, test_prior, shift, seed)
        metrics = replace(shifted.marked(stale), rows=labelled_digest(opened, split))
    if write and run.path is not None:
        name = "-".join(["metrics", split, *_suffixes(test_prior, shift, seed)])
        write_json(run.path / f"{name}.json", metrics.to_dict())
    return metrics


def evaluate_seeds(
    folder: str | Path,
    cache: Cache | str | Path | None = None,
    split: str = "test",
    allow_stale: Collection[str] = (),
    **options: Any,
) -> dict[str, Metrics]:
    """Score every run of a folder of seeds, such as ``fit_seeds`` writes.

    Args:
        options: of :func:`evaluate`, as the other arguments.

    Returns:
        Name of the run's folder (``seed-0``) -> its scores, in the order of the seeds;
        :func:`ltcache.fit.summarise_seeds` makes mean and spread of them.

    Raises:
        UsageError: there are no seeds, or their runs differ in more than the seed.
        Others: see :func:`evaluate`.
    """
    places = seed_folders(folder)
    if not places:
        raise UsageError(f"no seeds here: {not_what_is_asked(folder, PlaceKind.SEEDS)}")
    runs = [open_run(place) for place in places]
    for place, run in zip(places, runs, strict=True):
        if run.method.to_dict() != runs[0].method.to_dict():
            raise UsageError(
                f"{place} and {places[0]} differ in more than the seed ({run.method.name}, "
                f"{runs[0].method.name}): mean and spread are of one method with one setting; "
                f"compare them with ltcache report {folder}"
            )
    opened = cache_of(runs[0], cache)  # seeds are of one cache; another is refused
    scores = [evaluate(run, opened, split, allow_stale, **options) for run in runs]
    return {place.name: found for place, found in zip(places, scores, strict=True)}


def _shifted_score(
    run: Run,
    cache: Cache,
    split: str,
    test_prior: str | Path | np.ndarray | None,
    shift: str | None,
    seed: int,
) -> Metrics:
    counts, drawn = np.array(run.record.class_counts), None
    if shift is not None:
        labels = require_labels(cache, split)
        drawn = draw_rows(labels, counts, PriorProfile.parse(shift), seed)
    rows = LabelledLogits.of(run, cache, split, drawn)
    logits, weights, words = rows.logits, None, "as fitted"
    if test_prior is not None:
        trained_on = run.record.effective_counts or run.record.class_counts
        assumed = profile_prior(np.array(trained_on), _exponent(run))
        target, words = _target(test_prior, counts, rows.logits, assumed)
        logits = retarget(rows.logits, assumed, target)
        weights = None if _is(test_prior, "estimate") else class_weights(target, rows.labels)
    metrics = evaluate_logits(
        logits,
        rows.labels,
        counts,
        groups=run.record.groups,
        units=rows.units,
        class_weights=weights,
    )
    words += f"; rows drawn as {shift}, seed {seed}" if shift else ""
    return replace(metrics, test_prior=words, adaptations=rows.adaptations)


def _target(
    test_prior: str | Path | np.ndarray, counts: np.ndarray, logits: np.ndarray, assumed: np.ndarray
) -> tuple[np.ndarray, str]:
    """Return the prior that is asked for, (C,), and what it is in words."""
    if isinstance(test_prior, np.ndarray):
        return _given(test_prior, len(counts)), "given"
    if _is(test_prior, "uniform"):
        return profile_prior(counts, 0.0), "uniform"
    if _is(test_prior, "train"):
        return profile_prior(counts), "that of the training rows"
    if _is(test_prior, "estimate"):
        found = estimate_prior(logits, assumed)
        end = "" if found.converged else ", not converged"
        return found.prior, (
            f"estimated by EM, one pseudo-row a class, on these {len(logits)} images without their "
            f"labels in {found.steps} steps{end} (transductive: one image's prediction depends on "
            "the others)"
        )
    if not Path(test_prior).exists() and _PROFILE.match(str(test_prior)):
        profile = PriorProfile.parse(str(test_prior)).profile(counts)
        return profile / profile.sum(), str(test_prior)
    if not Path(test_prior).exists():
        raise UsageError(
            f"test prior {str(test_prior)!r} is neither {', '.join(NAMED)}, forward-RATIO, "
            "backward-RATIO nor a file"
        )
    return read_prior(test_prior, len(counts)), f"of {Path(test_prior).name}"


def _numbers(prior: ArrayLike) -> np.ndarray:
    try:
        return np.asarray(prior, dtype=np.float64)
    except (TypeError, ValueError):
        raise UsageError(
            f"a test prior is a number for each class, a name or a file, not {prior!r}"
        ) from None


def _given(prior: np.ndarray, classes: int) -> np.ndarray:
    prior = np.asarray(prior, dtype=np.float64)
    usable = prior.shape == (classes,) and np.isfinite(prior).all() and (prior >= 0).all()
    if not usable or prior.sum() <= 0:
        raise UsageError(f"a test prior is {classes} numbers of at least 0 that are not all 0")
    return np.asarray(prior / prior.sum())


def _is(test_prior: object, name: str) -> bool:
    return isinstance(test_prior, str) and test_prior == name


def _exponent(run: Run) -> float:
    if is_transductive(run.head):
        raise FitError(
            f"{run.method.name} learns from the very rows that it is scored on, so that which "
            "class prior its logits carry cannot be stated, and no other one can take its place: "
            "leave the test prior out"
        )
    exponent = run.record.residual_prior
    if exponent is None:
        raise FitError(
            f"which class prior the logits of {run.method.name} carry is not known, so that no "
            "other one can take its place: leave the test prior out, or take a method that states "
            "it, such as ce or logit-adjustment"
        )
    return float(exponent)


def _suffixes(
    test_prior: str | Path | np.ndarray | None, shift: str | None, seed: int
) -> list[str]:
    """Return what tells one file of scores from another of the same split."""
    result = [f"{shift}-seed-{seed}"] if shift else []
    if test_prior is not None:
        result.append(f"prior-{_prior_name(test_prior)}")
    return result


def _prior_name(test_prior: str | Path | np.ndarray) -> str:
    """Return a prior as it was named, a file without its suffix unless that names another prior."""
    if isinstance(test_prior, np.ndarray):
        return "given"
    path = Path(test_prior)
    named = _PROFILE.match(path.stem) or path.stem in (*NAMED, "given")
    return path.name if named else path.stem


def cache_of(run: Run, cache: Cache | str | Path | None) -> Cache:
    """Return a cache opened; None: the one that the run was fitted on.

    Raises:
        UsageError: it is no longer there, or the run does not name it.
    """
    from ltcache.cache import open_cache

    if cache is None:
        if run.path is None or not run.record.cache:
            raise UsageError(
                "the run does not say which cache it was fitted on: name one (--cache)"
            )
        path = run.path / run.record.cache
        if not path.is_dir():
            raise UsageError(f"the run's cache is no longer at {path}: name it with --cache")
        plain = Path(os.path.normpath(path))  # as a person writes it, unless a link is on the way
        cache = plain if plain.is_dir() and plain.samefile(path) else path
    return open_cache(cache)
