"""Tuning: on validation rows alone, equal budgets, both tuners, clear errors."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ltcache.ablate.fold import validation
from ltcache.ablate.plan import settings_of
from ltcache.ablate.tune import SPACE, TRIALS, grid_settings, search_space, tune
from ltcache.errors import CacheError, FitError, UsageError
from ltcache.fit import fit_adapter
from ltcache.methods import METHODS, known_overrides, override
from tests.cli.small_caches import write_cache
from tests.fakes import FakeCache, extra_of, long_tail_counts

COUNTS = long_tail_counts(6, 80, 6)
SHORT = {"optimisation.epochs": 2}


SEVERAL = {"rrc:4": 0.2, "five": 0.05}


def _cache(**options: Any) -> Any:
    return FakeCache(COUNTS, noise=0.8, **options)


def test_the_best_on_validation_data_is_chosen() -> None:
    cache = _cache()
    grid = {"optimisation.lr": [1e-6, 1e-2], "loss.tau": [0.0, 1.0]}
    found = tune(cache, "logit-adjustment", grid=grid, overrides=SHORT, seed=1)
    scores = {}
    for trial in found.tried:
        run = fit_adapter(cache, "logit-adjustment", seed=1, overrides={**SHORT, **trial.settings})
        scores[tuple(trial.settings.values())] = run.metrics["val"].mean_per_class
        assert trial.scores["val_mean_per_class"] == pytest.approx(
            run.metrics["val"].mean_per_class
        )
        assert trial.scores["val_nll"] == pytest.approx(run.metrics["val"].nll, rel=1e-5)
    assert (
        scores[tuple(found.chosen.values())] == max(scores.values()) == pytest.approx(found.score)
    )
    assert found.chosen["optimisation.lr"] == 1e-2 and found.tuned_on == "val"
    assert found.trials == 4 and found.space == {k: tuple(v) for k, v in grid.items()}


@pytest.mark.parametrize("tuner", ["grid", "optuna"])
def test_no_test_row_is_read(tuner: str) -> None:
    cache = _cache()
    reads: list[str] = []
    features, labels = cache.features, cache.labels
    cache.features = lambda split, *a, **k: reads.append(split) or features(split, *a, **k)
    cache.labels = lambda split=None: reads.append(split) or labels(split)
    tune(cache, "ce", overrides=SHORT, trials=2, tuner=tuner)
    assert set(reads) == {"train", "val"}


def test_without_a_validation_split_a_slice_of_train_chooses() -> None:
    found = tune(_cache(splits=("test",)), "ce", overrides=SHORT, trials=2)
    assert found.tuned_on == "a stratified 10% of train"
    few = FakeCache(np.full(4, 3), splits=("test",))
    with pytest.raises(FitError, match="nothing to choose on"):
        tune(few, "ce", overrides=SHORT)  # type: ignore[arg-type]


def test_classes_that_have_no_row_among_those_that_choose_are_counted(tmp_path: Path) -> None:
    rare = write_cache(tmp_path / "cache", {"train": (40, 20, 2, 1), "test": (4, 4, 4, 4)})
    assert tune(rare, "ce", overrides=SHORT, trials=1).unseen_classes == 2
    assert tune(rare, "ce", overrides=SHORT, trials=1, tune_folds=2).unseen_classes == 0
    assert tune(_cache(), "ce", overrides=SHORT, trials=1).unseen_classes == 0


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_methods_space_is_its_own_and_begins_with_its_defaults(name: str) -> None:
    method = override(METHODS[name], None)
    space = search_space(method)
    known = known_overrides(method)
    settings = grid_settings(space, TRIALS, seed=0)
    assert settings[0] == {key: known[key] for key in space}
    assert len(settings) == (TRIALS if space else 1)  # an equal budget for all that train
    assert len({tuple(s.values()) for s in settings}) == len(settings)
    for setting in settings:
        override(method, setting)


def test_the_default_space_has_each_key_once_and_only_keys_that_a_method_has() -> None:
    keys = [axis.key for axis in SPACE]
    assert len(set(keys)) == len(keys)
    known = {key for method in METHODS.values() for key in known_overrides(method)}
    assert set(keys) <= known


def test_optuna_draws_between_the_ends_from_a_seed_and_begins_with_the_default() -> None:
    grid = {"optimisation.lr": ["1e-3", "1e-2"], "sampler": ["instance", "class_aware"]}
    options: dict[str, Any] = {"grid": grid, "overrides": SHORT, "trials": 5, "tuner": "optuna"}
    one, two = (tune(_cache(), "ce", **options) for _ in range(2))
    assert one.tried == two.tried and one.trials == 5 and one.tuner == "optuna"
    assert one.tried[0].settings == {"optimisation.lr": 1e-3, "sampler": "instance"}
    lrs = [trial.settings["optimisation.lr"] for trial in one.tried]
    assert all(1e-3 <= lr <= 1e-2 for lr in lrs) and len(set(lrs)) > 2


def test_a_missing_optuna_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"pip install '\.\[tune\]'"):
        tune(_cache(), "ce", tuner="optuna", overrides=SHORT)


@pytest.mark.parametrize("tuner", ["grid", "optuna"])
def test_a_trial_that_cannot_be_fitted_is_recorded_and_not_chosen(tuner: str) -> None:
    grid = {"init": ["previous", "class_mean"]}
    found = tune(_cache(), "ce", grid=grid, trials=5, tuner=tuner, overrides=SHORT)
    assert "needs a stage before it" in str(found.tried[0].failed)
    assert found.chosen == {"init": "class_mean"}
    with pytest.raises(FitError, match="no trial of ce can be fitted: init=previous"):
        tune(_cache(), "ce", grid={"init": ["previous"]}, tuner=tuner, overrides=SHORT)


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(UsageError, match="no setting 'loss.tau'"):
        tune(_cache(), "ce", grid={"loss.tau": [1]})
    with pytest.raises(UsageError, match="unknown tuner 'guess'; known: grid, optuna"):
        tune(_cache(), "ce", tuner="guess")
    with pytest.raises(UsageError, match="--trials 0"):
        tune(_cache(), "ce", trials=0)


def test_the_views_of_a_cache_are_tried_and_judged_by_the_mean_over_crops() -> None:
    cache = _cache(views=SEVERAL)
    found = tune(cache, "ncm", trials=20)
    assert found.space == {
        "feature.view": ("center", "rrc:4", "five"), "feature.eval_view": ("center", "five")
    }  # fmt: skip
    assert found.trials == 6  # random crops are not predicted on
    for trial in found.tried:
        run = fit_adapter(cache, "ncm", overrides=trial.settings)
        assert trial.scores["val_mean_per_class"] == run.metrics["val"].mean_per_class
    assert len({trial.scores["val_nll"] for trial in found.tried}) == 6
    assert tune(cache, "ncm", trials=2).trials == 2
    assert tune(cache, "ncm", view="five").space == tune(_cache(), "ncm").space == {}


def test_a_view_that_is_given_is_kept() -> None:
    cache, fixed = _cache(views=SEVERAL), {"feature.view": "five"}
    found = tune(cache, "ncm", overrides=fixed)
    assert found.space == {"feature.eval_view": ("center", "five")}
    setting = settings_of(["ncm"], overrides=fixed)[0][0]
    assert setting.given == fixed and setting.overrides == {}


def test_extra_rows_have_no_part_in_folds() -> None:
    cache = _cache()
    with pytest.raises(UsageError, match="extra images cannot train with folds"):
        tune(cache, "ncm", tune_folds=2, extra=extra_of(cache, label=5))


def test_a_grid_of_views_fits_each_trial_on_its_own_view() -> None:
    found = tune(_cache(views=SEVERAL), "ncm", grid={"feature.view": ["center", "rrc:4"]})
    one, two = (trial.scores["val_nll"] for trial in found.tried)
    assert one != two
    with pytest.raises(CacheError, match="no view 'rrc:9'"):
        tune(_cache(), "ncm", grid={"feature.view": ["rrc:9"]})


def test_a_slice_of_train_is_made_of_the_same_images_for_every_view() -> None:
    cache = _cache(splits=("test",), views={"rrc:4": 0.0, "five": 0.0})
    plain, more = (
        validation(cache, override(METHODS["ncm"], views))
        for views in ({}, {"feature.view": "rrc:4", "feature.eval_view": "five"})
    )
    assert torch.equal(plain.val.features, more.images.features) and more.crops == 4
    assert len(more.rows) == 4 * len(plain.rows)


def test_extra_rows_train_in_every_trial_and_choose_in_none() -> None:
    cache = _cache()
    extra = extra_of(cache, label=5)
    found = tune(cache, "ncm", extra=extra, grid={"feature.transform": ["none", "l2"]})
    for trial in found.tried:
        run = fit_adapter(cache, "ncm", overrides=trial.settings, extra=extra)
        assert trial.scores["val_mean_per_class"] == run.metrics["val"].mean_per_class
        assert trial.scores["val_nll"] == pytest.approx(run.metrics["val"].nll, rel=1e-5)
    plain = tune(cache, "ncm", grid={"feature.transform": ["none", "l2"]})
    assert plain.tried[0].scores["val_nll"] != found.tried[0].scores["val_nll"]


@pytest.mark.parametrize("name", ["logit-adjustment", "ldam-drw", "crt", "ride", "folds"])
def test_trials_trained_together_are_those_one_by_one(name: str, tmp_path: Path) -> None:
    cache, folds = _cache(), None
    if name == "folds":
        counts = {"train": (30, 20, 9, 6), "test": (2, 2, 2, 2)}
        name, folds, cache = "logit-adjustment", 3, write_cache(tmp_path / "cache", counts)
    trained: dict[bool, list[int]] = {}
    found = {}
    for together in (False, True):
        memo: dict[str, Any] = {}
        found[together] = tune(
            cache, name, overrides={"optimisation.epochs": 3}, trials=4, tune_folds=folds,
            together=together, memo=memo,
        )  # fmt: skip
        trained[together] = [result.steps for result, _ in memo.values()]
    assert trained[True] == trained[False]  # no stage more than once
    one_by_one, at_once = found[False], found[True]
    assert at_once.space == one_by_one.space and at_once.tuned_on == one_by_one.tuned_on
    for own, other in zip(at_once.tried, one_by_one.tried, strict=True):
        assert own.settings == other.settings
        assert own.scores["val_nll"] == pytest.approx(other.scores["val_nll"], rel=1e-3)


def test_trials_trained_together_have_their_sentences() -> None:
    cache = _cache()
    mean, directions = cache.prompts(), np.random.default_rng(1).normal(size=(6, 2, 16))
    sentences = (directions / np.linalg.norm(directions, axis=2, keepdims=True)).astype(np.float32)
    cache.prompts = lambda name=None: replace(
        mean, sentences=sentences, count=np.full(6, 2, np.int64), texts=(("a", "b"),) * 6
    )
    grid = {"head": ["sg_attention", "language_guided"]}
    found = [
        tune(cache, "vl-ltr", grid=grid, overrides=SHORT, together=together)
        for together in (True, False)
    ]
    for own, other in zip(*(tuning.tried for tuning in found), strict=True):
        assert own.failed is None and other.failed is None
        assert own.scores["val_nll"] == pytest.approx(other.scores["val_nll"], rel=1e-3)


def test_a_trial_that_cannot_be_fitted_leaves_those_trained_together() -> None:
    grid = {"loss.tau": [0.5, 1.0], "init": ["text", "random"]}
    found = {
        together: tune(_cache(image_only=True), "logit-adjustment", grid=grid, overrides=SHORT,
                       together=together)
        for together in (False, True)
    }  # fmt: skip
    assert [t.failed for t in found[True].tried] == [t.failed for t in found[False].tried]
    assert {t.failed is None for t in found[True].tried} == {True, False}


def test_trials_that_are_too_large_to_share_a_problem_are_told_of_as_they_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[Any] = []
    monkeypatch.setattr("ltcache.fit.runs_at_once", lambda *sizes: 1)
    monkeypatch.setattr("ltcache.fit.fit_many", lambda *a, **k: told.append("together"))
    tune(_cache(), "ce", overrides=SHORT, trials=3, progress=told.append)
    assert len(told) == 3 and "together" not in told
    monkeypatch.setattr("ltcache.fit.runs_at_once", lambda runs, *sizes: runs)
    tune(_cache(), "ce", overrides=SHORT, trials=3, progress=told.append)
    assert told[3] == "together" and len(told) == 7


def test_crops_that_are_only_needed_at_prediction_are_missed_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[object] = []
    monkeypatch.setattr("ltcache.fit.many._train", lambda *a: trained.append(a))
    monkeypatch.setattr("ltcache.fit.stages.run_train", lambda *a: trained.append(a))
    with pytest.raises(CacheError, match="two random crops of each image"):
        tune(_cache(), "tade", trials=2, overrides=SHORT)
    assert not trained
