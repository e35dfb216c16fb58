"""Runs that learn from the rows that they are scored on: exactly these, never their labels."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from ltcache.ablate import tune
from ltcache.ensemble import ensemble
from ltcache.errors import CacheError, FitError, UsageError
from ltcache.estimator import LongTailClassifier
from ltcache.evaluate import evaluate, predict
from ltcache.evaluate.prior_shift import draw_rows
from ltcache.fit import fit_adapter
from ltcache.manifest import Manifest
from ltcache.runs import Run, open_run
from ltcache.transfer import export_bundle, export_onnx
from tests.fakes import FakeCache, long_tail_counts

NAMES = ("tade", "post-ot")
COUNTS = long_tail_counts(5, 40, 4)


def _cache(**options: Any) -> FakeCache:
    return FakeCache(COUNTS, noise=0.9, **{"views": {"rrc:2": 0.3}, **options})


def _fit(name: str, rows: FakeCache, **options: Any) -> Run:
    trained = {"stages.0.optimisation.epochs": 4}
    quick = {"adjustment.batch": 16, "adjustment.lr": 0.5} if name == "tade" else {}
    return fit_adapter(rows, name, **{"overrides": trained | quick, **options})


CACHE = _cache()


@cache
def _run(name: str) -> Run:
    return _fit(name, CACHE)


@pytest.mark.parametrize("name", NAMES)
def test_metrics_say_which_rows_were_seen_and_what_was_learned(name: str, tmp_path: Path) -> None:
    run = _run(name)
    for split in ("val", "test"):
        (found,) = run.metrics[split].adaptations
        assert (found.split, found.rows) == (split, 100)
        assert found.view == ("rrc:2" if name == "tade" else "center")
        assert len(found.learned["weights" if name == "tade" else "potentials"]) in (3, 5)
    learned = [run.metrics[split].adaptations[0].learned for split in ("val", "test")]
    assert learned[0] != learned[1]
    run = replace(run, path=None)
    run.save(tmp_path / "run")
    plain = json.loads((tmp_path / "run" / "metrics.json").read_text())["splits"]["test"]
    assert plain["adaptations"][0]["learned"] == learned[1]
    again = open_run(tmp_path / "run")
    assert again.metrics == run.metrics
    assert evaluate(again, CACHE) == run.metrics["test"]


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_from_the_rows_that_are_asked_for_and_no_others(name: str) -> None:
    run, some = _run(name), np.arange(0, 100, 3)
    found = run.logits_of(CACHE, "test", some)
    assert found.adaptations[0].rows == len(found.logits) == len(some)
    assert found.adaptations != run.logits_of(CACHE, "test", np.arange(100)).adaptations
    elsewhere = _cache()
    kept = np.isin(np.arange(100), some)
    for values in (*elsewhere._features.values(), *elsewhere._crops.values()):
        values[CACHE.rows("test")[~kept]] = 1e3
    np.testing.assert_array_equal(run.logits_of(elsewhere, "test", some).logits, found.logits)
    shifted = evaluate(run, CACHE, shift="backward-5", seed=3)
    drawn = draw_rows(CACHE.labels("test"), COUNTS, "backward-5", 3)
    assert shifted.adaptations == run.logits_of(CACHE, "test", drawn).adaptations


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_never_looked_at(name: str) -> None:
    other, rows = _cache(), CACHE.rows("test")
    labels = other.labels().copy()
    labels[rows] = labels[rows][::-1]
    table = other.manifest.rows
    place = table.schema.get_field_index("label")
    moved = table.set_column(place, "label", pa.array(labels))
    other.manifest = Manifest("fake", moved, other.classes)
    before, after = (_run(name).logits_of(c, "test", np.arange(100)) for c in (CACHE, other))
    np.testing.assert_array_equal(before.logits, after.logits)
    assert before.adaptations == after.adaptations
    assert evaluate(_run(name), other) != _run(name).metrics["test"]


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_repeats_the_bytes_and_what_was_learned_is_no_part_of_the_head(
    name: str, tmp_path: Path
) -> None:
    again, every = _fit(name, CACHE), np.arange(100)
    for place, run in {"first": _run(name), "again": again}.items():
        replace(run, path=None).save(tmp_path / place)
    for file in ("head.safetensors", "config.json", "per_class.csv"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    first, second = (run.logits_of(CACHE, "test", every).logits for run in (_run(name), again))
    assert first.tobytes() == second.tobytes()
    assert not {"weights", "potentials"} & set(load_file(tmp_path / "again" / "head.safetensors"))


def test_training_and_its_choice_are_those_of_the_method_before() -> None:
    plain = fit_adapter(CACHE, "sade", overrides={"optimisation.epochs": 4})
    tade = _run("tade")
    assert tade.record.choices[0] == plain.record.choices[0]
    for one, two in zip(plain.head.parameters(), tade.head.base.parameters(), strict=True):
        assert torch.equal(one, two)
    fixed = _fit("tade", CACHE, overrides={"optimisation.epochs": 4, "adjustment.epochs": 0})
    assert fixed.metrics["test"].overall == plain.metrics["test"].overall


def test_a_cache_without_the_crops_is_refused_before_anything_is_trained() -> None:
    remedy = r"ltcache extract SOURCE --out CACHE --views center,rrc:2 adds them"
    for other in (FakeCache(COUNTS), FakeCache(COUNTS, views={"rrc:4": 0.3})):
        with pytest.raises(CacheError, match=rf"no view 'rrc:2'.*{remedy}"):
            fit_adapter(other, "tade", overrides={"optimisation.epochs": 10**9})
        with pytest.raises(CacheError, match=remedy):
            evaluate(_run("tade"), other)
    with pytest.raises(CacheError, match=r"'center' of two crops or more"):
        fit_adapter(CACHE, "tade", overrides={"adjustment.view": "center"})
    four = FakeCache(COUNTS, views={"rrc:4": 0.3})
    run = fit_adapter(
        four, "tade", overrides={"optimisation.epochs": 2, "adjustment.view": "rrc:4"}
    )
    assert run.metrics["test"].adaptations[0].view == "rrc:4"


@pytest.mark.parametrize("name", NAMES)
def test_what_needs_one_image_at_a_time_is_refused_with_the_reason(
    name: str, tmp_path: Path
) -> None:
    run = _run(name)
    reason = r"\(transductive\), so that it predicts no image by itself.*--method (sade|ce)$"
    with pytest.raises(FitError, match=reason):
        predict(run, ["photo.jpg"])
    with pytest.raises(FitError, match=reason):
        export_bundle(run, tmp_path / "bundle")
    with pytest.raises(FitError, match=reason):
        export_onnx(run, tmp_path / "onnx")
    with pytest.raises(FitError, match=reason):
        run.logits(CACHE.features("test", run.record.field))
    with pytest.raises(UsageError, match=r"predicts each row by itself.*such as (sade|ce)"):
        LongTailClassifier(name).fit(CACHE.features("train")[:, 0], CACHE.labels("train"))
    with pytest.raises(FitError, match=r"learns from the very rows.*leave the test prior out"):
        evaluate(run, CACHE, test_prior="uniform")


def test_an_ensemble_says_that_a_member_is_transductive(tmp_path: Path) -> None:
    plain = fit_adapter(CACHE, "ce", overrides={"optimisation.epochs": 2})
    found = ensemble([_run("tade"), plain], tmp_path / "both", caches=[CACHE])
    expected = _run("tade").metrics["test"].adaptations
    assert found.metrics["test"].adaptations == expected
    members = list(found.member_metrics.values())
    assert [m["test"].adaptations for m in members] == [expected, ()]
    plain_record = found.record.to_dict()
    assert plain_record["transductive"] is True
    assert [m.get("transductive", False) for m in plain_record["members"]] == [True, False]
    assert type(found.record).from_dict(plain_record) == found.record


def test_settings_are_tuned_on_crops_of_the_rows_that_choose() -> None:
    short = {"optimisation.epochs": 2}
    grid = {"adjustment.epochs": (0, 5)}
    for splits, tuned_on in ((("val", "test"), "val"), (("test",), "a stratified 10% of train")):
        cache = FakeCache(COUNTS, views={"rrc:2": 0.3}, splits=splits)
        found = tune(cache, "tade", grid=grid, overrides=short)
        plain = tune(cache, "sade", grid={}, overrides=short)
        assert found.tuned_on == plain.tuned_on == tuned_on
        even, learned = (trial.scores for trial in found.tried)
        assert even == pytest.approx(plain.tried[0].scores, abs=1e-6)
        assert abs(learned["val_nll"] - even["val_nll"]) > 1e-4


def test_settings_are_tuned_on_validation_rows_where_these_are_enough() -> None:
    grid = {"adjustment.eps": (0.5, 2.0)}
    found = tune(CACHE, "post-ot", grid=grid, overrides={"optimisation.epochs": 2})
    assert found.tuned_on == "val" and not any(trial.failed for trial in found.tried)
    chosen = _fit("post-ot", CACHE, overrides={"choose.eps": "0.5,2"})
    assert chosen.record.choices[1]["eps"] in (0.5, 2.0)
    with pytest.raises(FitError, match="the same method without that stage"):
        _fit("tade", CACHE, overrides={"choose.lr": "0.1,0.2"})
