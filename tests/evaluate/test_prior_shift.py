"""Other class priors at test time: the field's row counts, EM, weights, what changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ltcache.cli import main
from ltcache.errors import FitError, ManifestError, UnfittedWarning, UsageError
from ltcache.evaluate import evaluate
from ltcache.evaluate.prior_shift import (
    RATIOS,
    PriorProfile,
    class_weights,
    draw_rows,
    estimate_prior,
    profile_prior,
    read_prior,
    retarget,
)
from ltcache.fit import fit_adapter
from ltcache.metrics import evaluate_logits
from ltcache.runs.run import Run
from tests.fakes import FakeCache, long_tail_counts

COUNTS = long_tail_counts(8, 120, 6)


@pytest.fixture(scope="module")
def cache() -> Any:
    return FakeCache(COUNTS, per_class=50, noise=1.0, unit=2)


@pytest.fixture(scope="module")
def ce(cache: Any) -> Run:
    return fit_adapter(cache, "ce", overrides={"optimisation.epochs": 60, "optimisation.lr": 0.03})


@pytest.fixture(scope="module")
def balanced(cache: Any) -> Run:
    return fit_adapter(cache, "logit-adjustment", overrides={"optimisation.epochs": 5})


def test_a_head_that_was_not_trained_to_the_end_is_told_with_its_scores(cache: Any) -> None:
    with pytest.warns(UnfittedWarning) as fitted:
        run = fit_adapter(
            cache, "ce", overrides={"optimisation.epochs": 1, "optimisation.lr": 1e-9}
        )
    with pytest.warns(UnfittedWarning) as scored:
        evaluate(run, cache)
    assert str(scored[0].message) == str(fitted[0].message)


def test_a_record_of_its_training_that_cannot_be_read_is_named(cache: Any, ce: Run) -> None:
    damaged = replace(ce, record=replace(ce.record, training={"overall": 1.0}))
    with pytest.raises(FitError, match=r"run\.json"):
        evaluate(damaged, cache)


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "per_class", "ratio", "rows"),
    [(1000, 50, 50, 12_058), (365, 100, 50, 8_989)],  # SADE's lists of ImageNet-LT and Places-LT
)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_fields_test_sets_have_these_sizes(
    classes: int, per_class: int, ratio: int, rows: int, direction: str
) -> None:
    labels = np.tile(np.arange(classes), per_class)
    counts = np.arange(classes)[::-1]
    drawn = draw_rows(labels, counts, f"{direction}-{ratio}")
    assert len(drawn) == rows
    sizes = np.bincount(labels[drawn])
    assert sizes.max() == per_class and sizes.min() == per_class // ratio
    assert (np.diff(sizes if direction == "backward" else sizes[::-1]) >= 0).all()


def test_drawing_is_by_seed_and_nested() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(8), 40))
    drawn = {
        ratio: draw_rows(labels, COUNTS, PriorProfile("forward", ratio), 3) for ratio in RATIOS
    }
    for large, small in pairwise(RATIOS):
        assert set(drawn[large].tolist()) < set(drawn[small].tolist())
    assert np.array_equal(drawn[50], draw_rows(labels, COUNTS, "forward-50", 3))
    assert not np.array_equal(drawn[50], draw_rows(labels, COUNTS, "forward-50", 4))
    assert np.array_equal(drawn[50], np.unique(drawn[50]))
    everything = draw_rows(labels, COUNTS, "backward-1", 0)
    assert np.array_equal(everything, np.arange(len(labels)))


def test_unlabelled_rows_are_never_drawn_and_every_class_is() -> None:
    labels = np.array([-1, 0, 1, -1, 1, 0, 2, 2])
    drawn = draw_rows(labels, np.array([9, 5, 1]), "forward-100")
    assert (labels[drawn] >= 0).all()
    assert np.bincount(labels[drawn]).tolist() == [2, 1, 1]
    with pytest.raises(ManifestError, match="class 3 has no test rows"):
        draw_rows(labels, np.ones(4), "forward-2")


@pytest.mark.parametrize("text", ["sideways-5", "forward", "forward-0.5", "forward-x", ""])
def test_a_shift_is_named_in_one_way(text: str) -> None:
    with pytest.raises(UsageError, match="forward-50"):
        PriorProfile.parse(text)


# --- priors ---------------------------------------------------------------------------------------


def test_a_prior_is_a_power_of_the_counts() -> None:
    assert profile_prior(COUNTS, 0).tolist() == [1 / 8] * 8
    assert np.allclose(profile_prior(COUNTS), COUNTS / COUNTS.sum())
    assert np.allclose(profile_prior(COUNTS, 0.5) ** 2 / (profile_prior(COUNTS, 0.5) ** 2).sum(),
                       profile_prior(COUNTS))  # fmt: skip
    assert profile_prior(np.array([3, 0])).tolist() == [0.8, 0.2]


def test_retargeting_is_an_exact_bayes_step_and_goes_back() -> None:
    rng = np.random.default_rng(0)
    likelihood = rng.random((50, 8))
    p, q = profile_prior(COUNTS), rng.dirichlet(np.ones(8))
    logits = np.log(likelihood * p)
    assert np.allclose(retarget(logits, p, q), np.log(likelihood * q))
    assert np.allclose(retarget(retarget(logits, p, q), q, p), logits)
    moved = retarget(logits, p, np.eye(8)[2])
    assert np.isfinite(moved).all() and (moved.argmax(1) == 2).all()


@pytest.mark.parametrize("seed", range(3))
def test_em_recovers_a_planted_prior(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes, rows = 6, 20_000
    means = rng.normal(size=(classes, 4)) * 1.5
    planted, assumed = (
        rng.dirichlet(np.full(classes, 2.0)),
        profile_prior(long_tail_counts(6, 90, 3)),
    )
    labels = rng.choice(classes, rows, p=planted)
    x = means[labels] + rng.normal(size=(rows, 4))
    logits = x @ means.T - (means**2).sum(1) / 2 + np.log(assumed)  # calibrated under ``assumed``
    found = estimate_prior(logits.astype(np.float32), assumed)
    assert found.converged
    assert np.abs(found.prior - planted).max() < 0.012
    posterior = np.exp(retarget(logits, assumed, found.prior))
    posterior /= posterior.sum(1, keepdims=True)
    assert np.allclose(posterior.mean(0), found.prior, atol=1e-3)  # the fixed point of EM
    before = (logits.argmax(1) == labels).mean()
    assert (posterior.argmax(1) == labels).mean() > before


def test_em_equals_its_textbook_form() -> None:
    rng = np.random.default_rng(5)
    logits, assumed = rng.normal(size=(40, 5)) * 2, rng.dirichlet(np.full(5, 9.0))
    posterior = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    prior = assumed
    for _ in range(7):
        updated = posterior * prior / assumed
        prior = (updated / updated.sum(1, keepdims=True)).mean(0)
    found = estimate_prior(logits, assumed, max_steps=7, pseudo_rows=0)
    assert not found.converged and found.steps == 7
    assert np.allclose(found.prior, prior)
    with pytest.raises(FitError):
        estimate_prior(logits[:0], assumed)


def test_few_rows_leave_no_class_out() -> None:
    logits = np.full((30, 3), -4.0)
    logits[:, 0] = 4
    third = np.full(3, 1 / 3)
    published = estimate_prior(logits, third, pseudo_rows=0)
    assert published.prior[1] < 1e-6
    assert estimate_prior(logits, third).prior == pytest.approx([31 / 33, 1 / 33, 1 / 33], abs=1e-3)


def test_a_prior_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prior.csv"
    path.write_text("label,prior\n1,3\n0,1\n")
    assert read_prior(path, 2).tolist() == [0.25, 0.75]
    for text, reason in (
        ("label,prior\n0,1\n", "no prior for class 1"),
        ("label,prior\n0,1\n0,1\n", "there twice"),
        ("label,prior\n0,1\n2,1\n", "unknown"),
        ("label,prior\n0,1\n1,-1\n", "no prior"),
        ("label,prior\n0,1\n1,nan\n", "no prior"),
        ("label,prior\n0,0\n1,0\n", "all priors are zero"),
        ("label,weight\n0,1\n", "no column"),
        ("label,prior\nx,1\n", "cannot be read"),
        ("label,prior\n0\n", "cannot be read"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=reason):
            read_prior(path, 2)
    with pytest.raises(UsageError, match="cannot be read"):
        read_prior(tmp_path / "missing.csv", 2)


# --- weights --------------------------------------------------------------------------------------


def test_weighted_scores_are_those_of_repeated_rows() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(4), 30)
    logits = rng.normal(size=(120, 4)) + 2 * np.eye(4)[labels] * rng.random((120, 1))
    times = np.array([4, 3, 2, 1])
    rows = np.repeat(np.arange(120), times[labels])
    groups = {"many": [0], "medium": [1, 2], "few": [3]}
    repeated = evaluate_logits(logits[rows], labels[rows], times, groups=groups, bootstrap=0)
    weights = class_weights(times / times.sum(), labels)
    weighted = evaluate_logits(
        logits, labels, times, groups=groups, bootstrap=200, class_weights=weights
    )
    for name in ("overall", "mean_per_class", "few", "macro_f1", "ece", "nll", "worst_class"):
        assert getattr(weighted, name) == pytest.approx(getattr(repeated, name)), name
    low, high = weighted.intervals["overall"]
    assert low < weighted.overall < high
    plain = evaluate_logits(logits, labels, times, groups=groups, bootstrap=200)
    equal = evaluate_logits(
        logits, labels, times, groups=groups, bootstrap=200, class_weights=np.ones(4)
    )
    assert equal.overall == plain.overall and equal.intervals == plain.intervals
    assert weighted.intervals["mean_per_class"] == pytest.approx(plain.intervals["mean_per_class"])


# --- evaluate -------------------------------------------------------------------------------------


def test_a_uniform_prior_changes_nothing_where_logits_assume_it(
    cache: Any, balanced: Run, ce: Run
) -> None:
    assert balanced.record.residual_prior == 0
    plain, uniform = evaluate(balanced, cache), evaluate(balanced, cache, test_prior="uniform")
    for name, value in plain.to_dict().items():
        found = uniform.to_dict()[name]
        if name == "intervals":
            assert found == pytest.approx({k: pytest.approx(v) for k, v in value.items()})
        elif name != "test_prior":
            assert found == pytest.approx(value), name
    assert plain.test_prior is None and uniform.test_prior == "uniform"
    # and the training prior changes no prediction where logits assume that
    assert evaluate(ce, cache, test_prior="train").per_class == evaluate(ce, cache).per_class


def test_moving_to_the_right_prior_helps_there(cache: Any, ce: Run) -> None:
    assert ce.record.residual_prior == 1
    plain, uniform = evaluate(ce, cache), evaluate(ce, cache, test_prior="uniform")
    assert uniform.few > plain.few and uniform.mean_per_class > plain.mean_per_class  # type: ignore[operator]
    for shift in ("forward-25", "backward-25"):
        fitted = evaluate(ce, cache, shift=shift)
        known = evaluate(ce, cache, shift=shift, test_prior=shift)
        estimated = evaluate(ce, cache, shift=shift, test_prior="estimate")
        assert fitted.num_rows == known.num_rows == estimated.num_rows < plain.num_rows
        assert estimated.test_prior is not None and "transductive" in estimated.test_prior
        assert shift in str(fitted.test_prior)
        if shift.startswith("backward"):
            assert known.overall > fitted.overall and known.nll < fitted.nll
            assert estimated.nll < fitted.nll


def test_overall_is_weighted_to_the_target_prior(cache: Any, ce: Run, tmp_path: Path) -> None:
    prior = np.arange(1, 9) / 36
    path = tmp_path / "p.csv"
    path.write_text("label,prior\n" + "".join(f"{c},{p}\n" for c, p in enumerate(prior)))
    for given in (prior, path, prior.tolist(), torch.from_numpy(prior), pd.Series(prior)):
        found = evaluate(ce, cache, test_prior=given)
        assert found.overall == pytest.approx(float(prior @ np.array(found.per_class)))
    by_name = evaluate(ce, cache, test_prior="backward-50")
    assert by_name.test_prior == "backward-50"


@pytest.mark.parametrize(
    "prior",
    ["unifrom", "forward-zero", np.ones(3), np.zeros(8), -np.ones(8), ["a"] * 8, {0: 1.0}, 3],
)
def test_priors_that_are_none(cache: Any, ce: Run, prior: Any) -> None:
    with pytest.raises(UsageError):
        evaluate(ce, cache, test_prior=prior)
    record = replace(ce.record, residual_prior=None)
    with pytest.raises(FitError, match="such as ce or logit-adjustment"):
        evaluate(Run(ce.method, ce.head, ce.transform, record), cache, test_prior="uniform")


def test_the_command_says_what_it_did(
    cache: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ltcache.cache.open_cache", lambda _: cache)
    run = tmp_path / "run"
    fit_adapter(cache, "ce", run, overrides={"optimisation.epochs": 3})
    shifted = ["--shift", "backward-10", "--seed", "2", "--test-prior", "estimate", "--write"]
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", str(run), "--cache", "anything", *shifted])
    out, err = capsys.readouterr()
    assert caught.value.code == 0, err
    assert "transductive" in out and "backward-10, seed 2" in out
    written = json.loads((run / "metrics-test-backward-10-seed-2-prior-estimate.json").read_text())
    assert "EM" in written["test_prior"]


def test_scores_under_different_priors_are_written_to_different_files(
    cache: Any, tmp_path: Path
) -> None:
    run = fit_adapter(cache, "ce", tmp_path / "run", overrides={"optimisation.epochs": 3})
    for name in ("uniform.csv", "deployed.csv"):
        lines = "".join(f"{label},{label + 1}\n" for label in range(8))
        (tmp_path / name).write_text("label,prior\n" + lines)
    priors = ["forward-2", "forward-2.5", "uniform", *sorted(tmp_path.glob("*.csv"))]
    for prior in priors:
        evaluate(run, cache, test_prior=prior, write=True)
    assert sorted(path.name for path in (tmp_path / "run").glob("metrics-*.json")) == [
        "metrics-test-prior-deployed.json",
        "metrics-test-prior-forward-2.5.json",
        "metrics-test-prior-forward-2.json",
        "metrics-test-prior-uniform.csv.json",
        "metrics-test-prior-uniform.json",
    ]
