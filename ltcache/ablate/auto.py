"""A method chosen on validation data: the simplest within one standard error of the best."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltcache.ablate.resident import resident
from ltcache.ablate.tune import fit_fold, has_setting, nearest_setting, validation
from ltcache.cache import Cache, open_cache
from ltcache.errors import FitError, UsageError
from ltcache.metrics import UnitSums, percentile_interval, summaries
from ltcache.records import JsonObject, JsonRecord, one_line

if TYPE_CHECKING:
    from ltcache.fit import Memo
    from ltcache.methods import Method

SHORT_LIST = (
    "ncm",
    "ce",
    "posthoc-la",
    "crt",
    "logit-adjustment",
    "balanced-softmax",
    "lift-lp",
    "gda",
)
"""Methods that ``--method auto`` chooses from, the simplest and cheapest first."""

SEEDS = 3
RESAMPLES = 2000


@one_line
@dataclass(frozen=True)
class MethodChoice(JsonRecord):
    """What was chosen, and how sure that is.

    Attributes:
        method: the simplest within one standard error of ``best``.
        best: the highest mean accuracy per class. standard_error: of it, by bootstrap over units.
        scores: method -> mean accuracy per class, mean over seeds, in the order of simplicity.
        regret: what the choice costs against the best of the list on the same rows; low, high: its
            95 % interval, by bootstrap over units (the best is looked for in every resample).
        tuned_on: which rows. seeds, units: how many. failed: method -> reason.
    """

    method: str
    best: str
    standard_error: float
    scores: Mapping[str, float]
    regret: float
    low: float
    high: float
    tuned_on: str
    seeds: int
    units: int
    failed: Mapping[str, str]

    def tuning(self) -> JsonObject:
        """Return the record that a run of the chosen method keeps."""
        return {"chosen": {"method": self.method}, "tuned_on": self.tuned_on,
                "trials": len(self.scores) * self.seeds, "auto": self.to_dict()}  # fmt: skip


def choose_method(
    cache: Cache | str | Path,
    methods: Sequence[str] | None = None,
    *,
    seeds: int = SEEDS,
    overrides: Mapping[str, Any] | None = None,
    prompts: str | None = None,
    device: str = "cpu",
    allow_stale: Collection[str] = (),
    allow_double_correction: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> MethodChoice:
    """Choose a method by mean accuracy per class on validation data; the test split is not read.

    Args:
        cache: a cache or its directory. Without a validation split, a tenth of train chooses.
        methods: the simplest first; None: ``SHORT_LIST``.
        seeds: fits per method.
        overrides: dotted key -> value for every method that has it.
        prompts, device, allow_stale, allow_double_correction: see
            :func:`ltcache.fit.fit_adapter`.
        progress: called with the method's name, its number from 1, and the number of methods.

    Raises:
        UsageError: an unknown method. FitError: none can be fitted.
    """
    from ltcache.methods import METHODS, method_by_name, override

    opened = resident(open_cache(cache))
    names = [name for name in SHORT_LIST if name in METHODS] if methods is None else list(methods)
    chosen_from = [method_by_name(name) for name in names]
    _require_settings(chosen_from, overrides or {})
    right: dict[str, np.ndarray] = {}
    failed: dict[str, str] = {}
    fold = None
    memos: list[Memo] = [{} for _ in range(seeds)]
    for number, method in enumerate(chosen_from, start=1):
        if progress is not None:
            progress(method.name, number, len(chosen_from))
        taken = {k: v for k, v in (overrides or {}).items() if has_setting(method, k)}
        try:
            changed = override(method, taken)
            own = validation(opened, changed, prompts, 0, allow_stale)
            runs = [
                fit_fold(changed, own, seed=seed, device=device, memo=memo,
                         allow_double_correction=allow_double_correction)[0]
                for seed, memo in enumerate(memos)
            ]  # fmt: skip
        except FitError as error:
            failed[method.name] = str(error)
            continue
        fold = own
        right[method.name] = np.mean([_right(fitted, own) for fitted in runs], axis=0)
    if fold is None:
        raise FitError(
            f"no method could be fitted: {next(iter(failed.values()), 'none was named')}"
        )
    labels, units = fold.val.labels.numpy(), fold.val.units
    return _choice(right, labels, units, fold.context.num_classes, fold.tuned_on, seeds, failed)


def _right(fitted: Any, fold: Any) -> np.ndarray:
    from ltcache.heads import predict_logits

    logits = predict_logits(fitted.head, fitted.transform(fold.val.features))
    return np.asarray((logits.argmax(dim=1) == fold.val.labels).numpy(), dtype=np.float64)


def _choice(
    right: Mapping[str, np.ndarray],
    labels: np.ndarray,
    units: np.ndarray | None,
    classes: int,
    tuned_on: str,
    seeds: int,
    failed: Mapping[str, str],
) -> MethodChoice:
    """Apply the one-standard-error rule; ``right`` is in the order of simplicity."""
    names = list(right)
    gathered = UnitSums.gather(np.stack(list(right.values()), axis=1), labels, units, classes)
    points = _means(gathered.totals())  # (M,)
    draws = _means(gathered.resample(RESAMPLES, 0))  # (B, M)
    best = int(points.argmax())
    error = float(draws[:, best].std(ddof=1))
    chosen = next(k for k in range(len(names)) if points[k] >= points[best] - error)
    low, high = percentile_interval(draws.max(axis=1) - draws[:, chosen])
    return MethodChoice(
        method=names[chosen],
        best=names[best],
        standard_error=error,
        scores={name: float(point) for name, point in zip(names, points, strict=True)},
        regret=float(points[best] - points[chosen]),
        low=low,
        high=high,
        tuned_on=tuned_on,
        seeds=seeds,
        units=len(gathered.label),
        failed=dict(failed),
    )


def _means(sums: np.ndarray) -> np.ndarray:
    """Return mean accuracy per class of each method, (..., M), from sums (..., M + 1, C)."""
    groups = np.full(sums.shape[-1], "-")
    rows = sums[..., -1:, :]
    found = [
        summaries(sums[..., k, :], rows[..., 0, :], groups)["mean_per_class"]
        for k in range(sums.shape[-2] - 1)
    ]
    return np.stack([np.asarray(values) for values in found], axis=-1)


def _require_settings(methods: Sequence[Method], overrides: Mapping[str, Any]) -> None:
    for key in overrides:
        if not any(has_setting(method, key) for method in methods):
            raise UsageError(f"no method has a setting {key!r}; {nearest_setting(methods, key)}")
