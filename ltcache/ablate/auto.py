"""A method chosen on validation data: the first of a list that the best is not shown to beat."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltcache.ablate.choice import PairedChoice, choose_first
from ltcache.ablate.fold import TuningFold, fit_fold, validation
from ltcache.ablate.resident import resident
from ltcache.ablate.tune import TRIALS, grid_settings
from ltcache.ablate.views import absent_views, view_space
from ltcache.cache import Cache, open_cache
from ltcache.errors import FitError
from ltcache.methods import METHODS, Method, has_setting, method_by_name, override, setting_of_none
from ltcache.records import JsonObject, JsonRecord, one_line

if TYPE_CHECKING:
    from ltcache.fit import ExtraRows, Memo

SHORT_LIST = (
    "logit-adjustment",
    "posthoc-la",
    "lift-lp",
    "crt",
    "gcl+h2t",
    "gda",
    "ce",
    "ncm",
)
"""Methods that ``--method auto`` chooses from, in the order of preference.

Validation data of a long-tailed set hold few rows of rare classes, or none, and cannot tell much
where these matter. What is trained to count all classes alike comes first for that reason, plain
cross entropy late: it looks as good as any where the frequent classes alone are judged.
"""

SEEDS = 3

NO_PROMPTS = "needs class prompts, and the cache has none"


@one_line
@dataclass(frozen=True)
class MethodChoice(JsonRecord):
    """What was chosen, and how sure that is.

    Attributes:
        methods: the choice among the methods; ``methods.regret`` is what it may cost.
        views: the choice among the views of the cache for that method, or None: it has one.
        settings: ``feature.view`` and ``feature.eval_view`` as they were chosen.
        absent: views that would have been tried, had the cache had them.
        tuned_on: which rows. seeds: how many.
        left_out: methods that need class prompts, of which the cache has none.
        failed: candidate -> reason.
    """

    methods: PairedChoice
    views: PairedChoice | None
    settings: Mapping[str, str]
    absent: tuple[str, ...]
    tuned_on: str
    seeds: int
    left_out: tuple[str, ...]
    failed: Mapping[str, str]

    @property
    def method(self) -> str:
        """The name of the method that was chosen."""
        return self.methods.chosen

    def tuning(self) -> JsonObject:
        """Return the record that a run of the chosen method keeps."""
        more = 0 if self.views is None else len(self.views.scores) - 1
        trials = (len(self.methods.scores) + more) * self.seeds
        return {"chosen": {"method": self.method, **self.settings}, "tuned_on": self.tuned_on,
                "trials": trials, "auto": asdict(self)}  # fmt: skip


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
    extra: ExtraRows | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> MethodChoice:
    """Choose a method by mean accuracy per class on validation data; the test split is not read.

    Of the views of the cache, which the method chosen may train and predict on, the cheapest is
    taken that the best is not shown to beat.

    Args:
        cache: a cache or its directory. Without a validation split, a tenth of train chooses.
        methods: the preferred first; None: ``SHORT_LIST``.
        seeds: fits per method.
        overrides: dotted key -> value for every method that has it.
        prompts, device, allow_stale, allow_double_correction, extra: see
            :func:`ltcache.fit.fit_adapter`.
        progress: called with a candidate's name, its number from 1, and the number of candidates.

    Raises:
        UsageError: an unknown method. FitError: none can be fitted.
    """
    from ltcache.fit import needs_texts

    opened, fixed = resident(open_cache(cache)), overrides or {}
    candidates = _candidates(methods, fixed, opened)
    without = prompts is None and not opened.prompt_names
    left_out = [name for name, method in candidates.items() if without and needs_texts(method)]
    fold_of = partial(validation, opened, prompts=prompts, allow_stale=allow_stale, extra=extra)
    options = {"device": device, "allow_double_correction": allow_double_correction}
    memos: list[Memo] = [{} for _ in range(seeds)]
    fits = _SeededFits(fold_of, options, memos, progress)
    fits.add({name: method for name, method in candidates.items() if name not in left_out})
    if not fits.right:
        reasons = [*fits.failed.values(), *(f"{name}: {NO_PROMPTS}" for name in left_out)]
        raise FitError(f"no method could be fitted: {next(iter(reasons), 'none was named')}")
    choice = fits.choice()
    of_views = _SeededFits(fold_of, options, memos, progress)
    tried = _view_settings(opened, candidates[choice.chosen], fixed)
    of_views.add({name: override(candidates[choice.chosen], s) for name, s in tried.items()})
    views = of_views.choice() if of_views.right else None
    return MethodChoice(
        choice, views, {} if views is None else tried[views.chosen], absent_views(opened),
        fits.folds[-1].tuned_on, seeds, tuple(left_out), {**fits.failed, **of_views.failed},
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _SeededFits:
    """Candidates on the same images, each fitted with every seed.

    Args:
        options: of :func:`fit_fold`. memos: one for each seed.
        right: candidate -> which images are right, (n,), the mean over seeds.
        failed: candidate -> why it cannot be fitted. folds: the last one.
    """

    fold_of: Callable[[Method], TuningFold]
    options: Mapping[str, Any]
    memos: Sequence[Memo]
    progress: Callable[[str, int, int], None] | None
    right: dict[str, np.ndarray] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    folds: list[TuningFold] = field(default_factory=list)

    def add(self, candidates: Mapping[str, Method]) -> None:
        """Fit candidates, the preferred first."""
        for number, (name, method) in enumerate(candidates.items(), start=1):
            if self.progress is not None:
                self.progress(name, number, len(candidates))
            try:
                self.right[name] = self._right(method)
            except FitError as error:
                self.failed[name] = str(error)

    def _right(self, method: Method) -> np.ndarray:
        fold = self.fold_of(method)
        labels = fold.images.labels.numpy()
        right = [
            fit_fold(method, fold, seed=seed, memo=memo, **self.options).argmax(axis=1) == labels
            for seed, memo in enumerate(self.memos)
        ]
        self.folds[:] = [fold]
        mean: np.ndarray = np.mean(right, axis=0)
        return mean

    def choice(self) -> PairedChoice:
        """Return the first that the best is not shown to beat."""
        fold = self.folds[-1]
        images, classes = fold.images, fold.context.num_classes
        return choose_first(self.right, images.labels.numpy(), images.units, classes)


def _view_settings(
    cache: Cache, method: Method, fixed: Mapping[str, Any]
) -> dict[str, Mapping[str, str]]:
    """Return name -> settings of the views to try, the cheapest to predict on first."""
    space = {key: views for key, views in view_space(cache, method).items() if key not in fixed}
    if not space:
        return {}

    def cost(settings: Mapping[str, str]) -> tuple[int, int]:
        feature = override(method, settings).feature
        return cache.crops(feature.eval_view), cache.crops(feature.view)

    tried = sorted(grid_settings(space, TRIALS, 0), key=cost)
    return {", ".join(f"{key}={view}" for key, view in s.items()): s for s in tried}


def _candidates(
    names: Sequence[str] | None, overrides: Mapping[str, Any], cache: Cache
) -> dict[str, Method]:
    """Return name -> method with what it has of the overrides, the preferred first."""
    known = [name for name in SHORT_LIST if name in METHODS] if names is None else names
    methods = [method_by_name(name) for name in known]
    for key in overrides:
        if not any(has_setting(method, key) for method in methods):
            raise setting_of_none(methods, key)
    found = {}
    for method in methods:
        taken = {key: value for key, value in overrides.items() if has_setting(method, key)}
        found[method.name] = override(method, taken).on_views(cache.views)
    return found
