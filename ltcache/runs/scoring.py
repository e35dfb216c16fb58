"""A run on a cache: whether its features fit, which rows have labels, and the scores of a split."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ltcache.adjustments import how_to_add
from ltcache.errors import CacheError
from ltcache.images import is_composite
from ltcache.manifest import SPLITTING
from ltcache.metrics import Metrics, RowAdaptation, evaluate_logits
from ltcache.records import PlaceKind, one_line, require_replaceable, telling_classes
from ltcache.runs.record import SCORED
from ltcache.runs.run import Run

if TYPE_CHECKING:
    from ltcache.cache import Cache
    from ltcache.methods import Method


def check_features(run: Run, cache: Cache, allow_stale: Collection[str] = ()) -> tuple[str, ...]:
    """Refuse a cache whose features do not fit a run; warn where only last bits may differ.

    Returns:
        Identity fields that differ and were let pass.

    Raises:
        IdentityError: encoder, classes, view or prompts differ.
        CacheError: the cache lacks crops that a transductive head learns from.
    """
    from ltcache.cache import check_identities

    require_views(run.method, cache)
    expected = run.record.identities
    prompts = cache.prompts(run.record.prompts) if "prompts" in expected else None
    found = cache.identities(run.method.feature.eval_view, prompts)
    with telling_classes(run.class_names, cache.classes.names):
        stale, loose = check_identities(expected, found, allow_stale)
    if loose:
        warnings.warn(
            f"the features were computed otherwise ({', '.join(loose)}); logits can differ in "
            "their last digits",
            stacklevel=2,
        )
    return tuple(stale)


def warn_of_division(run: Run, cache: Cache, *splits: str) -> None:
    """Warn where a cache was divided otherwise than when a run was fitted, or only since then.

    A division that ltcache did not make shows in the run's own cache: the rows of a split are no
    longer those that the run was scored on when it was fitted.
    """
    made = cache.manifest.card.get(SPLITTING)
    if made is not None and made != run.record.splitting and {*splits} & {*made["shares"]}:
        warnings.warn(
            f"the images of {cache.path} were divided into splits after this run was fitted: some "
            f"of {' and '.join(made['shares'])} may have trained it, and its score is then too "
            "good; fit it again",
            stacklevel=3,
        )
    elif changed := [split for split in splits if _has_other_rows(run, cache, split)]:
        warnings.warn(
            f"the {' and '.join(changed)} rows of {cache.path} are not those that this run was "
            "scored on when it was fitted, for its list has changed: images that trained the run "
            "may be among them, and its score is then too good; fit it again",
            stacklevel=3,
        )


def _has_other_rows(run: Run, cache: Cache, split: str) -> bool:
    """Whether a run's own cache has another division of a split, as far as the run can tell."""
    from ltcache.cache import has_labels, labelled_digest

    then = run.metrics[split].rows if split in run.metrics else None
    if then is None or run.path is None or not run.record.cache:
        return False
    own = (run.path / run.record.cache).resolve()
    if own != Path(cache.path).resolve() or not has_labels(cache, split):
        return False
    return labelled_digest(cache, split) != then


def require_views(method: Method, cache: Cache) -> None:
    """Refuse a cache without the crops that a transductive stage of a method learns from.

    Raises:
        CacheError: with how to add them.
    """
    for stage in method.stages:
        options = stage.options_of("adjustment") if "adjustment" in stage.PARTS else {}
        view = options.get("view")
        if view is not None and is_composite(view):
            raise CacheError(
                f"adjustment.view={view} is a view of composites, which training images alone "
                "have: take one of random crops, such as rrc:2"
            )
        if view is not None and (view not in cache.views or cache.crops(view) < 2):
            remedy = cache.how_to_add(view) if cache.imported else how_to_add(view)
            raise CacheError(
                f"{cache.path}: {method.name} learns from two random crops of each image that it "
                f"predicts, and there is no view {view!r} of two crops or more, only "
                f"{', '.join(cache.views)}; {remedy}"
            )


@one_line
@dataclass(frozen=True, eq=False)
class LabelledLogits:
    """Logits (N, C) of rows to score, their labels (N,) in 0..C-1, units (N,) or None, and what a
    transductive head learned from these rows before."""

    logits: np.ndarray
    labels: np.ndarray
    units: np.ndarray | None
    adaptations: tuple[RowAdaptation, ...] = ()

    @classmethod
    def of(
        cls, run: Run, cache: Cache, split: str, positions: np.ndarray | None = None
    ) -> LabelledLogits:
        """Classify rows of a split of a cache.

        Args:
            positions: of the rows in the split; None: all that have a label.

        Raises:
            CacheError: there is no such split, or none of its rows has a label.
        """
        from ltcache.cache import labelled_split

        rows = labelled_split(cache, split, positions)
        found = run.logits_of(cache, split, rows.positions)
        return cls(found.logits, rows.labels, rows.units, found.adaptations)

    @property
    def right(self) -> np.ndarray:
        """Which rows are classified rightly, bool (N,)."""
        return np.asarray(self.logits.argmax(axis=1) == self.labels)


def score(run: Run, cache: Cache, split: str, stale: tuple[str, ...] = ()) -> Metrics:
    """Score the labelled rows of one split of a cache; intervals are over its ``unit`` column.

    Raises:
        CacheError: there is no such split, or none of its rows has a label.
    """
    from ltcache.cache import labelled_digest

    rows = LabelledLogits.of(run, cache, split)
    counts, groups = np.array(run.record.class_counts), run.record.groups
    found = evaluate_logits(rows.logits, rows.labels, counts, groups=groups, units=rows.units)
    told = labelled_digest(cache, split)
    return replace(found.marked(stale), adaptations=rows.adaptations, rows=told)


def finish_run(
    run: Run,
    cache: Cache,
    out: str | Path | None,
    *,
    overwrite: bool = False,
    stale: tuple[str, ...] = (),
) -> Run:
    """Score a fitted run on ``val`` and ``test`` of its cache, and write it unless ``out`` is None.

    Raises:
        UsageError: ``out`` is taken.
    """
    from ltcache.cache import has_labels

    if out is not None:
        require_replaceable(out, PlaceKind.RUN, key=run.key, overwrite=overwrite)
        where = os.path.relpath(cache.path, Path(out).absolute())
        run.record = replace(run.record, cache=where)
    for split in SCORED:
        if has_labels(cache, split):
            run.metrics[split] = score(run, cache, split, stale)
    if out is not None:
        run.save(out, overwrite)
    return run
