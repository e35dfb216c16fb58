"""The scikit-learn face: its own estimator checks, and the same learning as ``fit_head``."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.estimator_checks import parametrize_with_checks

import ltcache
from ltcache.errors import FitError, UsageError
from ltcache.estimator import LongTailClassifier
from ltcache.fit import LabelledRows, fit_head
from ltcache.heads import HeadContext
from ltcache.heads.base import predict_logits
from ltcache.methods import METHODS, override
from tests.fakes import FakeCache, long_tail_counts

CHECKED = ("ce", "logit-adjustment", "crt", "dr+h2t", "ncm", "gda")
SHORT = {"max_epochs": 5, "settings": {"optimisation.lr": 0.2}}
NAMES = np.array(["moth", "newt", "owl"])
TEXTS = np.eye(3, 4) + 0.1


def _checked(name: str) -> LongTailClassifier:
    trains = any(hasattr(stage, "optimisation") for stage in METHODS[name].stages)
    return LongTailClassifier(name, **(SHORT if trains else {}))


def _expected_failures(estimator: LongTailClassifier) -> dict[str, str]:
    """A weight is no repetition where rows are drawn into batches, or where only ratios count."""
    reason = "rows are drawn into batches and held out one by one, whatever their weights"
    if estimator.method == "ncm":
        return {}
    if estimator.method == "gda":
        reason = "the ridge follows from the number of rows, and only ratios of weights count"
    return {"check_sample_weight_equivalence_on_dense_data": reason}


@parametrize_with_checks(
    [_checked(name) for name in CHECKED], expected_failed_checks=_expected_failures
)
def test_scikit_learn_accepts_the_estimator(estimator: Any, check: Any) -> None:
    check(estimator)


def _data(seed: int = 0, counts: tuple[int, ...] = (40, 20, 8)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    features = np.eye(len(counts), 4)[labels] + 0.4 * rng.normal(size=(len(labels), 4))
    return features.astype(np.float32), NAMES[labels]


def _short(name: str = "logit-adjustment", **options: Any) -> LongTailClassifier:
    return LongTailClassifier(name, **({"max_epochs": 3} | options))


@pytest.mark.parametrize("name", ["logit-adjustment", "dr+h2t", "gda"])
def test_the_fit_is_that_of_fit_head(name: str) -> None:
    X, y = _data()
    labels = np.searchsorted(NAMES, y)
    method = METHODS[name] if name == "gda" else override(METHODS[name], {"optimisation.epochs": 4})
    context = HeadContext(4, 3, torch.bincount(torch.from_numpy(labels)))
    fitted = fit_head(
        method, LabelledRows(torch.from_numpy(X), torch.from_numpy(labels)), context, seed=5
    )
    own = LongTailClassifier(method, random_state=5).fit(X, y)
    for key, value in fitted.head.state_dict().items():
        assert torch.equal(own.head_.state_dict()[key], value.double()), key
    logits = predict_logits(fitted.head, fitted.transform(torch.from_numpy(X)))
    np.testing.assert_allclose(own.decision_function(X), logits, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(part, BaseEstimator) for part in vars(own).values())
    assert (own.history_, own.tuned_on_) == (fitted.history, fitted.tuned_on)


OF_SEVERAL_VIEWS = ("bsce+cmo", "ce+cmo", "gpaco", "paco", "ride+cmo")
"""Methods that train on further views of each row's image, which arrays do not have."""


LEARNS_FROM_WHAT_IT_PREDICTS = ("post-ot", "tade")
"""Methods that predict no row by itself, which a classifier of scikit-learn has to do."""


@pytest.mark.parametrize("name", LEARNS_FROM_WHAT_IT_PREDICTS)
def test_a_method_that_learns_from_the_rows_it_predicts_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"\(transductive\).* predicts each row by itself"):
        LongTailClassifier(name).fit(*_data())


@pytest.mark.parametrize("name", sorted(METHODS.keys() - set(LEARNS_FROM_WHAT_IT_PREDICTS)))
def test_every_method_fits_labels_that_are_texts(name: str) -> None:
    X, y = _data()
    classifier = _short(name, max_epochs=1, logit_scale=20.0)
    if name in OF_SEVERAL_VIEWS:
        with pytest.raises(FitError, match=r"ltcache extract --views center,\w+:2"):
            classifier.fit(X, y, text_features=TEXTS)
        return
    fitted = classifier.fit(X, y, text_features=TEXTS)
    probabilities = fitted.predict_proba(X)
    assert probabilities.shape == (68, 3) and fitted.classes_.tolist() == NAMES.tolist()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    assert (fitted.predict(X) == NAMES[probabilities.argmax(axis=1)]).all()
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.decision_function(X), fitted.decision_function(X))


def test_two_classes_have_one_score() -> None:
    X, y = _data(counts=(40, 8))
    fitted = _short().fit(X, y)
    score, probabilities = fitted.decision_function(X), fitted.predict_proba(X)
    assert score.shape == (48,) and probabilities.shape == (48, 2)
    np.testing.assert_allclose(probabilities[:, 1], 1 / (1 + np.exp(-score)), rtol=1e-9)
    assert ((score > 0) == (fitted.predict(X) == "newt")).all()


def test_a_row_is_predicted_alike_alone_and_among_others() -> None:
    X, y = _data()
    fitted = _short("gda").fit(X, y)
    alone = np.concatenate([fitted.decision_function(row[None]) for row in X])
    np.testing.assert_allclose(alone, fitted.decision_function(X), rtol=1e-10, atol=1e-10)


def test_class_texts_come_as_rows_or_by_label_and_need_no_unit_length() -> None:
    X, y = _data()
    rows = _short("lift-lp").fit(X, y, text_features=TEXTS)
    by_label = dict(zip(reversed(NAMES.tolist()), 7 * TEXTS[::-1], strict=True))
    named = _short("lift-lp").fit(X, y, text_features=by_label)
    np.testing.assert_allclose(named.decision_function(X), rows.decision_function(X), rtol=1e-5)
    without = _short("lift-lp").fit(X, y)
    assert np.abs(without.decision_function(X) - rows.decision_function(X)).max() > 0.01


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (TEXTS[:2], "2 text_features for 3 classes"),
        ({"moth": TEXTS[0], "owl": TEXTS[2]}, "lack 1 classes, such as newt"),
        (TEXTS * [[1], [0], [1]], "class newt is zero"),
        (TEXTS[:, :3], "do not fit features of dimension 4"),
        (TEXTS * np.nan, "text_features contains NaN"),
    ],
)
def test_class_texts_that_do_not_fit_are_refused(texts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _short("lift-lp", settings={"init": "text"}).fit(*_data(), text_features=texts)


def test_metadata_routing_brings_class_texts_through_search_and_pipeline() -> None:
    X, y = _data()
    wrong = dict(zip(NAMES.tolist(), TEXTS[[1, 2, 0]], strict=True))
    with config_context(enable_metadata_routing=True):
        final = _short("zero-shot", logit_scale=10.0).set_fit_request(text_features=True)
        search = GridSearchCV(
            make_pipeline(StandardScaler(with_mean=False, with_std=False), final),
            {"longtailclassifier__logit_scale": [10.0]},
            cv=5,
        )
        right = search.fit(X, y, text_features=dict(zip(NAMES, TEXTS, strict=True))).best_score_
        assert right > 0.7 > 0.3 > search.fit(X, y, text_features=wrong).best_score_
        with pytest.raises(ValueError, match="text_features"):
            make_pipeline(_short("zero-shot")).fit(X, y, text_features=TEXTS)


def test_search_over_methods_and_their_settings() -> None:
    X, y = _data()
    grid = [
        {"method": ["logit-adjustment"], "settings__loss.tau": [0.0, 1.0]},
        {"method": ["ncm"], "settings": [{"head.variant": "un"}, {"head.variant": "l2n"}]},
    ]
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    search = GridSearchCV(_short(), grid, cv=folds, scoring="balanced_accuracy").fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert len(scores) == 4 and len(set(scores)) > 1 and np.isfinite(scores).all()
    assert search.predict(X).shape == y.shape


def test_nested_settings_keep_the_others_and_leave_the_given_dictionary_alone() -> None:
    given = {"optimisation.lr": 0.01}
    estimator = LongTailClassifier(settings=given)
    changed = clone(estimator).set_params(**{"settings__loss.tau": 0.5, "max_epochs": 2})
    assert changed.settings == {"optimisation.lr": 0.01, "loss.tau": 0.5}
    assert changed.max_epochs == 2
    assert given == {"optimisation.lr": 0.01} == estimator.settings
    one, other = (clone(changed).set_params(**{"settings__loss.tau": t}) for t in (0.0, 2.0))
    X, y = _data()
    assert (one.fit(X, y).predict(X) == "owl").sum() < (other.fit(X, y).predict(X) == "owl").sum()


def test_a_limit_on_epochs_reaches_every_stage_and_raises_none() -> None:
    X, y = _data()
    fitted = LongTailClassifier("dr", max_epochs=2).fit(X, y)
    assert {(r["stage"], r["epoch"]) for r in fitted.history_} == {(0, 1), (0, 2), (1, 1), (1, 2)}
    few = {"optimisation.epochs": 2}
    assert len(LongTailClassifier("ce", settings=few, max_epochs=9).fit(X, y).history_) == 2


def test_what_chooses_is_recorded() -> None:
    X, y = _data()
    assert _short().fit(X, y).tuned_on_.startswith("a stratified 10% of train")
    last = _short(hold_out=False).fit(X, y)
    assert last.tuned_on_.startswith("nothing") and last.choices_ == ({"epoch": 3},)
    assert _short().fit(X, y, units=y).tuned_on_.startswith("nothing: no class has rows to spare")
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        _short().fit(X, y, units=y[:-1])


def test_only_ratios_of_weights_count_and_weight_zero_leaves_a_row_out() -> None:
    X, y = _data()
    weights = np.random.default_rng(1).integers(0, 3, len(y)).astype(float)
    weights[[0, 1, 40, 41, 60, 61]] = 1
    one = _short().fit(X, y, weights)
    large = _short().fit(X, y, 1024 * weights)
    rest = _short().fit(X[weights > 0], y[weights > 0], weights[weights > 0])
    for other in (large, rest):
        np.testing.assert_array_equal(one.decision_function(X), other.decision_function(X))
    assert np.abs(_short().fit(X, y).decision_function(X) - one.decision_function(X)).max() > 1e-3


def test_weights_make_the_class_prior() -> None:
    X, y = _data()
    balanced = (1 / np.array([40, 20, 8]))[np.searchsorted(NAMES, y)]
    fitted = _short().fit(X, y, sample_weight=balanced)
    np.testing.assert_allclose(fitted.class_counts_, len(y) / 3, rtol=1e-5)
    plain = _short("ce").fit(X, y, sample_weight=balanced)  # nothing is left to adjust
    np.testing.assert_allclose(fitted.decision_function(X), plain.decision_function(X), atol=1e-4)
    assert _short().fit(X, y).class_counts_.tolist() == [40, 20, 8]


def test_weights_repeat_rows_in_full_batches() -> None:
    """The law that scikit-learn checks holds up to rounding where nothing is drawn."""
    X, y = _data(counts=(12, 8, 4))
    times = np.arange(len(y)) % 3
    settings = {"optimisation.batch": 4096, "feature.transform": "none"}
    estimator = _short(settings=settings, hold_out=False, max_epochs=20)
    weighted = clone(estimator).fit(X, y, times).decision_function(X)
    repeated = clone(estimator).fit(X.repeat(times, axis=0), y.repeat(times)).decision_function(X)
    np.testing.assert_allclose(weighted, repeated, atol=1e-4)


@pytest.mark.parametrize("unit", [None, np.nan, ""])
def test_a_row_without_a_unit_is_held_out_by_itself(unit: Any) -> None:
    cache = FakeCache(long_tail_counts(4, 30, 10))
    X, y = cache.features("train")[:, 0], cache.labels("train")
    short = LongTailClassifier("ce", max_epochs=3)
    alone = clone(short).fit(X, y).tuned_on_
    assert "10% of train" in alone
    assert clone(short).fit(X, y, units=[unit] * len(y)).tuned_on_ == alone
    pairs = [None if label else f"pair {row // 2}" for row, label in enumerate(y)]
    assert "10% of train" in clone(short).fit(X, y, units=pairs).tuned_on_


def test_random_state() -> None:
    X, y = _data()

    def scores(state: Any) -> np.ndarray:
        return _short(random_state=state).fit(X, y).decision_function(X)

    np.testing.assert_array_equal(scores(3), scores(3))
    make = np.random.RandomState
    np.testing.assert_array_equal(scores(make(3)), scores(make(3)))
    assert not np.array_equal(scores(3), scores(4))
    assert not np.array_equal(scores(None), scores(None))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "logit_adjustment"}, UsageError, "did you mean 'logit-adjustment'"),
        ({"settings": {"loss.ta": 1}}, UsageError, "did you mean 'loss.tau'"),
        ({"max_epochs": 0}, UsageError, "max_epochs=0 must be at least 1"),
        ({"method": "zero-shot"}, FitError, "class texts|text_features"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_fit(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        LongTailClassifier(**options).fit(*_data())


def test_data_that_cannot_be_fitted_are_refused() -> None:
    X, y = _data()
    with pytest.raises(FitError, match="one class, moth; at least 2"):
        _short().fit(X[:40], y[:40])
    with pytest.raises(FitError, match="one class, newt; at least 2"):
        _short().fit(X, y, (y == "newt").astype(float))
    with pytest.raises(ValueError, match="Negative values"):
        _short().fit(X, y, -np.ones(len(y)))
    with pytest.raises(ValueError, match="zero"):
        _short().fit(X, y, np.zeros(len(y)))


def test_the_name_is_at_the_top_and_costs_nothing_until_used() -> None:
    assert ltcache.LongTailClassifier is LongTailClassifier
    with pytest.raises(AttributeError, match="no attribute 'LongTail'"):
        _ = ltcache.LongTail
    code = "import ltcache, sys; print({'torch', 'sklearn', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_readme_example_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    (example,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
        if "LongTailClassifier" in block
    ]
    cache = FakeCache(long_tail_counts(5, 60, 6), pooled=False)
    monkeypatch.setattr("ltcache.cache.open_cache", lambda path: cache)
    exec(example, {})
    chosen, score = re.fullmatch(r"(\{.*\}) ([\d.]+)\n", capsys.readouterr().out).groups()  # type: ignore[union-attr]
    assert "settings__loss.tau" in chosen and float(score) > 0.8


def test_calibration_to_equal_classes_keeps_the_balance_that_a_plain_one_loses() -> None:
    counts = np.array([400, 160, 60, 25])
    draw = np.random.default_rng(0)
    means = 0.6 * draw.normal(size=(4, 12))
    y, y_test = np.repeat(np.arange(4), counts), np.repeat(np.arange(4), 200)
    X, X_test = (means[labels] + draw.normal(size=(len(labels), 12)) for labels in (y, y_test))
    model = LongTailClassifier(max_epochs=20, hold_out=False)

    def mean_per_class(fitted: Any) -> float:
        return float(balanced_accuracy_score(y_test, fitted.predict(X_test)))

    alone = mean_per_class(model.fit(X, y))
    plain = mean_per_class(CalibratedClassifierCV(model, cv=5).fit(X, y))
    weights = compute_sample_weight("balanced", y)
    balanced = mean_per_class(CalibratedClassifierCV(model, cv=5).fit(X, y, sample_weight=weights))
    assert plain < alone - 0.15 and balanced > alone - 0.05
