"""Every objective in OBJECTIVES: weights, deferral, mixed labels; then references and laws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from ltcache.errors import FitError
from ltcache.losses import LDAM, BalancedSoftmax, ClassBalanced, CrossEntropy, Loss
from ltcache.objectives import (
    OBJECTIVES,
    HeadOutputs,
    ResLT,
    RideObjective,
    SadeObjective,
    TrainingBatch,
    WeightedMean,
)
from ltcache.objectives.sade import inverse_prior

COUNTS = torch.tensor([200, 101, 100, 20, 19, 3])
ROWS, CLASSES = 15, 6


def _outputs(experts: int = 3, seed: int = 0) -> HeadOutputs:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(experts, ROWS, CLASSES, generator=generator, dtype=torch.float64)
    logits = (3 * logits).requires_grad_()
    return HeadOutputs(torch.zeros(experts, ROWS, 2), logits, logits.mean(dim=0))


def _batch(weighted: bool = False, mixed: bool = False) -> TrainingBatch:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, CLASSES, (ROWS,), generator=generator)
    other = torch.randint(0, CLASSES, (ROWS,), generator=generator)
    weights = torch.rand(ROWS, generator=generator, dtype=torch.float64)
    return TrainingBatch(
        torch.zeros(ROWS, 2),
        labels,
        weights if weighted else None,
        other if mixed else None,
        0.7 if mixed else 1.0,
    )


WITH_STATE = {"gpaco", "paco", "lfme", "oltr", "mbj", "ace"}  # tests of their own


@pytest.fixture(params=sorted(set(OBJECTIVES) - WITH_STATE))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("progress", [0.0, 0.9])
def test_a_scalar_with_the_right_gradient(name: str, progress: float) -> None:
    objective, batch, outputs = OBJECTIVES[name](CrossEntropy(COUNTS)), _batch(True), _outputs()

    def of(experts: torch.Tensor) -> torch.Tensor:
        return objective(HeadOutputs(experts, experts, experts.mean(dim=0)), batch, progress)

    assert of(outputs.experts).shape == ()
    of(outputs.experts).backward()
    if name != "ride":  # its mean is detached
        assert torch.autograd.gradcheck(of, outputs.experts)
    assert torch.isfinite(outputs.experts.grad).all()


def test_a_row_of_weight_two_is_a_row_that_comes_twice(name: str) -> None:
    objective, batch, outputs = OBJECTIVES[name](CrossEntropy(COUNTS)), _batch(), _outputs()
    weights = torch.ones(ROWS, dtype=torch.float64)
    weights[4] = 2
    twice = torch.tensor([*range(ROWS), 4])
    experts = outputs.experts[:, twice]
    repeated = HeadOutputs(experts, experts, experts.mean(dim=0))
    torch.testing.assert_close(
        objective(outputs, replace(batch, weights=weights), 0.5),
        objective(repeated, batch.take(twice), 0.5),
    )


def test_mixed_labels_are_the_mixture_of_both(name: str) -> None:
    objective, outputs = OBJECTIVES[name](CrossEntropy(COUNTS)), _outputs()
    mixed = _batch(weighted=True, mixed=True)
    first, second = (objective(outputs, part.batch, 0.0) for part in mixed.by_label())
    torch.testing.assert_close(objective(outputs, mixed, 0.0), 0.7 * first + 0.3 * second)


def test_a_share_per_row_is_a_weight_of_each_label(name: str) -> None:
    objective, outputs = OBJECTIVES[name](CrossEntropy(COUNTS)), _outputs()
    mixed = _batch(weighted=True, mixed=True)
    equal = replace(mixed, share=torch.full((ROWS,), 0.7, dtype=torch.float64))
    torch.testing.assert_close(objective(outputs, equal, 0.0), objective(outputs, mixed, 0.0))
    whole = torch.tensor([1.0, 0.0]).repeat(ROWS)[:ROWS].double()  # one label of each row counts
    one = replace(mixed, share=whole)
    assert one.other_labels is not None
    labels = torch.where(whole > 0, one.labels, one.other_labels)
    plain = replace(one, labels=labels, other_labels=None, share=1.0)
    if name not in ("reslt", "group_experts"):  # their means are over some of the rows
        torch.testing.assert_close(objective(outputs, one, 0.0), objective(outputs, plain, 0.0))


def test_rows_without_weight_cost_nothing(name: str) -> None:
    objective, outputs = OBJECTIVES[name](CrossEntropy(COUNTS)), _outputs()
    mixed = _batch(weighted=True, mixed=True)
    first = replace(mixed, share=torch.ones(ROWS, dtype=torch.float64))
    plain = replace(mixed, other_labels=None, share=1.0)
    torch.testing.assert_close(objective(outputs, first, 0.0), objective(outputs, plain, 0.0))


REFUSES_LDAM = {"sade"}


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - WITH_STATE - REFUSES_LDAM))
def test_class_weights_wait_for_their_time(name: str) -> None:
    late = OBJECTIVES[name](LDAM(COUNTS, weights_from=0.5))
    never = OBJECTIVES[name](LDAM(COUNTS, beta=0.0))
    outputs, batch = _outputs(), _batch()
    torch.testing.assert_close(late(outputs, batch, 0.4), never(outputs, batch, 0.4))
    assert not torch.allclose(late(outputs, batch, 0.6), never(outputs, batch, 0.6))


def test_the_loss_observes_nothing_since_the_fit_does(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def observe(self: Loss, labels: torch.Tensor) -> None:
        raise AssertionError("an objective must not count labels")

    monkeypatch.setattr(CrossEntropy, "observe", observe)
    OBJECTIVES[name](CrossEntropy(COUNTS))(_outputs(), _batch(mixed=True), 0.5)


def test_relabelling_classes_and_counts_together_changes_nothing(name: str) -> None:
    order = torch.tensor([3, 0, 5, 4, 1, 2])
    outputs, batch = _outputs(), _batch()
    moved = outputs.experts[:, :, order]
    torch.testing.assert_close(
        OBJECTIVES[name](CrossEntropy(COUNTS[order]))(
            HeadOutputs(moved, moved, moved.mean(dim=0)),
            replace(batch, labels=order.argsort()[batch.labels]),
            0.9,
        ),
        OBJECTIVES[name](CrossEntropy(COUNTS))(outputs, batch, 0.9),
    )


def test_row_weights_are_those_of_the_objective(name: str) -> None:
    loss = CrossEntropy(COUNTS) if name == "sade" else ClassBalanced(COUNTS)
    objective, batch, outputs = OBJECTIVES[name](loss), _batch(True), _outputs()
    weights = objective.row_weights(batch, 0.0)
    if weights is None:
        assert name != "mean"
        return
    losses = objective.loss(outputs.logits, batch.labels)
    torch.testing.assert_close(objective(outputs, batch, 0.0), losses @ weights)
    assert objective.row_weights(_batch(mixed=True), 0.0) is None


@pytest.mark.parametrize("kind", [ClassBalanced, BalancedSoftmax, LDAM])
def test_sade_refuses_a_loss_that_corrects_too(kind: type[Loss]) -> None:
    with pytest.raises(FitError, match=rf"{kind.__name__} would correct it a second time"):
        SadeObjective(kind(COUNTS))


@pytest.mark.parametrize("name", ["reslt", "sade"])
@pytest.mark.parametrize("experts", [1, 4])
def test_three_experts_are_asked_for(name: str, experts: int) -> None:
    with pytest.raises(FitError, match=rf"is for 3 experts, the head has {experts}"):
        OBJECTIVES[name](CrossEntropy(COUNTS))(_outputs(experts), _batch(), 0.0)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("ride", {"temperature": 0.0}, "temperature=0.0 must be positive"),
        ("ride", {"reweight_factor": 2.0}, "reweight_factor=2.0 must lie in 0..1"),
        ("reslt", {"beta": 1.5}, "beta=1.5 must lie in 0..1"),
    ],
)
def test_impossible_settings_are_refused(name: str, options: dict[str, float], text: str) -> None:
    with pytest.raises(FitError, match=text):
        OBJECTIVES[name](CrossEntropy(COUNTS), **options)


# references: plain loops over lists of floats
N = COUNTS.tolist()
PI = [n / sum(N) for n in N]
Y = _batch().labels.tolist()
Z = _outputs().experts.tolist()  # expert, row, class


def _softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in row)
    return [math.exp(v) / total for v in row]


def _ce(row: list[float], label: int) -> float:
    return -math.log(_softmax(row)[label])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _plain_ride(reweighted: bool) -> float:
    r = 0.05
    per_class = [CLASSES * share * r + 1 - r for share in PI]
    temperature = [w / max(per_class) if reweighted else 1.0 for w in per_class]
    total = 0.0
    for expert in Z:
        total += _mean([_ce(expert[i], Y[i]) for i in range(ROWS)])
        divergence = 0.0
        for i in range(ROWS):
            middle = [_mean([e[i][c] for e in Z]) / temperature[c] for c in range(CLASSES)]
            target = _softmax(middle)
            mine = _softmax([expert[i][c] / temperature[c] for c in range(CLASSES)])
            divergence += sum(t * math.log(t / m) for t, m in zip(target, mine, strict=True))
        total += -0.2 * _mean(temperature) ** 2 * divergence / ROWS
    return total


def _plain_reslt() -> float:
    fused, terms = [], []
    for i in range(ROWS):
        fused.append(_ce([sum(e[i][c] for e in Z) for c in range(CLASSES)], Y[i]))
        terms.append(_ce(Z[0][i], Y[i]))
        if N[Y[i]] <= 100:
            terms.append(_ce(Z[1][i], Y[i]))
        if N[Y[i]] < 20:
            terms.append(_ce(Z[2][i], Y[i]))
    return 0.01 * _mean(fused) + 0.99 * _mean(terms)


def _plain_sade() -> float:
    turned = PI[::-1]  # counts fall from the first class to the last
    total = 0.0
    for i in range(ROWS):
        total += _ce(Z[0][i], Y[i])
        total += _ce([v + math.log(PI[c] + 1e-9) for c, v in enumerate(Z[1][i])], Y[i])
        third = [
            v + math.log(PI[c] + 1e-9) - 2 * math.log(turned[c] + 1e-9)
            for c, v in enumerate(Z[2][i])
        ]
        total += _ce(third, Y[i])
    return total / ROWS


REFERENCES: dict[str, tuple[Callable[[], float], float]] = {
    "ride": (lambda: _plain_ride(False), 0.5),
    "ride, reweighted": (lambda: _plain_ride(True), 0.8),
    "reslt": (_plain_reslt, 0.5),
    "sade": (_plain_sade, 0.5),
    "mean": (
        lambda: _mean(
            [_ce([_mean([e[i][c] for e in Z]) for c in range(CLASSES)], Y[i]) for i in range(ROWS)]
        ),
        0.5,
    ),
}


@pytest.mark.parametrize("case", sorted(REFERENCES))
def test_the_objective_equals_a_plain_reference(case: str) -> None:
    reference, progress = REFERENCES[case]
    objective = OBJECTIVES[case.split(",")[0]](CrossEntropy(COUNTS))
    found = objective(_outputs(), _batch(), progress).detach()
    assert float(found) == pytest.approx(reference(), rel=1e-10)


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_ride_with_one_expert_is_the_mean_of_its_loss(progress: float) -> None:
    outputs, batch = _outputs(1), _batch(weighted=True)
    torch.testing.assert_close(
        RideObjective(CrossEntropy(COUNTS))(outputs, batch, progress),
        WeightedMean(CrossEntropy(COUNTS))(outputs, batch, progress),
    )


def test_ride_rewards_experts_that_differ() -> None:
    alike = _outputs(1).experts.expand(3, -1, -1)
    same = HeadOutputs(alike, alike, alike[0])
    ride, plain = (
        RideObjective(CrossEntropy(COUNTS)),
        RideObjective(CrossEntropy(COUNTS), delta=0.0),
    )
    torch.testing.assert_close(ride(same, _batch(), 0.0), plain(same, _batch(), 0.0))
    assert ride(_outputs(), _batch(), 0.0) < plain(_outputs(), _batch(), 0.0)


def test_reslt_groups_follow_the_thresholds() -> None:
    assert ResLT(CrossEntropy(COUNTS)).reach.tolist() == [1, 1, 2, 2, 3, 3]
    assert ResLT(CrossEntropy(COUNTS), few_below=4).reach.tolist() == [1, 1, 2, 2, 2, 3]


def test_reslt_without_rare_rows_trains_the_first_branch_alone() -> None:
    outputs = _outputs()
    batch = replace(_batch(), labels=torch.zeros(ROWS, dtype=torch.int64))
    ResLT(CrossEntropy(COUNTS), beta=1.0)(outputs, batch, 0.0).backward()
    grad = outputs.experts.grad
    assert grad[0].abs().sum() > 0 and grad[1:].abs().sum() == 0


def test_sade_without_imbalance_is_three_cross_entropies() -> None:
    outputs, batch = _outputs(), _batch()
    loss = CrossEntropy(torch.full((CLASSES,), 9))
    expected = sum(loss(logits, batch.labels).mean() for logits in outputs.experts)
    torch.testing.assert_close(SadeObjective(loss)(outputs, batch, 0.0), expected)
    offsets = SadeObjective(loss).offsets
    torch.testing.assert_close(offsets, offsets[:, :1].expand(3, CLASSES))


def test_the_inverse_prior_reverses_the_ranks_and_twice_returns_it() -> None:
    prior = torch.tensor([0.1, 0.5, 0.05, 0.35])
    assert inverse_prior(prior).tolist() == pytest.approx([0.35, 0.05, 0.5, 0.1])
    assert torch.equal(inverse_prior(inverse_prior(prior)), prior)
