"""Hyper-parameters chosen on validation data alone, with an equal number of trials per method."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltcache.ablate.fold import TuningFold, fit_fold, fit_trials, validation
from ltcache.ablate.folds import divide, refuse_extra
from ltcache.ablate.resident import resident
from ltcache.ablate.views import view_space
from ltcache.cache import Cache, open_cache
from ltcache.errors import FitError, LtcacheError, UsageError
from ltcache.extras import how_to_install
from ltcache.methods import Method, known_overrides, method_by_name, override
from ltcache.metrics import evaluate_logits, validation_rank
from ltcache.records import JsonObject, JsonRecord, digest, one_line

if TYPE_CHECKING:
    from ltcache.fit import ExtraRows, Memo

Overrides = Mapping[str, Any]
Grid = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class SearchAxis:
    """One hyper-parameter of the default search space.

    Args:
        key: as in :func:`ltcache.methods.override`.
        values: what is tried. factors: the same as factors on the method's own value.
    """

    key: str
    values: tuple[Any, ...] = ()
    factors: tuple[float, ...] = ()

    def around(self, present: Any) -> tuple[Any, ...]:
        """Return the values to try for a method whose own value is ``present``, which is first."""
        tried = self.values or tuple(float(f"{present * f:.6g}") for f in self.factors)
        return (present, *(value for value in tried if value != present))


SPACE = (
    SearchAxis("optimisation.lr", factors=(1 / 3, 1.0, 3.0)),
    SearchAxis("optimisation.weight_decay", values=(0.0, 0.01, 0.1)),
    # the main hyper-parameter of a loss, fusion, head or adjustment, where the method has one
    SearchAxis("loss.tau", factors=(0.5, 1.0, 1.5)),
    SearchAxis("loss.gamma", factors=(0.5, 1.0, 2.0)),
    SearchAxis("loss.beta", values=(0.99, 0.999, 0.9999)),
    SearchAxis("loss.rho", factors=(0.5, 1.0, 1.5)),
    SearchAxis("loss.max_margin", factors=(0.5, 1.0, 1.5)),
    SearchAxis("loss.p", factors=(0.5, 1.0, 1.5)),
    SearchAxis("loss.lam", factors=(0.5, 1.0, 2.0)),
    SearchAxis("loss.noise_mul", factors=(0.5, 1.0, 2.0)),
    SearchAxis("loss.eps_head", factors=(0.5, 1.0, 1.5)),
    SearchAxis("objective.delta", factors=(0.5, 1.0, 2.0)),
    SearchAxis("objective.tau", factors=(0.5, 1.0, 1.5)),
    SearchAxis("fusion.ratio", values=(0.1, 0.25, 0.4)),
    SearchAxis("head.ratio", values=(0.1, 0.2, 0.5)),
    SearchAxis("head.gamma", factors=(0.5, 1.0, 1.4)),
)
"""The default search space: a method's is what it has of these."""

TRIALS = 9
"""Trials per method unless told; a grid of more combinations is drawn from, by the seed."""

TUNERS = ("grid", "optuna")


@one_line
@dataclass(frozen=True)
class TuningTrial(JsonRecord):
    """What became of one setting.

    Attributes:
        settings: dotted key -> value. scores: of the rows that choose, ``val_mean_per_class`` and
            ``val_nll``; empty where it ``failed``, which is the reason.
    """

    settings: Overrides
    scores: Mapping[str, float] = field(default_factory=dict)
    failed: str | None = None

    def to_dict(self) -> JsonObject:
        """Return plain JSON."""
        failed = {} if self.failed is None else {"failed": self.failed}
        return {"settings": dict(self.settings), **self.scores, **failed}


@one_line
@dataclass(frozen=True)
class Tuning(JsonRecord):
    """What tuning chose, and how.

    Attributes:
        chosen: dotted key -> value. tuned_on: in words, the rows that chose.
        score: mean accuracy per class of the choice on them, as a fraction.
        trials: how many settings were tried. tuner: ``grid`` or ``optuna``. seed: of all of it.
        space: dotted key -> values of the grid, or (lowest, highest) for Optuna.
        tried: every setting, in the order of the search.
        unseen_classes: how many classes have no row among those that chose, and so no part in it;
            None in the record of a version that did not count them.
    """

    chosen: Overrides
    tuned_on: str
    score: float
    trials: int
    tuner: str
    seed: int
    space: dict[str, tuple[Any, ...]]
    tried: tuple[TuningTrial, ...]
    unseen_classes: int | None = None


def tune(
    cache: Cache | str | Path,
    method: Method | str,
    *,
    grid: Grid | None = None,
    tuner: str = "grid",
    trials: int = TRIALS,
    tune_folds: int | None = None,
    seed: int = 0,
    overrides: Overrides | None = None,
    prompts: str | None = None,
    view: str | None = None,
    device: str = "cpu",
    allow_stale: Collection[str] = (),
    allow_double_correction: bool = False,
    progress: Callable[[TuningTrial], None] | None = None,
    memo: Memo | None = None,
    extra: ExtraRows | None = None,
    together: bool = True,
) -> Tuning:
    """Choose hyper-parameters by mean accuracy per class on validation rows (ties: lower NLL).

    Without a validation split a stratified tenth of the training rows chooses. The test split is
    never read. A trial that cannot be fitted counts as a trial and is recorded with its reason.

    Args:
        cache: a cache or its directory. method: a method or its name.
        grid: dotted key -> values; None: what the method has of ``SPACE``, and the views of the
            cache, unless ``view`` or ``overrides`` say which.
        tuner: ``grid``, or ``optuna`` (its TPE sampler, between the smallest and largest values).
        trials: at most so many settings; a larger grid is drawn from, the method's own first.
        tune_folds: K, to choose by K folds of the training rows, each scored by a fit to the
            others, in place of the validation rows: for sets without them, or whose validation
            rows lack classes. K times the fits.
        progress: called with each trial. memo: see :func:`ltcache.fit.fit_head`.
        together: train trials of a grid as one (:func:`ltcache.fit.fit_many`); equal to rounding.
        Others: see :func:`ltcache.fit.fit_adapter`.

    Raises:
        UsageError: an unknown tuner or setting, Optuna is not installed, or extra rows with folds.
        FitError: no trial could be fitted, or there are no rows to choose on.
    """
    cache = resident(open_cache(cache))
    _require_search(tuner, trials)
    method = override(method_by_name(method) if isinstance(method, str) else method, overrides)
    method = method.on_view(view).on_views(cache.views)
    views = view_space(cache, method) if grid is None and view is None else {}
    named = {key: values for key, values in views.items() if key not in (overrides or {})}
    space = search_space(method, grid) | named

    def chosen_on(part: Cache, tried: Method) -> TuningFold:
        return validation(part, tried, prompts, seed, allow_stale, extra)

    folds = _folds_of(cache, tune_folds, memo, extra)
    tuned_on, unseen = _choosing(cache, tune_folds, lambda: chosen_on(cache, method))
    options = {"seed": seed, "device": device, "allow_double_correction": allow_double_correction}
    trial = _FoldTrials(method, folds, chosen_on, options, progress, together)
    {"grid": _search_grid, "optuna": _search_optuna}[tuner](trial, space, trials, seed)
    return replace(trial.chosen(tuned_on, tuner, seed, space), unseen_classes=unseen)


def _choosing(
    cache: Cache, tune_folds: int | None, fold: Callable[[], TuningFold]
) -> tuple[str, int]:
    """Return in words the rows that choose, and how many classes have none of them."""
    if tune_folds is None:
        chosen_on = fold()
        return chosen_on.tuned_on, chosen_on.unseen_classes
    # every training row chooses in its turn
    return f"{tune_folds} folds of train", int((cache.class_counts("train") == 0).sum())


def _require_search(tuner: str, trials: int) -> None:
    if tuner not in TUNERS:
        raise UsageError(f"unknown tuner {tuner!r}; known: {', '.join(TUNERS)}")
    if trials < 1:
        raise UsageError(f"--trials {trials} must be at least 1")


def search_space(method: Method, grid: Grid | None = None) -> dict[str, tuple[Any, ...]]:
    """Return dotted key -> values to try for a method.

    Args:
        grid: takes the place of ``SPACE``.

    Raises:
        UsageError: the grid names a setting that the method does not have.
    """
    if grid is not None:
        return {key: _typed(method, key, values) for key, values in grid.items()}
    known = known_overrides(method)
    return {
        axis.key: axis.around(known[axis.key])
        for axis in SPACE
        if isinstance(known.get(axis.key), (int, float)) and _acts(method, axis.key)
    }


def _typed(method: Method, key: str, values: Sequence[Any]) -> tuple[Any, ...]:
    """Return values as the setting reads them, refusing those that it does not."""
    changed = [known_overrides(override(method, {key: value})) for value in values]
    return tuple(known.get(key, value) for known, value in zip(changed, values, strict=True))


def _acts(method: Method, key: str) -> bool:
    """Whether a key is of a stage that trains, and not one that a stage chooses by itself."""
    trains = any(stage.trains for stage in method.stages)
    return trains and not known_overrides(method).get(f"choose.{key.rpartition('.')[2]}")


@dataclass(frozen=True, eq=False)
class _SharingFold:
    """A cache to train and to choose on, and what all fits to it share."""

    cache: Cache
    memo: Memo


def _folds_of(
    cache: Cache, count: int | None, memo: Memo | None, extra: ExtraRows | None
) -> list[_SharingFold]:
    """Return the folds of the training rows, or the cache itself where they are not divided."""
    if count is None:
        return [_SharingFold(cache, {} if memo is None else memo)]
    refuse_extra(extra)
    parts = divide(cache, count)
    return [_SharingFold(resident(parts.without(fold, "val")), {}) for fold in range(count)]


@dataclass(frozen=True, eq=False)
class _FoldTrials:
    """Trials of one method; a setting may decide which features a trial is fitted to.

    Args:
        folds: that choose together. chosen_on: cache and method with its settings -> its rows.
        options: of :func:`fit_fold`. together: see :func:`tune`.
    """

    method: Method
    folds: Sequence[_SharingFold]
    chosen_on: Callable[[Cache, Method], TuningFold]
    options: Mapping[str, Any]
    progress: Callable[[TuningTrial], None] | None
    together: bool
    tried: list[TuningTrial] = field(default_factory=list)

    def begin(self, every: Sequence[Overrides]) -> None:
        """Train what trials of known settings share a problem for, into the memos of the folds."""
        if not self.together or len(every) < 2:
            return
        for shared in self.folds:
            groups: dict[str, tuple[TuningFold, list[Method]]] = {}  # rows of one trial alone
            for settings in every:
                with suppress(LtcacheError):  # the trial says so itself
                    method = override(self.method, settings)
                    fold = self.chosen_on(shared.cache, method)
                    texts = fold.context.text_features, fold.context.sentences
                    on = [asdict(method.feature), *(value is None for value in texts)]
                    groups.setdefault(digest(on), (fold, []))[1].append(method)
            for fold, methods in groups.values():
                fit_trials(methods, fold, memo=shared.memo, **self.options)

    def run(self, settings: Overrides) -> TuningTrial:
        """Fit with some settings and keep what came of it."""
        try:
            trial = TuningTrial(settings, self._scores(override(self.method, settings)))
        except FitError as error:
            trial = TuningTrial(settings, failed=str(error))
        self.tried.append(trial)
        if self.progress is not None:
            self.progress(trial)
        return trial

    def _scores(self, method: Method) -> dict[str, float]:
        folds = [self.chosen_on(shared.cache, method) for shared in self.folds]
        fitted = [
            fit_fold(method, fold, memo=shared.memo, **self.options)
            for fold, shared in zip(folds, self.folds, strict=True)
        ]
        logits = np.concatenate(fitted)
        labels = np.concatenate([fold.images.labels.numpy() for fold in folds])
        counts = folds[0].context.class_counts.numpy()
        found = evaluate_logits(logits, labels, counts, bootstrap=0)
        return {"val_mean_per_class": found.mean_per_class, "val_nll": found.nll}

    def chosen(self, tuned_on: str, tuner: str, seed: int, space: Grid) -> Tuning:
        """Return the choice of the best trial; of equal ones the first."""
        fitted = [trial for trial in self.tried if trial.failed is None]
        if not fitted:
            raise FitError(f"no trial of {self.method.name} can be fitted: {self.tried[0].failed}")
        best, tried = max(fitted, key=lambda t: validation_rank(t.scores)), tuple(self.tried)
        score, axes = best.scores["val_mean_per_class"], {k: tuple(v) for k, v in space.items()}
        return Tuning(best.settings, tuned_on, score, len(tried), tuner, seed, axes, tried)


def _search_grid(trials: _FoldTrials, space: Grid, budget: int, seed: int) -> None:
    every = grid_settings(space, budget, seed)
    trials.begin(every)
    for settings in every:
        trials.run(settings)


def grid_settings(space: Grid, budget: int, seed: int) -> list[Overrides]:
    """Return at most ``budget`` combinations: the first of all, and a draw of the others."""
    every: list[Overrides] = [
        dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())
    ]
    if len(every) <= budget:
        return every
    drawn = random.Random(seed).sample(range(1, len(every)), budget - 1)
    return [every[0], *(every[number] for number in sorted(drawn))]


def _search_optuna(trials: _FoldTrials, space: Grid, budget: int, seed: int) -> None:
    try:
        import optuna
    except ImportError:
        raise UsageError(
            f"--tuner optuna needs Optuna, which is not installed: {how_to_install('tune')}, or "
            "leave --tuner out"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial({key: values[0] for key, values in space.items()})
    for _ in range(budget if space else 1):
        trial = study.ask()
        found = trials.run({key: _suggest(trial, key, values) for key, values in space.items()})
        if found.failed is not None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, found.scores["val_mean_per_class"])


def _suggest(trial: Any, key: str, values: Sequence[Any]) -> Any:
    """Let a trial draw between the smallest and the largest value, or one of them for texts."""
    numbers = [value for value in map(_number, values) if value is not None]
    if len(numbers) < len(values) or len(set(numbers)) < 2:
        return trial.suggest_categorical(key, list(values))
    low, high = min(numbers), max(numbers)
    if all(isinstance(value, int) for value in values):
        return trial.suggest_int(key, low, high)
    return trial.suggest_float(key, low, high, log=low > 0 and high / low >= 5)


def _number(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) and not isinstance(value, bool) else None
