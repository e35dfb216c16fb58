"""``--method auto``: the first that the best is not shown to beat, on the same rows."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from ltcache.ablate import choose_method
from ltcache.ablate.auto import SHORT_LIST
from ltcache.ablate.choice import choose_first
from ltcache.cli.fit_adapter import choice_lines, paired_lines
from ltcache.errors import FitError, UsageError
from ltcache.metrics import paired_bootstrap
from tests.fakes import FakeCache, extra_of, long_tail_counts

COUNTS = long_tail_counts(8, 120, 6)
SHORT = {"optimisation.epochs": 3}
LABELS = np.repeat(np.arange(6), 30)


def _cache(**options: Any) -> Any:
    return FakeCache(COUNTS, unit=4, noise=0.8, **options)


def _half_right() -> np.ndarray:
    """Return which of the rows of ``LABELS`` are right where 15 of each 30 are."""
    return np.tile(np.arange(30) < 15, 6).astype(float)


def test_an_earlier_method_that_the_best_beats_row_by_row_is_not_kept() -> None:
    simple, best = _half_right(), np.tile(np.arange(30) < 16, 6).astype(float)
    spread = np.sqrt(0.25 / len(LABELS))
    gain = best.mean() - simple.mean()
    assert 0 < gain < spread  # within one standard error of the best, and yet never better
    found = choose_first({"simple": simple, "best": best}, LABELS, None, 6)
    assert found.chosen == found.best == "best"
    assert (
        found.beaten == {"simple": paired_bootstrap(simple, best, LABELS, groups=np.full(6, "-"))}
        and found.beaten["simple"].low > 0
    )
    lines = paired_lines(found, "rows")
    assert lines[0] == "rows: simple 50.0, best 53.3"
    assert "paired bootstrap over 180 units" in lines[1]
    assert lines[2].startswith("  simple 3.3 (") and lines[2].endswith("), without zero")
    assert lines[3] == "chose best: it beats all before it"


def test_an_earlier_method_that_errs_on_other_rows_is_kept() -> None:
    best = np.roll(_half_right(), 10)
    best[:3] = 1
    found = choose_first({"simple": _half_right(), "best": best}, LABELS, None, 6)
    assert (found.chosen, found.best) == ("simple", "best")
    assert found.regret.low <= 0 < found.regret.difference < found.regret.high
    lines = paired_lines(found, "rows")
    assert lines[2].startswith("  simple 1.7 (-") and lines[2].endswith("), with zero")
    assert lines[3] == "chose simple: the first that best is not shown to beat"


def test_units_are_drawn_and_of_equal_methods_the_first_is_taken() -> None:
    units = np.arange(len(LABELS)) // 15
    simple, best = _half_right(), np.roll(_half_right(), 2)
    best[15:25] = 1
    assert choose_first({"a": simple, "b": best}, LABELS, units, 6).regret.units == 12
    same = choose_first({"a": simple, "b": simple}, LABELS, None, 6)
    assert same.chosen == same.best == "a" and same.beaten == {}
    assert paired_lines(same, "rows")[1] == "chose a: the best, and the first of the list"


def test_auto_compares_the_methods_on_validation_rows() -> None:
    cache = _cache()
    choice = choose_method(cache, ["ncm", "ce", "logit-adjustment"], overrides=SHORT, seeds=2)
    found = choice.methods
    assert choice.tuned_on == "val" and found.regret.units == 40
    near = [name for name, paired in found.differences.items() if paired.low <= 0]
    assert choice.method == near[0] and found.scores[found.best] == max(found.scores.values())
    for name, paired in found.differences.items():
        assert paired.difference == pytest.approx(found.scores[found.best] - found.scores[name])
    order = list(reversed(found.scores))
    other = choose_method(cache, order, overrides=SHORT, seeds=2)
    assert other.methods.best == found.best
    assert other.method == next(name for name in order if name in near)
    assert choice.tuning()["auto"]["methods"]["chosen"] == choice.method


def test_auto_without_a_validation_split_and_with_what_cannot_be_fitted() -> None:
    cache = FakeCache(COUNTS, splits=("test",))
    choice = choose_method(cache, ["ce", "logit-adjustment"], overrides={**SHORT, "loss.tau": 0.5},
                           seeds=1)  # fmt: skip
    assert choice.tuned_on == "a stratified 10% of train"
    cache.prompt_names = ()
    with_texts = choose_method(cache, ["zero-shot", "ce"], overrides=SHORT, seeds=1)
    assert with_texts.method == "ce" and with_texts.left_out == ("zero-shot",)
    failing = {**SHORT, "init": "previous"}
    assert "ce" in choose_method(cache, ["ce", "ncm"], overrides=failing, seeds=1).failed
    with pytest.raises(UsageError, match="no method has a setting 'los.tau'"):
        choose_method(cache, ["ce"], overrides={"los.tau": 1})


def test_classes_without_a_validation_row_are_counted() -> None:
    cache: Any = FakeCache(np.array([60, 20, 1, 1]), splits=("test",))
    choice = choose_method(cache, ["ncm"], seeds=1)
    assert choice.methods.unseen_classes == 2  # their only row stays with training
    assert "no part in that: 2 classes without a row there" in choice_lines(choice)


def test_the_list_prefers_what_counts_all_classes_alike() -> None:
    order = [SHORT_LIST.index(name) for name in ("logit-adjustment", "posthoc-la", "crt", "ce")]
    assert order == sorted(order) and order[0] == 0


def test_an_image_only_cache_is_chosen_on_by_every_method_of_the_list() -> None:
    cache: Any = FakeCache(COUNTS, noise=0.8, image_only=True)
    choice = choose_method(cache, overrides=SHORT, seeds=1)
    assert set(choice.methods.scores) == set(SHORT_LIST) and not choice.failed
    asked = choose_method(cache, ["ncm", "zero-shot", "tip-adapter"], seeds=1)
    assert asked.left_out == ("zero-shot", "tip-adapter") and set(asked.methods.scores) == {"ncm"}
    lines = choice_lines(asked)
    assert "left out: zero-shot: needs class prompts, and the cache has none" in lines
    assert not any("no part in that" in line for line in lines)
    with pytest.raises(FitError, match="zero-shot: needs class prompts"):
        choose_method(cache, ["zero-shot"])


def test_views_are_chosen_for_the_method_and_the_missing_ones_named() -> None:
    cache: Any = FakeCache(COUNTS, noise=0.8, views={"five": 0.0, "rrc:4": 0.0})
    choice = choose_method(cache, ["ncm"], seeds=2)
    assert choice.views is not None and len(choice.views.scores) == 6
    # four crops that equal the center say nothing more, so that the cheapest is kept
    assert choice.settings == {"feature.view": "center", "feature.eval_view": "center"}
    assert choice.tuning()["chosen"] == {"method": "ncm", **choice.settings}
    assert choice.tuning()["trials"] == (1 + 5) * 2 and choice.absent == ()
    assert any(line.startswith("ncm on other views, mean") for line in choice_lines(choice))
    fixed = {"feature.view": "rrc:4"}
    narrow = choose_method(cache, ["ncm"], overrides=fixed, seeds=1)
    assert set(narrow.settings) == {"feature.eval_view"}
    plain = choose_method(_cache(), ["ncm"], seeds=1)
    assert plain.views is None and plain.settings == {} and plain.absent == ("five", "rrc:4")
    assert "--views five,rrc:4 adds them" in choice_lines(plain)[-1]


def test_a_view_that_is_shown_to_be_better_is_taken() -> None:
    cache: Any = FakeCache(COUNTS, noise=2.5, views={"five": 0.0})
    clean = FakeCache(COUNTS, noise=0.2)
    for name in clean.field_dims():
        cache._crops["five", name] = np.repeat(clean._features[name], 4, axis=1)
    choice = choose_method(cache, ["ncm"], seeds=1)
    assert choice.settings["feature.eval_view"] == "five"


def test_extra_rows_take_part_in_the_choice() -> None:
    cache: Any = FakeCache(COUNTS, noise=2.5)
    plain = choose_method(cache, ["ncm"], seeds=1)
    more = choose_method(cache, ["ncm"], seeds=1, extra=extra_of(cache))
    assert plain.methods.scores != more.methods.scores


def test_a_candidate_whose_logits_are_no_numbers_has_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heads = importlib.import_module("ltcache.heads")
    predict = heads.predict_logits
    monkeypatch.setattr(heads, "predict_logits", lambda *given: predict(*given) * np.nan)
    with pytest.raises(FitError, match="ce: its logits are not finite"):
        choose_method(_cache(), ["ce"], seeds=1, overrides=SHORT)
