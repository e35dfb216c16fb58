"""ACE's reconstruction: its loss against plain loops, and the learning rate of each expert."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ltcache.errors import FitError
from ltcache.heads import ExpertsHead, HeadContext, NestedExpertsHead
from ltcache.losses import CrossEntropy
from ltcache.objectives import ACEObjective, HeadOutputs, TrainingBatch, TrainingStart

COUNTS = torch.tensor([300, 150, 60, 40, 10, 4])
REACH = [1, 1, 2, 2, 3, 3]
SHARES = [1.0, 114 / 564, 14 / 564]
ROWS, DIM = 14, 5
CONTEXT = HeadContext(DIM, 6, COUNTS)
LABELS = torch.arange(ROWS) % 6


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _started(**options: float) -> tuple[ACEObjective, NestedExpertsHead]:
    head = NestedExpertsHead(CONTEXT).double()
    with torch.no_grad():
        for seed, parameter in enumerate(head.parameters()):
            parameter.copy_(_draw(*parameter.shape, seed=seed))
    objective = ACEObjective(CrossEntropy(COUNTS), **options)
    rows = TrainingBatch(_draw(ROWS, DIM), LABELS)
    objective.begin(TrainingStart(head, None, rows, None, torch.Generator()))
    return objective, head


def _outputs(z: Tensor) -> HeadOutputs:
    return HeadOutputs(z, z, z.mean(dim=0))


def _reference(z: Tensor, labels: list[int], weights: list[float], complementary: float) -> float:
    total = 0.0
    for e in range(3):
        own = [c for c in range(6) if REACH[c] > e]
        others = [c for c in range(6) if c not in own]
        seen = [i for i, y in enumerate(labels) if y in own]
        mass = sum(weights[i] for i in seen)
        for i in seen:
            row = z[e, i].tolist()
            ce = math.log(sum(math.exp(row[c]) for c in own)) - row[labels[i]]
            raised = sum(math.log1p(math.exp(row[c])) for c in others) / max(1, len(others))
            total += weights[i] / mass * (ce + complementary * raised)
    return total


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_that_of_the_formula(weighted: bool) -> None:
    objective, _ = _started(complementary=0.3)
    z = _draw(3, ROWS, 6, seed=9)
    weights = torch.linspace(0.5, 2, ROWS).double() if weighted else None
    found = objective(_outputs(z), TrainingBatch(z[0], LABELS, weights), 0.0)
    plain = [1.0] * ROWS if weights is None else weights.tolist()
    wanted = _reference(z, LABELS.tolist(), plain, 0.3)
    assert found.item() == pytest.approx(wanted, abs=1e-12)


def test_classes_that_an_expert_never_sees_are_pushed_down_and_only_by_the_complement() -> None:
    gradients = []
    for complementary in (0.0, 1.0):
        z = _draw(3, ROWS, 6, seed=9).requires_grad_()
        objective, _ = _started(complementary=complementary)
        objective(_outputs(z), TrainingBatch(z[0], LABELS), 0.0).backward()
        gradients.append(z.grad)
    unseen = torch.tensor(REACH) <= torch.arange(3)[:, None]  # (3, C)
    rows_seen = torch.tensor(REACH)[LABELS] > torch.arange(3)[:, None]  # (3, N)
    pushed = rows_seen[:, :, None] & unseen[:, None]
    assert not gradients[0][pushed].any() and (gradients[1][pushed] > 0).all()
    for gradient in gradients:
        assert not gradient[~rows_seen].any(), "rows of other classes are not seen"
    torch.testing.assert_close(gradients[0][~pushed], gradients[1][~pushed])


def test_mixed_labels_are_the_mixture_of_both() -> None:
    objective, _ = _started()
    z = _draw(3, ROWS, 6, seed=9)
    mixed = TrainingBatch(z[0], LABELS, other_labels=LABELS.flip(0), share=0.7)
    first, second = (objective(_outputs(z), part.batch, 0.0) for part in mixed.by_label())
    torch.testing.assert_close(objective(_outputs(z), mixed, 0.0), 0.7 * first + 0.3 * second)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_the_rate_of_an_expert_is_that_of_an_optimiser_with_a_rate_per_expert(
    kind: type[torch.optim.Optimizer], exponent: float
) -> None:
    """Three steps equal those of an optimiser whose groups have the scaled learning rates."""
    objective, head = _started(rate_exponent=exponent)
    wanted = [
        [torch.nn.Parameter(part.clone()) for part in p.detach().view(3, -1)]
        for p in head.parameters()
    ]
    options = {"weight_decay": 0.1, **({"momentum": 0.9} if kind is torch.optim.SGD else {})}
    groups = [
        {"params": [parts[e] for parts in wanted], "lr": 0.05 * SHARES[e] ** exponent}
        for e in range(3)
    ]
    one, many = kind(list(head.parameters()), lr=0.05, **options), kind(groups, **options)
    for step in range(3):
        for number, (parameter, parts) in enumerate(zip(head.parameters(), wanted, strict=True)):
            parameter.grad = _draw(*parameter.shape, seed=100 * step + number)
            for part, gradient in zip(parts, parameter.grad.view(3, -1), strict=True):
                part.grad = gradient.clone()
        one.step()
        many.step()
        objective.end_step()
    for parameter, parts in zip(head.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.detach().view(3, -1), torch.stack(parts).detach())


def test_without_rare_classes_it_is_cross_entropy_of_the_first_expert() -> None:
    counts = torch.full((6,), 500)
    head = NestedExpertsHead(HeadContext(DIM, 6, counts)).double()
    objective = ACEObjective(CrossEntropy(counts))
    rows = TrainingBatch(_draw(ROWS, DIM), LABELS)
    objective.begin(TrainingStart(head, None, rows, None, torch.Generator()))
    z = _draw(3, ROWS, 6, seed=9)
    found = objective(_outputs(z), TrainingBatch(z[0], LABELS), 0.0)
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(z[0], LABELS))
    assert objective.rates.tolist() == pytest.approx([1.0, 0.0, 0.0])


def test_what_it_refuses() -> None:
    with pytest.raises(FitError, match="must not be negative"):
        ACEObjective(CrossEntropy(COUNTS), complementary=-0.1)
    with pytest.raises(FitError, match="must not be negative"):
        ACEObjective(CrossEntropy(COUNTS), rate_exponent=-1.0)
    rows = TrainingBatch(_draw(ROWS, DIM), LABELS)
    start = TrainingStart(ExpertsHead(CONTEXT), None, rows, None, torch.Generator())
    with pytest.raises(FitError, match="a ExpertsHead lacks: take head=nested_experts"):
        ACEObjective(CrossEntropy(COUNTS)).begin(start)
