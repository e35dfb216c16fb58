"""LFME against a plain reference: experts of groups, curriculum, distillation and its fading."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ltcache.errors import FitError
from ltcache.heads import HeadContext, LinearHead
from ltcache.heads.experts import ExpertsHead
from ltcache.losses import CrossEntropy
from ltcache.objectives import (
    GroupExpertsObjective,
    HeadOutputs,
    LFMEObjective,
    TrainingBatch,
    TrainingStart,
)

COUNTS = torch.tensor([300, 150, 60, 40, 10, 4])
GROUP = np.array([0, 0, 1, 1, 2, 2])
MEANS = np.array([225.0, 50.0, 7.0])
ROWS, DIM = 24, 5
LABELS = torch.arange(ROWS) % 6


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def _experts() -> ExpertsHead:
    head = ExpertsHead(HeadContext(DIM, 6, COUNTS), experts=3).double()
    with torch.no_grad():
        head.weight.copy_(_draw(3, 6, DIM, seed=8))
    return head


def _started(**options: float) -> tuple[LFMEObjective, np.ndarray]:
    """Return the objective and the experts' logits of the training rows, (3, N, C)."""
    features, experts = _draw(ROWS, DIM, seed=1), _experts()
    objective = LFMEObjective(CrossEntropy(COUNTS), **options)
    rows = TrainingBatch(features, LABELS)
    head = LinearHead(HeadContext(DIM, 6, COUNTS)).double()
    objective.begin(TrainingStart(head, experts, rows, None, torch.Generator()))
    return objective, experts.classify(experts.represent(features)).detach().numpy()


def test_each_expert_learns_its_group_alone() -> None:
    z = _draw(3, ROWS, 6, seed=2)
    wanted = 0.0
    for g in range(3):
        members = np.flatnonzero(g == GROUP)
        rows = [i for i in range(ROWS) if GROUP[LABELS[i]] == g]
        wanted += np.mean(
            [
                -np.log(_softmax(z[g, i].numpy()[members])[list(members).index(int(LABELS[i]))])
                for i in rows
            ]
        )
    found = GroupExpertsObjective(CrossEntropy(COUNTS))(
        HeadOutputs(z, z, z.mean(dim=0)), TrainingBatch(torch.zeros(ROWS, DIM), LABELS), 0.0
    )
    assert float(found) == pytest.approx(wanted, abs=1e-12)


def _easiness(z: np.ndarray) -> np.ndarray:
    """Return h of every row, (N,), in plain loops."""
    h = np.empty(ROWS)
    for i, label in enumerate(LABELS.tolist()):
        members = np.flatnonzero(GROUP[label] == GROUP)
        h[i] = _softmax(z[GROUP[label], i, members])[list(members).index(label)]
    for label in range(6):
        own = LABELS.numpy() == label
        t = MEANS[2] / MEANS[GROUP[label]]
        low, high = h[own].min(), h[own].max()
        h[own] = (h[own] - low) / (high - low) * (1 - t) + t
    return h


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 1.0])
def test_the_student_is_taught_as_the_formula_says(progress: float) -> None:
    objective, z = _started()
    objective.beta = torch.tensor([1.0, 0.5, 0.0])
    student = _draw(ROWS, 6, seed=3)
    h = _easiness(z)
    paced = (h + 2 * progress * (1 - h))[:, None] * student.numpy()
    wanted = np.mean([-np.log(_softmax(paced[i])[LABELS[i]]) for i in range(ROWS)])
    for g, beta in enumerate((1.0, 0.5, 0.0)):
        members = np.flatnonzero(g == GROUP)
        for i in range(ROWS):
            p, q = _softmax(z[g, i, members] / 2), _softmax(paced[i, members] / 2)
            wanted += beta * (p * np.log(p / q)).sum() / ROWS
    batch = TrainingBatch(torch.zeros(ROWS, DIM), LABELS, rows=torch.arange(ROWS))
    found = objective(HeadOutputs(student[None], student[None], student), batch, progress)
    assert float(found) == pytest.approx(wanted, abs=1e-10)


def test_rows_of_few_shot_classes_are_never_held_back() -> None:
    objective, _ = _started()
    few = torch.tensor(GROUP)[LABELS] == 2
    torch.testing.assert_close(objective.easiness[few], torch.ones(int(few.sum())).double())
    assert objective.easiness[~few].min() < 0.5


def test_experts_fade_as_they_are_reached() -> None:
    objective, _ = _started()
    objective.expert_accuracy = torch.tensor([0.8, 0.5, 1.0]).double()
    head = LinearHead(HeadContext(DIM, 6, COUNTS)).double()
    student = head(objective._judged.features).argmax(dim=1) == LABELS
    objective.end_epoch(head)
    for g in range(3):
        own = torch.tensor(GROUP)[LABELS] == g
        reached = float(student[own].double().mean()) / float(objective.expert_accuracy[g])
        wanted = 1.0 if reached < 0.3 else max(0.0, (1 - reached) / 0.7)
        assert float(objective.beta[g]) == pytest.approx(wanted)


def test_it_needs_experts_before_it() -> None:
    objective = LFMEObjective(CrossEntropy(COUNTS))
    head = LinearHead(HeadContext(DIM, 6, COUNTS))
    rows = TrainingBatch(torch.zeros(6, DIM), torch.arange(6))
    for previous in (None, head):
        with pytest.raises(FitError, match="three experts of the stage before it"):
            objective.begin(TrainingStart(head, previous, rows, None, torch.Generator()))
