"""A method chosen on validation data: the simplest that the best is not shown to beat."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltcache.ablate.choice import PairedChoice, choose_simplest
from ltcache.ablate.resident import resident
from ltcache.ablate.tune import fit_fold, has_setting, nearest_setting, validation
from ltcache.cache import Cache, open_cache
from ltcache.errors import FitError, UsageError
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

NO_PROMPTS = "needs class prompts, and the cache has none"


@one_line
@dataclass(frozen=True)
class MethodChoice(JsonRecord):
    """What was chosen, and how sure that is.

    Attributes:
        methods: the choice among the methods; ``methods.regret`` is what it may cost.
        tuned_on: which rows. seeds: how many.
        left_out: methods that need class prompts, of which the cache has none.
        failed: method -> reason.
    """

    methods: PairedChoice
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
        trials = len(self.methods.scores) * self.seeds
        return {"chosen": {"method": self.method}, "tuned_on": self.tuned_on, "trials": trials,
                "auto": self.to_dict()}  # fmt: skip


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
    from ltcache.fit import needs_texts
    from ltcache.methods import METHODS, method_by_name, override

    opened = resident(open_cache(cache))
    names = [name for name in SHORT_LIST if name in METHODS] if methods is None else list(methods)
    chosen_from = [method_by_name(name) for name in names]
    _require_settings(chosen_from, overrides or {})
    right: dict[str, np.ndarray] = {}
    failed: dict[str, str] = {}
    left_out: list[str] = []
    fold = None
    memos: list[Memo] = [{} for _ in range(seeds)]
    for number, method in enumerate(chosen_from, start=1):
        if progress is not None:
            progress(method.name, number, len(chosen_from))
        taken = {k: v for k, v in (overrides or {}).items() if has_setting(method, k)}
        try:
            changed = override(method, taken)
            if needs_texts(changed) and prompts is None and not opened.prompt_names:
                left_out.append(method.name)
                continue
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
        without = f"{', '.join(left_out)}: {NO_PROMPTS}" if left_out else "none was named"
        raise FitError(f"no method could be fitted: {next(iter(failed.values()), without)}")
    labels, units = fold.val.labels.numpy(), fold.val.units
    methods_choice = choose_simplest(right, labels, units, fold.context.num_classes)
    return MethodChoice(methods_choice, fold.tuned_on, seeds, tuple(left_out), failed)


def _right(fitted: Any, fold: Any) -> np.ndarray:
    from ltcache.heads import predict_logits

    logits = predict_logits(fitted.head, fitted.transform(fold.val.features))
    return np.asarray((logits.argmax(dim=1) == fold.val.labels).numpy(), dtype=np.float64)


def _require_settings(methods: Sequence[Method], overrides: Mapping[str, Any]) -> None:
    for key in overrides:
        if not any(has_setting(method, key) for method in methods):
            raise UsageError(f"no method has a setting {key!r}; {nearest_setting(methods, key)}")
