"""From a cache to a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltcache.cache import (
    Cache,
    PromptEmbeddings,
    check_prompts,
    open_cache,
    warn_of_shared,
)
from ltcache.errors import FitError
from ltcache.fit.cached_rows import composite_view, training_rows, val_rows
from ltcache.fit.class_texts import keeps_texts, needs_texts, takes_texts
from ltcache.fit.extra import ExtraRows
from ltcache.fit.head import FitOptions, FittedHead, Memo, fit_head
from ltcache.fit.rows import require_classes
from ltcache.fit.task import Progress
from ltcache.heads import HeadContext
from ltcache.methods import Method, method_by_name, override
from ltcache.metrics import Metrics
from ltcache.records import JsonObject, one_line, require_equal, require_local, write_json
from ltcache.runs import (
    SCORED,
    Run,
    RunCost,
    RunRecord,
    finish_run,
    require_views,
    token_map,
)


def fit_adapter(
    cache: Cache | str | Path,
    method: Method | str,
    out: str | Path | None = None,
    *,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    prompts: str | None = None,
    view: str | None = None,
    allow_stale: Collection[str] = (),
    allow_double_correction: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
    memo: Memo | None = None,
    tuning: Mapping[str, Any] | None = None,
    extra: ExtraRows | None = None,
) -> Run:
    """Fit a method on the training split of a cache and score it on ``val`` and ``test``.

    Args:
        cache: a cache or its directory.
        method: a method or its name.
        out: directory of the run; None: it is not written.
        seed: of everything random.
        overrides: dotted key -> value, see :func:`ltcache.methods.override`.
        prompts: name of the class texts, for heads that use them; None: the default set.
        view: crops to train and predict on; None: as the method says.
        allow_stale: identity fields in which the class texts may differ from the cache.
        allow_double_correction: see :class:`ltcache.fit.FitOptions`.
        overwrite: replace a run of other content.
        device: ``cpu``, ``cuda`` or ``auto``.
        progress: called with each epoch's record.
        memo: see :class:`ltcache.fit.FitOptions`.
        tuning: how settings in ``overrides`` were chosen, for the record: ``chosen`` (dotted key ->
            value), ``tuned_on`` and whatever else is to be kept.
        extra: rows that train beside the training split, such as retrieved images.

    Raises:
        UsageError: unknown method or setting, or ``out`` is taken. FitError: cannot be fitted.

    Example:
        >>> run = fit_adapter("cache", "logit-adjustment", "runs/la", overrides={"loss.tau": 1.0})
        >>> sorted(run.metrics), run.record.tuned_on["epoch"]
        (['test', 'val'], 'val')
    """
    if out is not None:
        require_local(out)
    cache = open_cache(cache)
    method = method_by_name(method) if isinstance(method, str) else method
    method = override(method, overrides)
    method = method.on_view(view).on_views(cache.views)
    require_views(method, cache)
    dims = cache.field_dims(method.feature.view)
    field = method.feature.resolve(dims, needs_texts(method))
    context, text_set = make_context(cache, method, field, prompts)
    stale = () if text_set is None else tuple(check_prompts(cache, text_set, allow_stale))
    warn_of_shared(cache, "train", *SCORED)  # before the features take their room
    rows, crops = training_rows(cache, field, method), cache.crops(method.feature.view)
    labelled = context.class_counts
    if extra is not None:
        stale += require_same(cache, extra, allow_stale)
        context = extra.counted_in(context)
    require_classes(context.class_counts, cache.classes.names)
    fitted = fit_head(
        method,
        rows,
        context,
        val=val_rows(cache, field, method),
        extra=None if extra is None else extra.rows(field, crops),
        seed=seed,
        options=FitOptions(
            device=_device(device),
            progress=progress,
            allow_double_correction=allow_double_correction,
            memo=memo,
        ),
    )
    composites = composite_view(method)
    crops += 0 if composites is None else cache.crops(composites)
    record = RunRecord.on_cache(
        cache,
        method.feature,
        text_set if "text" in fitted.init or keeps_texts(method) else None,
        seed=seed,
        field=field,
        dim=context.dim,
        class_counts=tuple(labelled.tolist()),
        effective_counts=None if extra is None else tuple(context.class_counts.tolist()),
        extra=None if extra is None else extra.to_dict(),
        tuning=None if tuning is None else dict(tuning),
        tuned_on=_tuned_on(fitted, tuning),
        choices=tuple(fitted.choices),
        init=tuple(fitted.init),
        residual_prior=fitted.residual_prior,
        stale=stale,
        training=None if fitted.training is None else fitted.training.to_dict(),
        composites=None if composites is None else cache.identities(composites)["view"],
        cost=RunCost.of(cache, crops, fitted.seconds),
    )
    run = Run(
        method,
        fitted.head,
        fitted.transform,
        record,
        fitted.history,
        class_names=tuple(cache.classes.names),
        rest=cache.rest() if field == "tokens" else {},
    )
    return finish_run(run, cache, out, overwrite=overwrite, stale=stale)


@one_line
@dataclass(frozen=True, eq=False)
class SeedRuns:
    """Runs that differ only in the seed.

    Attributes:
        runs: in the order of the seeds.
        summary: split -> score -> mean, sd (of single runs, n - 1) and the values.
    """

    runs: tuple[Run, ...]
    summary: dict[str, JsonObject]


def fit_seeds(
    cache: Cache | str | Path,
    method: Method | str,
    out: str | Path | None = None,
    *,
    seeds: Sequence[int],
    **options: Any,
) -> SeedRuns:
    """Fit once per seed into ``out/seed-N`` and write ``out/summary.json``.

    Args:
        seeds: at least one, all different. options: of :func:`fit_adapter`.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise FitError(f"seeds must be different and at least one, not {list(seeds)}")
    if out is not None:
        require_local(out)
    cache = open_cache(cache)
    runs = tuple(
        fit_adapter(
            cache, method, None if out is None else Path(out) / f"seed-{seed}", seed=seed, **options
        )
        for seed in seeds
    )
    summary = {
        split: summarise_seeds([run.metrics[split] for run in runs]) for split in runs[0].metrics
    }
    if out is not None:
        record = {"method": runs[0].method.name, "seeds": list(seeds), "splits": summary}
        write_json(Path(out) / "summary.json", record)
    return SeedRuns(runs, summary)


def summarise_seeds(metrics: Sequence[Metrics]) -> JsonObject:
    """Return score -> {mean, sd, values} over runs; None for a group without rows."""
    result: JsonObject = {}
    for name, value in metrics[0].to_dict().items():
        if not (isinstance(value, float) or value is None):
            continue
        values = [getattr(m, name) for m in metrics]
        if None in values:
            result[name] = None
            continue
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
        result[name] = {"mean": float(np.mean(values)), "sd": sd, "values": values}
    return result


def make_context(
    cache: Cache, method: Method, field: str, prompts: str | None
) -> tuple[HeadContext, Any]:
    """Return what heads are built from, and the class texts if the method may use them."""
    there = prompts is not None or bool(cache.prompt_names)
    text_set = cache.prompts(prompts) if takes_texts(method) and there else None
    pooled = field == "pooled" and cache.projection is not None
    context = HeadContext(
        dim=cache.field_dims(method.feature.view)[field],
        num_classes=len(cache.classes),
        class_counts=torch.from_numpy(np.asarray(cache.class_counts("train"))),
        text_features=None if text_set is None else torch.from_numpy(text_set.mean),
        projection=torch.from_numpy(cache.projection) if pooled else None,
        logit_scale=cache.logit_scale,
        tokens=token_map(cache.encoder, cache.rest()) if field == "tokens" else None,
        sentences=_sentences(method, text_set),
    )
    return context, text_set


def _sentences(method: Method, texts: PromptEmbeddings | None) -> torch.Tensor | None:
    """Return every sentence of each class, (C, M, D), where a head of the method asks for them."""
    kinds = [stage.head_kind() for stage in method.stages]
    if texts is None or not any(kind is not None and kind.reads_sentences for kind in kinds):
        return None
    return torch.from_numpy(np.asarray(texts.sentences, dtype=np.float32))


def _tuned_on(fitted: FittedHead, tuning: Mapping[str, Any] | None) -> dict[str, str]:
    """Return what was chosen -> the rows that chose it, in words."""
    names = {name for choice in fitted.choices for name in choice} - {"residual"}
    found = dict.fromkeys(sorted(names) or ["epoch"], fitted.tuned_on)
    searched = {} if tuning is None else dict.fromkeys(tuning["chosen"], tuning["tuned_on"])
    return found | searched


def require_same(cache: Cache, extra: ExtraRows, allow_stale: Collection[str]) -> tuple[str, ...]:
    """Refuse extra rows of another encoder, of other classes, or kept apart from other images."""
    expected = cache.identities("center")
    remedy = "retrieve again, from a pool that the cache's own encoder has extracted"
    stale: list[str] = []
    for kind in ("encoder", "classes"):
        found = extra.identities.get(kind)
        stale += require_equal(kind, expected[kind], found, allow_stale=allow_stale, remedy=remedy)
    if "rows" in extra.identities and cache.changed_rows is None:  # not a part for folds
        stale += require_equal(
            "rows",
            cache.list_identity()["rows"],
            extra.identities["rows"],
            allow_stale=allow_stale,
            remedy=f"{cache.path} holds other images, or in other splits, than the retrieval's "
            "guards saw, so that copies of its test images may be among the extra ones: retrieve "
            "again with this cache, or pass --allow-stale rows",
        )
    return tuple(stale)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
