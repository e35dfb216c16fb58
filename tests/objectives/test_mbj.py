"""The memory of past rows: its loss against plain loops, what enters it, and what it is without."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ltcache.errors import FitError
from ltcache.fit import FitOptions, LabelledRows, fit_head
from ltcache.heads import HeadContext, LinearHead, predict_logits
from ltcache.losses import ClassBalanced, CrossEntropy
from ltcache.methods import METHODS, override
from ltcache.objectives import HeadOutputs, MBJObjective, TrainingBatch, TrainingStart, WeightedMean

COUNTS = torch.tensor([60, 24, 10, 2])  # mean 24
CHANCE = [0.4, 1.0, 1.0, 1.0]
ROWS, DIM = 12, 5
CONTEXT = HeadContext(DIM, 4, COUNTS)
LABELS = torch.arange(ROWS) % 4


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _started(**options: float) -> tuple[MBJObjective, LinearHead]:
    head = LinearHead(CONTEXT).double()
    with torch.no_grad():
        head.weight.copy_(_draw(4, DIM, seed=1))
        head.bias_vector.copy_(_draw(4, seed=2))
    objective = MBJObjective(CrossEntropy(COUNTS), **options)
    rows = TrainingBatch(_draw(ROWS, DIM), LABELS)
    objective.begin(TrainingStart(head, None, rows, None, torch.Generator().manual_seed(5)))
    return objective, head


def _step(
    objective: MBJObjective, head: LinearHead, rows: Tensor, progress: float = 0.5, **batch: Tensor
) -> Tensor:
    z = head.classify(rows)
    return objective(
        HeadOutputs(rows[None], z[None], z), TrainingBatch(rows, LABELS, **batch), progress
    )


def _ce(head: LinearHead, rows: list[list[float]], labels: list[int]) -> float:
    total = 0.0
    weight, bias = head.weight.tolist(), head.bias_vector.tolist()
    for v, y in zip(rows, labels, strict=True):
        z = [
            sum(a * b for a, b in zip(w, v, strict=True)) + c
            for w, c in zip(weight, bias, strict=True)
        ]
        total += math.log(sum(math.exp(s) for s in z)) - z[y]
    return total / len(rows)


def test_the_loss_and_the_bank_are_those_of_the_formula() -> None:
    objective, head = _started(bank=15, weight=0.3)
    draws = torch.Generator().manual_seed(5)
    kept: list[list[float]] = []
    labels: list[int] = []
    for step in range(4):
        rows = _draw(ROWS, DIM, seed=10 + step)
        with torch.no_grad():
            head.weight.add_(0.1)  # past rows are scored by the classifier of the step
        found = _step(objective, head, rows)
        wanted = _ce(head, rows.tolist(), LABELS.tolist())
        if kept:
            wanted += 0.3 * _ce(head, kept, labels)
        assert found.item() == pytest.approx(wanted, abs=1e-12)
        objective.end_step()
        for draw, row, label in zip(
            torch.rand(ROWS, generator=draws, dtype=torch.float64).tolist(),
            rows.tolist(), LABELS.tolist(), strict=True,
        ):  # fmt: skip
            if draw < CHANCE[label]:
                kept, labels = [*kept, row][-15:], [*labels, label][-15:]
        assert objective.bank_labels.tolist() == labels
        assert objective.bank_rows[0].tolist() == kept


def test_gradients_reach_the_classifier_through_the_bank_but_not_past_rows() -> None:
    objective, head = _started()
    rows = _draw(ROWS, DIM, seed=3).requires_grad_()
    _step(objective, head, rows)
    objective.end_step()
    alone = _ce_gradient(head, objective.bank_rows[0], objective.bank_labels)
    other = _draw(ROWS, DIM, seed=4)
    batch = _ce_gradient(head, other, LABELS)
    _step(objective, head, other).backward()
    torch.testing.assert_close(head.weight.grad, alone + batch)
    assert rows.grad is None


def _ce_gradient(head: LinearHead, rows: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the mean cross entropy in the weight: (p - y) v' over rows."""
    with torch.no_grad():
        p = head.classify(rows).softmax(dim=1)
    p[torch.arange(len(rows)), labels] -= 1
    return p.T @ rows.detach() / len(rows)


def test_frequent_classes_enter_by_chance_and_rare_ones_always() -> None:
    objective, head = _started(bank=10**6)
    for step in range(500):
        _step(objective, head, _draw(ROWS, DIM, seed=step))
        objective.end_step()
    entered = torch.bincount(objective.bank_labels) / (500 * ROWS / 4)
    torch.testing.assert_close(entered, torch.tensor(CHANCE), atol=0.05, rtol=0)
    assert entered[1:].tolist() == [1.0, 1.0, 1.0]
    half = MBJObjective(CrossEntropy(COUNTS), admit=0.5)
    torch.testing.assert_close(half.chance, torch.tensor([0.2, 0.5, 1.0, 1.0]).double())


@pytest.mark.parametrize("off", [{"bank": 0}, {"admit": 0.0}, {"weight": 0.0}, {"begins": 0.9}])
def test_without_a_bank_it_is_the_mean_of_the_batch(off: dict[str, float]) -> None:
    objective, head = _started(**off)
    plain = WeightedMean(CrossEntropy(COUNTS))
    for step in range(3):
        rows = _draw(ROWS, DIM, seed=step)
        z = head.classify(rows)
        wanted = plain(HeadOutputs(rows[None], z[None], z), TrainingBatch(rows, LABELS), 0.5)
        assert torch.equal(_step(objective, head, rows), wanted)
        objective.end_step()


def test_sample_weights_and_class_weights_count_in_the_bank() -> None:
    objective, head = _started(bank=ROWS)
    objective.loss = ClassBalanced(COUNTS)
    objective.chance.fill_(1.0)
    first, second = _draw(ROWS, DIM, seed=3), _draw(ROWS, DIM, seed=4)
    weights = torch.rand(ROWS, generator=torch.Generator().manual_seed(1)).double()
    _step(objective, head, first, weights=weights)
    objective.end_step()
    assert objective.loss.class_weights is not None
    counted = weights * objective.loss.class_weights[LABELS]
    of_bank = objective.loss(head.classify(first), LABELS) @ (counted / counted.sum())
    z = head.classify(second)
    of_batch = objective.mean_loss(z, TrainingBatch(second, LABELS), 0.5)
    torch.testing.assert_close(_step(objective, head, second), of_batch + of_bank)


@pytest.mark.parametrize(
    "options", [{"bank": -1}, {"admit": -0.1}, {"weight": -1.0}, {"begins": 1.5}]
)
def test_impossible_settings_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(FitError, match="must not be negative"):
        MBJObjective(CrossEntropy(COUNTS), **options)


def test_rows_with_two_labels_are_refused() -> None:
    objective, head = _started()
    with pytest.raises(FitError, match="keeps rows under one label"):
        _step(objective, head, _draw(ROWS, DIM), other_labels=LABELS.flip(0))


def test_a_fit_with_an_empty_bank_is_that_of_plain_cross_entropy() -> None:
    labels = torch.arange(4).repeat_interleave(COUNTS)
    rows = LabelledRows(_draw(len(labels), DIM).float(), labels)
    short = {"optimisation.epochs": 3, "optimisation.min_steps": 0}
    found = [
        fit_head(
            override(METHODS[name], {**short, **settings}), rows, CONTEXT, val=rows,
            options=FitOptions(closed_form=False),
        )
        for name, settings in (("mbj", {"objective.bank": 0}), ("ce", {}), ("mbj", {}))
    ]  # fmt: skip
    off, plain, on = (predict_logits(f.head, f.transform(rows.features)) for f in found)
    assert torch.equal(off, plain) and not torch.allclose(on, plain)
