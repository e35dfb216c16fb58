"""Scores of a run on a split of a cache."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from ltcache.errors import UsageError
from ltcache.metrics import Metrics
from ltcache.run import Run, check_features, open_run, score, write_json

if TYPE_CHECKING:
    from ltcache.cache import Cache


def evaluate(
    run: Run | str | Path,
    cache: Cache | str | Path | None = None,
    split: str = "test",
    allow_stale: Collection[str] = (),
    *,
    write: bool = False,
) -> Metrics:
    """Score a run on a split, after comparing the identities of both.

    Args:
        run: a run or its directory.
        cache: a cache or its directory; None: the one the run was fitted on.
        split: which rows; only labelled ones count.
        allow_stale: identity fields that may differ; the scores then name them.
        write: also write ``metrics-<split>.json`` into the run's directory.

    Raises:
        IdentityError: the cache's encoder, classes, view or prompts are not those of the run.
        UsageError: there is no cache to score on.
    """
    run = run if isinstance(run, Run) else open_run(run)
    opened = _cache_of(run, cache)
    stale = check_features(run, opened, allow_stale)
    metrics = score(run, opened, split, stale)
    if write and run.path is not None:
        write_json(run.path / f"metrics-{split}.json", metrics.to_dict())
    return metrics


def _cache_of(run: Run, cache: Cache | str | Path | None) -> Cache:
    from ltcache.cache import open_cache

    if cache is None:
        if run.path is None or not run.record.get("cache"):
            raise UsageError(
                "the run does not say which cache it was fitted on: name one (--cache)"
            )
        path = run.path / run.record["cache"]
        if not path.is_dir():
            raise UsageError(f"the run's cache is no longer at {path}: name it with --cache")
        cache = path
    return open_cache(cache) if isinstance(cache, (str, Path)) else cache
