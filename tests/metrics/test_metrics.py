"""Scores against hand computation and scikit-learn; intervals against theory."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss

from ltcache.errors import ManifestError
from ltcache.metrics import GroupScheme, Metrics, evaluate_logits, paired_bootstrap, percent
from ltcache.metrics.bootstrap import UnitSums
from ltcache.records import read_record


def _data(rows: int = 400, classes: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    logits = rng.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += 1
    return logits, labels


def test_groups_follow_the_thresholds_at_their_edges() -> None:
    groups = GroupScheme.from_dict(None).assign(np.array([101, 100, 20, 19, 0]))
    assert groups.tolist() == ["many", "medium", "medium", "few", "few"]
    other = GroupScheme.from_dict({"many_above": 50, "few_below": 10})
    assert other.assign(np.array([51, 50, 10, 9])).tolist() == ["many", "medium", "medium", "few"]
    assert "n>50" in other.describe()


def test_without_training_rows_thresholds_say_nothing() -> None:
    none = np.zeros(3, int)
    assert GroupScheme().assign(none).tolist() == ["-", "-", "-"]
    assert GroupScheme().describe(none) == "unknown, since no training rows are counted"
    metrics = evaluate_logits(np.eye(3), np.arange(3), none, bootstrap=0)
    assert metrics.group_sizes == {"many": 0, "medium": 0, "few": 0} and metrics.few is None
    assert metrics.group_scheme == GroupScheme().describe(none)
    named = GroupScheme(explicit=(("few", (1,)),))  # by name, whatever is counted
    assert named.assign(none).tolist() == ["-", "few", "-"]
    assert named.describe(none) == named.describe() == "explicit: few 1"


def test_explicit_groups_leave_the_rest_out() -> None:
    scheme = GroupScheme.from_dict({"many": [0], "few": [2]})
    assert scheme.assign(np.array([5, 5, 5])).tolist() == ["many", "-", "few"]
    assert scheme.describe() == "explicit: many 1, few 1"
    assert GroupScheme.from_dict(scheme.to_dict()) == scheme


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({"many_abov": 3}, "did you mean 'many_above'"),
        ({"many_above": 3, "few": [1]}, "not both"),
        ({"many": [0], "few": [0]}, "listed twice"),
        ({"many_above": 5, "few_below": 50}, "at once"),
        ({"many_above": "lots"}, "cannot read"),
    ],
)
def test_bad_groups_are_refused(raw: dict, text: str) -> None:
    with pytest.raises(ManifestError, match=text):
        GroupScheme.from_dict(raw)


def test_explicit_labels_must_exist() -> None:
    with pytest.raises(ManifestError, match="lists class 7"):
        GroupScheme.from_dict({"few": [7]}).assign(np.array([1, 2]))


def test_scores_equal_scikit_learn() -> None:
    logits, labels = _data()
    metrics = evaluate_logits(logits, labels, np.full(6, 30), bootstrap=0)
    predicted = logits.argmax(1)
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert metrics.overall == pytest.approx(accuracy_score(labels, predicted))
    assert metrics.mean_per_class == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert metrics.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert metrics.nll == pytest.approx(log_loss(labels, odds))
    assert metrics.intervals == {}


def test_scores_by_hand() -> None:
    labels = np.array([0, 0, 1, 1, 2])
    logits = np.log(np.array([[8, 1, 1], [8, 1, 1], [8, 1, 1], [1, 8, 1], [1, 8, 1]]) / 10)
    metrics = evaluate_logits(
        logits,
        labels,
        np.array(
            [
                200,
                50,
                5,
            ]
        ),
        bootstrap=0,
    )
    assert metrics.per_class == (1.0, 0.5, 0.0)
    assert (metrics.many, metrics.medium, metrics.few) == (1.0, 0.5, 0.0)
    assert metrics.head_tail_gap == 1.0 and metrics.worst_class == 0.0
    assert metrics.harmonic_mean == pytest.approx(3 / (1 + 2 + 1e5))
    assert metrics.geometric_mean == pytest.approx((0.5 * 1e-5) ** (1 / 3))
    assert metrics.ece == pytest.approx(0.2)  # one bin: confidence .8, accuracy .6
    assert metrics.per_class_rows == (2, 2, 1)


def test_empty_group_and_class_without_rows_are_none_not_nan() -> None:
    logits, labels = _data(classes=3)
    logits = np.column_stack([logits, np.full(len(labels), -9.0)])
    metrics = evaluate_logits(logits, labels, np.array([500, 400, 300, 0]))
    assert metrics.few is None and metrics.medium is None and metrics.head_tail_gap is None
    assert metrics.group_sizes == {"many": 3, "medium": 0, "few": 1}
    assert metrics.per_class[3] is None
    assert percent(metrics.few) == "-" and percent(0.375) == "37.5"
    text = json.dumps(metrics.to_dict(), allow_nan=False)
    assert read_record(Metrics, json.loads(text), name="metrics.json") == metrics


def test_intervals_hold_the_score_and_are_repeatable() -> None:
    logits, labels = _data()
    units = np.array([f"u{i // 3}" for i in range(len(labels))])
    one = evaluate_logits(logits, labels, np.full(6, 30), units=units, seed=3)
    two = evaluate_logits(logits, labels, np.full(6, 30), units=units, seed=3)
    assert one == two
    for name, (low, high) in one.intervals.items():
        assert low < getattr(one, name) < high


def test_resampling_has_the_variance_of_the_class_mean() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 1))
    gathered = UnitSums.gather(values, np.zeros(5, int), None, 2)
    sums = gathered.resample(40_000, seed=1)
    means = sums[:, 0, 0] / sums[:, 1, 0]
    assert means.mean() == pytest.approx(values.mean(), abs=0.02)
    assert means.var() == pytest.approx(values.var(ddof=1) / 5, rel=0.05)
    assert (sums[:, :, 1] == 0).all()


def test_units_that_move_together_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 300)
    unit = np.arange(600) // 10
    right = np.repeat(rng.random(60) < 0.5, 10)
    logits = np.eye(2)[np.where(right, labels, 1 - labels)]

    def width(units: np.ndarray | None) -> float:
        low, high = evaluate_logits(logits, labels, np.ones(2), units=units).intervals["overall"]
        return high - low

    assert width(unit) / width(None) == pytest.approx(np.sqrt(10), rel=0.15)


def test_the_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(5)
    labels, hits = np.repeat(np.arange(4), 50), 0
    for trial in range(200):
        wrong = rng.random(200) < 0.3
        logits = np.eye(4)[np.where(wrong, (labels + 1) % 4, labels)]
        found = evaluate_logits(logits, labels, np.ones(4), bootstrap=300, seed=trial)
        low, high = found.intervals["overall"]
        hits += low <= 0.7 <= high
    assert 180 <= hits <= 198


def test_paired_bootstrap_sees_a_difference_that_unpaired_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 40)
    a = rng.random(400) < 0.5
    b = a | (rng.random(400) < 0.06)
    counts = np.repeat([200, 5], 5)
    found = paired_bootstrap(a, b, labels, statistic="few", groups=GroupScheme().assign(counts))
    assert 0 < found.low < found.difference < found.high and found.p < 0.05
    same = paired_bootstrap(a, a, labels, statistic="overall")
    assert same.difference == 0 and same.p == 1.0
    seeds = paired_bootstrap(np.stack([a, a]), np.stack([b, a]), labels, statistic="overall")
    assert seeds.difference == pytest.approx((b.mean() - a.mean()) / 2)
    with pytest.raises(ValueError, match="unknown statistic"):
        paired_bootstrap(a, b, labels, statistic="best")
    with pytest.raises(ValueError, match="give the groups of the classes"):
        paired_bootstrap(a, b, labels, statistic="few")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"labels": np.array([0, 9])}, "labels run from 0 to 9"),
        ({"labels": np.array([0, -1])}, "without a label"),
        ({"logits": np.array([[0, np.nan, 0], [0, 0, 0]])}, "NaN"),
        ({"class_counts": np.ones(2)}, "do not fit"),
        ({"units": np.array([1])}, "1 units for 2 rows"),
        ({"class_weights": np.ones(2)}, r"class_weights \(2,\) for 3 classes"),
        ({"logits": np.zeros((0, 3)), "labels": np.zeros(0, int)}, "no rows"),
    ],
)
def test_bad_input_is_refused(change: dict, text: str) -> None:
    good = {"logits": np.zeros((2, 3)), "labels": np.array([0, 1]), "class_counts": np.ones(3)}
    with pytest.raises(ValueError, match=text):
        evaluate_logits(**(good | change))
