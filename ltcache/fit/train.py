"""The training loop: epochs over resident tensors, and the epoch that validation data choose."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from ltcache.errors import FitError
from ltcache.fit.rows import Rows
from ltcache.fit.steps import AutogradStep, ClosedFormStep
from ltcache.heads import Head
from ltcache.methods import Optimisation
from ltcache.objectives import Batch, Objective
from ltcache.sampling import RowsByClass, Sampler

Progress = Callable[[dict[str, Any]], None]
_BLOCK = 8192  # rows predicted at once


@dataclass(frozen=True)
class Trained:
    """What a loop leaves: one record per epoch, and the epoch (from 1) that was kept."""

    history: list[dict[str, Any]]
    best_epoch: int


def train(
    head: Head,
    objective: Objective,
    sampler: Sampler,
    optimisation: Optimisation,
    rows: Rows,
    *,
    val: Rows | None,
    generator: Generator,
    stop_after: int | None = None,
    progress: Progress | None = None,
    closed_form: bool = True,
) -> Trained:
    """Train a head in place.

    Args:
        rows: transformed training rows on the head's device. val: the same for choosing the epoch
            by mean accuracy per class (ties: lower NLL, then the earlier); None: the last is kept.
        generator: draws the epochs, on the CPU.
        stop_after: end after so many epochs of the same schedule.
        progress: called with each epoch's record.
        closed_form: False forces autograd.

    Raises:
        FitError: the loss is no longer finite.
    """
    epochs = optimisation.epochs_for(len(rows))
    steps_per_epoch = -(-len(rows) // optimisation.batch_for(len(rows)))
    step = make_step(head, objective, optimisation, rows, closed_form)
    optimiser = make_optimiser(head, optimisation)
    by_class = RowsByClass.of(rows.labels, head.num_classes)
    history: list[dict[str, Any]] = []
    best: tuple[tuple[float, float], int, dict[str, Tensor]] | None = None
    for epoch in range(min(epochs, stop_after or epochs)):
        order = sampler.draw(by_class, generator).to(rows.labels.device)
        total = torch.zeros((), device=rows.labels.device)
        for number, index in enumerate(torch.tensor_split(order, steps_per_epoch)):
            done = (epoch * steps_per_epoch + number) / (epochs * steps_per_epoch)
            set_lr(optimiser, optimisation.lr * (1 + math.cos(math.pi * done)) / 2)
            total += step(index, done)
            optimiser.step()
            optimiser.zero_grad()
        record = {"epoch": epoch + 1, "epochs": epochs, "loss": float(total) / steps_per_epoch}
        if not math.isfinite(record["loss"]):
            raise FitError(
                f"the loss is {record['loss']} in epoch {epoch + 1}; lower optimisation.lr "
                f"({optimisation.lr:g})"
            )
        if val is not None:
            record |= choose_by(head, val)
            rank = (record["val_mean_per_class"], -record["val_nll"])
            if best is None or rank > best[0]:
                state = {name: value.clone() for name, value in head.state_dict().items()}
                best = (rank, epoch + 1, state)
        history.append(record)
        if progress is not None:
            progress(record)
    if best is not None:
        head.load_state_dict(best[2])
    return Trained(history, best[1] if best is not None else len(history))


def make_step(
    head: Head, objective: Objective, optimisation: Optimisation, rows: Rows, closed_form: bool
) -> AutogradStep | ClosedFormStep:
    """Return the fastest step that serves a head and an objective."""
    few = Batch(rows.features[:2], rows.labels[:2])
    if closed_form and ClosedFormStep.serves(head, objective, few):
        with torch.no_grad():
            representation = head.represent(rows.features)[0]
        largest = optimisation.batch_for(len(rows))
        precision = optimisation.precision
        return ClosedFormStep(
            representation, rows.labels, rows.weights, head, objective, largest, precision
        )
    return AutogradStep(rows.features, rows.labels, rows.weights, head, objective)


def make_optimiser(head: Head, optimisation: Optimisation) -> torch.optim.Optimizer:
    """Return the optimiser over trainable parameters; only matrices decay."""
    parameters = [p for p in head.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in parameters if p.ndim > 1],
            "weight_decay": optimisation.weight_decay,
        },
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    options: dict[str, Any] = {"lr": optimisation.lr}
    kind: Any = torch.optim.AdamW
    if optimisation.optimiser == "sgd":
        kind = torch.optim.SGD
        options |= {"momentum": optimisation.momentum, "nesterov": optimisation.momentum > 0}
    try:
        optimiser: torch.optim.Optimizer = kind(groups, fused=True, **options)
    except RuntimeError:  # torch before 2.4 has no fused step on a CPU
        optimiser = kind(groups, **options)
    return optimiser


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimiser.param_groups:
        group["lr"] = lr


@torch.no_grad()
def choose_by(head: Head, val: Rows) -> dict[str, float]:
    """Return what an epoch is chosen by: overall and mean accuracy per class, and NLL."""
    right, nll = torch.zeros(len(val)), 0.0
    for start in range(0, len(val), _BLOCK):
        labels = val.labels[start : start + _BLOCK]
        logits = head(val.features[start : start + _BLOCK])
        right[start : start + _BLOCK] = (logits.argmax(dim=1) == labels).float().cpu()
        nll += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
    labels = val.labels.cpu()
    rows = torch.bincount(labels, minlength=head.num_classes)
    hits = torch.bincount(labels, weights=right.double(), minlength=head.num_classes)
    present = rows > 0
    return {
        "val_overall": float(right.double().mean()),
        "val_mean_per_class": float((hits[present] / rows[present]).mean()),
        "val_nll": nll / len(val),
    }
