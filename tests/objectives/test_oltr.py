"""OLTR's loss against plain loops, and the rule that moves its memory."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ltcache.errors import FitError
from ltcache.fit import FitOptions, LabelledRows, fit_head
from ltcache.heads import HeadContext, LinearHead, MetaEmbeddingHead
from ltcache.losses import CrossEntropy
from ltcache.methods import METHODS, override
from ltcache.objectives import HeadOutputs, OLTRObjective, TrainingBatch, TrainingStart

COUNTS = torch.tensor([50, 20, 5, 2])
ROWS, DIM = 9, 5
CONTEXT = HeadContext(DIM, 4, COUNTS)
LABELS = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2, 1])  # none of class 3


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _started(**options: float) -> tuple[OLTRObjective, MetaEmbeddingHead]:
    head = MetaEmbeddingHead(CONTEXT).double()
    with torch.no_grad():
        for seed, parameter in enumerate(head.parameters()):
            parameter.copy_(_draw(*parameter.shape, seed=seed))
    objective = OLTRObjective(CrossEntropy(COUNTS), **options)
    objective.begin(
        TrainingStart(head, None, TrainingBatch(_draw(ROWS, DIM), LABELS), None, torch.Generator())
    )
    return objective, head


def _outputs(head: MetaEmbeddingHead, rows: Tensor) -> HeadOutputs:
    representation = head.represent(rows)
    experts = head.classify(representation)
    return HeadOutputs(representation, experts, head.combine(experts))


@pytest.mark.parametrize("margin", [10.0, 1e3])  # the second makes the repelling part positive
def test_the_loss_and_the_gradient_of_the_memory_are_those_of_the_formula(margin: float) -> None:
    objective, head = _started(centroids=0.3, repel=0.2, margin=margin)
    rows = _draw(ROWS, DIM, seed=20)
    outputs = _outputs(head, rows)
    found = objective(outputs, TrainingBatch(rows, LABELS), 0.0)
    found.backward()

    v, m, y = rows.tolist(), head.memory.tolist(), LABELS.tolist()
    ce = attract = far = 0.0
    for i, z in enumerate(outputs.logits.tolist()):
        ce += (math.log(sum(math.exp(s) for s in z)) - z[y[i]]) / ROWS
        attract += math.dist(v[i], m[y[i]]) ** 2 / (2 * ROWS)
        far += sum(math.dist(v[i], m[c]) ** 2 for c in range(4) if c != y[i]) / (ROWS * 4)
    repelled = max(0.0, margin - far)
    assert found.item() == pytest.approx(ce + 0.3 * (attract + 0.2 * repelled), abs=1e-12)

    wanted = np.zeros((4, DIM))
    for c in range(4):
        own = [i for i in range(ROWS) if y[i] == c]
        for d in range(DIM):
            rule = sum(m[c][d] - v[i][d] for i in own) / ((1 + len(own)) * ROWS)
            others = sum(m[c][d] - v[i][d] for i in range(ROWS) if y[i] != c)
            pushed = -2 * others / (ROWS * 4) if repelled else 0.0
            wanted[c, d] = rule + 0.3 * 0.2 * pushed
    assert (repelled > 0) == (margin > 10)
    np.testing.assert_allclose(head.memory.grad.numpy(), wanted, atol=1e-12)


def test_the_rule_of_the_memory_does_not_depend_on_the_weight_of_the_loss() -> None:
    gradients = []
    for weight in (0.0, 0.5):
        objective, head = _started(centroids=weight)
        rows = _draw(ROWS, DIM, seed=20)
        objective(_outputs(head, rows), TrainingBatch(rows, LABELS), 0.0).backward()
        gradients.append(head.memory.grad)
    torch.testing.assert_close(*gradients)
    assert not gradients[0][3].any(), "a class without rows in the batch stays"


def test_a_representation_that_is_trained_is_attracted() -> None:
    objective, head = _started(centroids=1.0)
    rows = _draw(ROWS, DIM, seed=20).requires_grad_()
    flat = torch.zeros(1, ROWS, 4, dtype=torch.float64)
    objective(HeadOutputs(rows[None], flat, flat[0]), TrainingBatch(rows, LABELS), 0.0).backward()
    torch.testing.assert_close(rows.grad, (rows - head.memory[LABELS]).detach() / ROWS)


def test_mixed_labels_are_the_mixture_of_both() -> None:
    objective, head = _started()
    rows = _draw(ROWS, DIM, seed=20)
    mixed = TrainingBatch(rows, LABELS, other_labels=LABELS.flip(0), share=0.7)
    outputs = _outputs(head, rows)
    first, second = (objective(outputs, part.batch, 0.0) for part in mixed.by_label())
    torch.testing.assert_close(objective(outputs, mixed, 0.0), 0.7 * first + 0.3 * second)


def test_a_head_without_memory_is_refused() -> None:
    start = TrainingStart(
        LinearHead(CONTEXT), None, TrainingBatch(_draw(ROWS, DIM), LABELS), None, torch.Generator()
    )
    with pytest.raises(FitError, match="a LinearHead lacks: take head=meta_embedding"):
        OLTRObjective(CrossEntropy(COUNTS)).begin(start)


def test_the_head_stays_outside_the_objective() -> None:
    objective, head = _started()
    assert not list(objective.parameters())
    assert "memory" in dict(head.named_parameters())


def test_in_a_fit_the_memory_moves_at_its_own_rate_from_the_class_means() -> None:
    labels = torch.arange(4).repeat_interleave(COUNTS)
    rows = LabelledRows(_draw(len(labels), DIM).float() + 3 * labels[:, None], labels)
    settings = {"stages.1.optimisation.epochs": 1, "stages.1.optimisation.min_steps": 0}
    method = override(METHODS["oltr"], settings)
    moved = {}
    for factor in (0.0, 0.1, 1.0):
        last = replace(method.stages[1], lr_factors={"memory": factor})
        changed = replace(method, stages=(method.stages[0], last))
        fitted = fit_head(changed, rows, CONTEXT, val=rows, options=FitOptions())
        seen = fitted.transform(rows.features)
        means = torch.stack([seen[labels == c].mean(dim=0) for c in range(4)])
        moved[factor] = float((fitted.head.memory.detach() - means).abs().max())
    assert moved[0.0] < 1e-6 < 5 * moved[0.1] < moved[1.0]
