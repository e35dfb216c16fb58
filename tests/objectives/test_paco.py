"""Parametric contrast against a plain reference, its limits, and what its queue keeps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ltcache.errors import FitError
from ltcache.heads import HeadContext, LinearHead
from ltcache.losses import BalancedSoftmax, CrossEntropy
from ltcache.objectives import (
    OBJECTIVES,
    GPaCoObjective,
    HeadOutputs,
    PaCoObjective,
    TrainingBatch,
    TrainingStart,
    parametric_contrast,
)

COUNTS = torch.tensor([50, 20, 5, 2])
ROWS, DIM = 9, 5


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _views() -> tuple[HeadOutputs, TrainingBatch]:
    labels = torch.arange(ROWS) % 4
    first, second = (
        HeadOutputs(_draw(1, ROWS, DIM, seed=k), z[None], z)
        for k, z in ((1, _draw(ROWS, 4, seed=3)), (2, _draw(ROWS, 4, seed=4)))
    )
    outputs = HeadOutputs(first.representation, first.experts, first.logits, second)
    return outputs, TrainingBatch(first.representation[0], labels, partner_labels=labels)


def _started(kind: type[GPaCoObjective], **options: float) -> GPaCoObjective:
    objective = kind(CrossEntropy(COUNTS), queue=20, width=3, hidden=32, **options)
    head = LinearHead(HeadContext(DIM, 4, COUNTS)).double()
    rows = TrainingBatch(_draw(30, DIM), torch.arange(30) % 4)
    start = TrainingStart(head, None, rows, None, torch.Generator().manual_seed(5))
    objective.begin(start)
    return objective.double().train()


def _reference(
    z: np.ndarray, y: list[int], anchors: np.ndarray, keys: np.ndarray, key_y: list[int],
    alpha: float, gamma: float, temperature: float,
) -> float:  # fmt: skip
    """Return the mean loss of the anchors, the first of the keys, in plain loops."""
    prior = np.log(COUNTS.numpy() / COUNTS.sum().item() + 1e-9)
    losses = []
    for i, label in enumerate(y):
        classes = z[i] + prior
        scores = {j: anchors[i] @ keys[j] / temperature for j in range(len(keys)) if j != i}
        total = np.exp(classes).sum() + gamma * sum(math.exp(s) for s in scores.values())
        positives = [j for j in scores if key_y[j] == label]
        wanted = classes[label] - math.log(total + 1e-12)
        wanted += alpha * sum(scores[j] - math.log(total + 1e-12) for j in positives)
        losses.append(-wanted / (1 + alpha * len(positives)))
    return float(np.mean(losses))


def _unit(rows: Tensor) -> np.ndarray:
    return (rows / rows.norm(dim=1, keepdim=True)).detach().numpy()


@pytest.mark.parametrize("filled", [False, True])
def test_gpaco_is_its_formula(filled: bool) -> None:
    objective = _started(GPaCoObjective, alpha=0.3, gamma=0.7, temperature=0.4)
    outputs, batch = _views()
    if filled:
        objective(outputs, batch, 0.0)
        objective.end_step()
    found = objective(outputs, batch, 0.0).item()
    q = _unit(objective.projection(outputs.representation[0]))
    k = _unit(objective.projection(outputs.partner.representation[0]))
    keys = np.concatenate([q, k, objective.queue_keys.numpy()])
    labels = batch.labels.tolist()
    wanted = _reference(
        torch.cat([outputs.logits, outputs.partner.logits]).numpy(), 2 * labels,
        np.concatenate([q, k]), keys, [*labels, *labels, *objective.queue_labels.tolist()],
        0.3, 0.7, 0.4,
    )  # fmt: skip
    assert found == pytest.approx(wanted, abs=1e-12)
    assert len(objective.queue_keys) == (ROWS if filled else 0)


def test_paco_is_its_formula_and_its_keys_carry_no_gradient() -> None:
    objective = _started(PaCoObjective, alpha=0.3, momentum=0.5)
    outputs, batch = _views()
    objective(outputs, batch, 0.0)
    objective.end_step()
    with torch.no_grad():  # the copy falls behind
        for parameter in objective.projection.parameters():
            parameter.add_(0.1)
    found = objective(outputs, batch, 0.0)
    q = _unit(objective.projection(outputs.representation[0]))
    k = _unit(objective.copied(outputs.partner.representation[0]))
    labels = batch.labels.tolist()
    wanted = _reference(
        outputs.logits.numpy(), labels, q, np.concatenate([q, k, objective.queue_keys.numpy()]),
        [*labels, *labels, *objective.queue_labels.tolist()], 0.3, 1.0, 0.2,
    )  # fmt: skip
    assert found.item() == pytest.approx(wanted, abs=1e-12)
    found.backward()
    assert all(p.grad is None for p in objective.copied.parameters())
    assert all(p.grad is not None for p in objective.projection.parameters())


def test_the_copy_follows_the_projection() -> None:
    objective = _started(PaCoObjective, momentum=0.75)
    before = objective.copied[0].weight.clone()
    with torch.no_grad():
        objective.projection[0].weight.add_(1.0)
    objective.end_step()
    torch.testing.assert_close(objective.copied[0].weight, before + 0.25)


@pytest.mark.parametrize("kind", [GPaCoObjective, PaCoObjective])
def test_without_keys_it_is_balanced_softmax(kind: type[GPaCoObjective]) -> None:
    objective = _started(kind, alpha=0.0, gamma=0.0)
    outputs, batch = _views()
    plain = BalancedSoftmax(COUNTS)
    wanted = plain(outputs.logits, batch.labels).mean()
    if kind is GPaCoObjective:
        wanted = (wanted + plain(outputs.partner.logits, batch.labels).mean()) / 2
    torch.testing.assert_close(objective(outputs, batch, 0.0), wanted, atol=1e-7, rtol=0)


def test_the_share_of_the_centre_among_positives_falls_with_their_number() -> None:
    scores, labels = torch.zeros(1, 3).double(), torch.tensor([0])
    keys = torch.zeros(1, 5).double().requires_grad_()
    centre = scores.clone().requires_grad_()
    positives = torch.tensor([0, 0, 0, 0, 1])
    parametric_contrast(centre, labels, keys, positives, alpha=0.5, gamma=1.0).sum().backward()
    pulled = 1 / 8 - centre.grad[0, 0]  # softmax minus gradient: the target share
    assert float(pulled) == pytest.approx(1 / (1 + 0.5 * 4))


def test_the_queue_keeps_the_newest_keys() -> None:
    objective = _started(GPaCoObjective)
    outputs, batch = _views()
    for step in range(3):
        labels = torch.full((ROWS,), step)
        objective(outputs, TrainingBatch(batch.features, labels, partner_labels=labels), 0.0)
        objective.end_step()
    assert objective.queue_labels.tolist() == 2 * [0] + ROWS * [1] + ROWS * [2]
    assert objective.queue_keys.shape == (20, 3)


@pytest.mark.parametrize("name", ["gpaco", "paco"])
def test_what_it_refuses(name: str) -> None:
    with pytest.raises(FitError, match="correct it a second time"):
        OBJECTIVES[name](BalancedSoftmax(COUNTS))
    with pytest.raises(FitError, match="must be positive"):
        OBJECTIVES[name](CrossEntropy(COUNTS), temperature=0.0)
