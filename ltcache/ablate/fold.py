"""What a method is chosen on: rows to train on and images to choose on, never the test split."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ltcache.cache import Cache, check_prompts
from ltcache.errors import FitError, UnfittedWarning
from ltcache.manifest import missing_split
from ltcache.methods import Method, Train
from ltcache.records import one_line

if TYPE_CHECKING:
    from ltcache.fit import ExtraRows, LabelledRows
    from ltcache.heads import HeadContext


@one_line
@dataclass(frozen=True, eq=False)
class TuningFold:
    """Rows to train on and rows to choose on.

    Attributes:
        rows, val, extra: as for :func:`ltcache.fit.fit_head`.
        crops: rows of ``val`` that show one image, beside each other.
        seen: name of a view -> features of its crops of each image of ``val``, (n, v, D).
        tuned_on: in words, what ``val`` is.
    """

    rows: LabelledRows
    val: LabelledRows
    extra: LabelledRows | None
    context: HeadContext
    crops: int
    seen: Callable[[str], torch.Tensor]
    tuned_on: str

    @property
    def images(self) -> LabelledRows:
        """The first crop of each image of ``val``: its label and unit are those of the image."""
        return _crops_of(self.val, torch.arange(len(self.val) // self.crops), self.crops, 1)

    @property
    def unseen_classes(self) -> int:
        """How many classes no row of ``val`` is of."""
        return self.context.num_classes - len(self.val.labels.unique())


def validation(
    cache: Cache,
    method: Method,
    prompts: str | None = None,
    seed: int = 0,
    allow_stale: Collection[str] = (),
    extra: ExtraRows | None = None,
) -> TuningFold:
    """Return what a method may be chosen on.

    Raises:
        FitError: there is no validation split and no class has training rows to spare.
        CacheError: the cache lacks crops that the method learns from when it predicts.
    """
    from ltcache.fit import (
        LEAST,
        SHARE,
        hold_out,
        labelled_rows,
        make_context,
        require_same,
        training_rows,
        val_rows,
    )
    from ltcache.runs import require_views

    require_views(method, cache)
    feature = method.feature
    field = feature.resolve(cache.field_dims(feature.view))
    context, texts = make_context(cache, method, field, prompts)
    if texts is not None:
        check_prompts(cache, texts, allow_stale)
    if extra is not None:
        require_same(cache, extra, allow_stale)
        context = extra.counted_in(context)
    of_train, crops = cache.crops(feature.view), cache.crops(feature.eval_view)
    more = None if extra is None else extra.rows(field, of_train)
    rows = training_rows(cache, field, method)
    if (val := val_rows(cache, field, method)) is not None:
        seen = partial(_seen, cache, "val", field)
        return TuningFold(rows, val, more, context, crops, seen, "val")
    every = torch.arange(len(rows) // of_train)
    parts = hold_out(_crops_of(rows, every, of_train, 1), seed)
    if parts is None:
        raise FitError(
            f"{cache.path}: nothing to choose on: {missing_split('val', cache.splits)}; a tenth of "
            f"train cannot choose in its place, since no class has {LEAST} training images or more"
        )
    held = parts[1]
    return TuningFold(
        _crops_of(rows, parts[0], of_train),
        _crops_of(labelled_rows(cache, "train", field, feature.eval_view), held, crops),
        more,
        context,
        crops,
        lambda view: _seen(cache, "train", field, view)[held],
        f"a stratified {SHARE:.0%} of train",
    )


def _seen(cache: Cache, split: str, field: str, view: str) -> torch.Tensor:
    """Return features (n, v, D) of a view's crops of the labelled images of a split."""
    from ltcache.fit import labelled_rows

    rows = labelled_rows(cache, split, field, view)
    return rows.features.unflatten(0, (-1, cache.crops(view)))


def _crops_of(
    rows: LabelledRows, images: torch.Tensor, crops: int, taken: int | None = None
) -> LabelledRows:
    """Return the first ``taken`` of the ``crops`` rows of some images; None: all of them."""
    first = images[:, None] * crops
    return rows.take((first + torch.arange(crops if taken is None else taken)).flatten())


def fit_trials(methods: Sequence[Method], fold: TuningFold, seed: int = 0, **options: Any) -> None:
    """Train the stages of several methods on one fold together, into the memo of the options, from
    which :func:`fit_fold` takes them. A fit that fails is left to it, and so are all of them where
    training together does not pay: then each is told of as it ends.

    Args:
        options: of :class:`ltcache.fit.FitOptions`, a memo among them.
    """
    from ltcache.fit import FitJob, FitOptions, fit_many, runs_at_once

    stages = [stage for stage in methods[0].stages if isinstance(stage, Train)]
    batches = [stage.optimisation.batch_for(len(fold.rows)) for stage in stages]
    context, device = fold.context, torch.device(options.get("device", "cpu"))
    sizes = [(batch, context.dim, context.num_classes, device) for batch in batches]
    if all(runs_at_once(len(methods), *size) == 1 for size in sizes):
        return
    with warnings.catch_warnings(), suppress(Exception):
        warnings.simplefilter("ignore")
        fit_many(
            [FitJob(method, seed) for method in methods],
            fold.rows,
            fold.context,
            val=fold.val,
            extra=fold.extra,
            options=FitOptions(**options),
        )


def fit_fold(method: Method, fold: TuningFold, seed: int = 0, **options: Any) -> np.ndarray:
    """Fit a method on a fold; return logits float32 (n, C) of its images, the mean over crops.

    Args:
        options: of :class:`ltcache.fit.FitOptions`.

    Raises:
        FitError: it cannot be fitted, or its logits are not finite.
    """
    from ltcache.adjustments import PredictedRows, adapted
    from ltcache.fit import FitOptions, fit_head
    from ltcache.heads import predict_logits

    with warnings.catch_warnings():  # a trial that fits badly is not chosen
        warnings.simplefilter("ignore", UnfittedWarning)
        fitted = fit_head(
            method,
            fold.rows,
            fold.context,
            val=fold.val,
            extra=fold.extra,
            seed=seed,
            options=FitOptions(**options),
        )
    features = fitted.transform(fold.val.features)

    def crops(view: str) -> torch.Tensor:
        there = fold.seen(view)
        return fitted.transform(there.flatten(0, 1)).unflatten(0, there.shape[:2])

    rows = PredictedRows("val", method.feature.eval_view, crops, seed)
    head, _ = adapted(fitted.head, rows)
    logits = predict_logits(head, features)
    found: np.ndarray = logits.reshape(-1, fold.crops, logits.shape[1]).mean(dim=1).numpy()
    if not np.isfinite(found).all():
        raise FitError(f"{method.name}: its logits are not finite")
    return found
