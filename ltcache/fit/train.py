"""The training loop: epochs over resident tensors, and the epoch that validation data choose."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ltcache.adjustments import PredictedRows, adapted
from ltcache.errors import FitError
from ltcache.fit.composites import CompositeSchedule, require_composite_epochs
from ltcache.fit.optimiser import head_optimiser, set_lr
from ltcache.fit.rows import LabelledRows
from ltcache.fit.steps import AutogradStep, ClosedFormStep, CompositeStep, FusionChain
from ltcache.fit.task import StageInput
from ltcache.fusion import FUSIONS, Fusion
from ltcache.heads import Head, predicted_labels
from ltcache.methods import Train, hyper_parameters
from ltcache.metrics import EpochRecord, is_better
from ltcache.objectives import Objective, TrainingBatch
from ltcache.process import to_device
from ltcache.records import one_line
from ltcache.sampling import PAIRINGS, SAMPLERS, RowsByClass

_BLOCK = 2048  # rows predicted at once


@one_line
@dataclass(frozen=True)
class TrainingOutcome:
    """What a loop leaves: one record per epoch, the epoch (from 1) that was kept, and the gradient
    steps up to it where these are not as many in each epoch."""

    history: list[EpochRecord]
    best_epoch: int
    steps: int | None = None


def train_head(
    head: Head, objective: Objective, stage: Train, task: StageInput, stop_after: int | None = None
) -> TrainingOutcome:
    """Train a head in place, as a stage says.

    The epoch is chosen on the task's validation rows by mean accuracy per class (ties: lower NLL,
    then the earlier); without any the last one is kept.

    Args:
        head, objective: on the device of the task's rows.
        stop_after: end after so many epochs of the same schedule.

    Raises:
        FitError: the loss is no longer finite, or a fusion lacks its partner.
    """
    rows, optimisation = task.rows, stage.optimisation
    epochs = optimisation.epochs_for(len(rows))
    steps_per_epoch = optimisation.steps_per_epoch(len(rows))
    step = make_step(head, objective, stage, task)
    optimiser = head_optimiser(head, objective, stage)
    by_class = RowsByClass.of(rows.labels, head.num_classes)
    history: list[EpochRecord] = []
    best: EpochRecord | None = None
    for epoch in range(min(epochs, stop_after or epochs)):
        head.train()
        total = torch.zeros((), device=task.device)
        batches = draw_pairs(stage, by_class, task, epoch / epochs, steps_per_epoch)
        for number, (index, partner) in enumerate(batches):
            done = (epoch * steps_per_epoch + number) / (epochs * steps_per_epoch)
            set_lr(optimiser, optimisation.lr * (1 + math.cos(math.pi * done)) / 2)
            total += step(index, done, partner)
            optimiser.step()
            optimiser.zero_grad()
            objective.end_step()
        record = {"epoch": epoch + 1, "epochs": epochs, "loss": float(total) / steps_per_epoch}
        if not math.isfinite(record["loss"]):
            raise FitError(
                f"the loss is {record['loss']} in epoch {epoch + 1}; lower optimisation.lr "
                f"({optimisation.lr:g})"
            )
        if task.val is not None:
            record |= choose_by(head, task.val)
            if is_better(record, best):
                best = record
                state = {name: value.clone() for name, value in head.state_dict().items()}
        if objective.keeps_state:
            with torch.no_grad():
                objective.end_epoch(head.eval())
        history.append(record)
        if task.progress is not None:
            task.progress(record)
    if best is not None:
        head.load_state_dict(state)
    head.eval()
    return TrainingOutcome(history, len(history) if best is None else int(best["epoch"]))


def draw(
    sampler: str, by_class: RowsByClass, task: StageInput, progress: float, steps: int
) -> Sequence[Tensor]:
    """Return the row numbers of each step of an epoch."""
    order = SAMPLERS[sampler].draw(by_class, task.generator, progress)
    return torch.tensor_split(to_device(order, task.device), steps)


def draw_pairs(
    stage: Train, by_class: RowsByClass, task: StageInput, progress: float, steps: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield the rows of each step of an epoch and those of its second batch, if there is one."""
    order = SAMPLERS[stage.sampler].draw(by_class, task.generator, progress)
    partner = _partner(stage.partner, order, by_class, task, progress)
    batches = torch.tensor_split(to_device(order, task.device), steps)
    if partner is None:
        yield from ((batch, None) for batch in batches)
    else:
        others = torch.tensor_split(to_device(partner, task.device), steps)
        yield from zip(batches, others, strict=True)


def _partner(
    name: str | None, order: Tensor, by_class: RowsByClass, task: StageInput, progress: float
) -> Tensor | None:
    if name is None:
        return None
    if name in PAIRINGS:
        images = task.rows.images
        alone = torch.arange(len(order)) if images is None else images
        return PAIRINGS[name](order, alone, task.generator)
    return SAMPLERS[name].draw(by_class, task.generator, progress)


def make_step(
    head: Head, objective: Objective, stage: Train, task: StageInput
) -> AutogradStep | ClosedFormStep:
    """Return the fastest step that serves a head, an objective and a stage's fusions."""
    rows, optimisation = task.rows, stage.optimisation
    fusions = FusionChain([_fusion(name, stage) for name in stage.fusion], task.stream(1))
    if stage.partner is None and (fusions.needs_partner or objective.needs_partner):
        who = f"objective {stage.objective}"
        if fusions.needs_partner:
            who = f"fusion {' and '.join(stage.fusion)}"
        raise FitError(f"{who} needs partner=SAMPLER")
    if stage.composites > 0:
        return CompositeStep(rows, head, objective, fusions, _schedule(stage, task))
    few = TrainingBatch(rows.row_features.part(0, 2), rows.labels[:2])
    if task.closed_form and ClosedFormStep.serves(head, objective, few, fusions):
        largest = optimisation.batch_for(len(rows))
        return ClosedFormStep(rows, head, objective, fusions, largest, optimisation.precision)
    return AutogradStep(rows, head, objective, fusions)


def _schedule(stage: Train, task: StageInput) -> CompositeSchedule:
    """Return when composites come.

    Raises:
        FitError: the rows have none.
    """
    if task.rows.composites is None:
        raise FitError(
            f"composites={stage.composites:g} needs composites of the training rows: name a view "
            "of a cache that has them, feature.composites=cmo:2 (ltcache extract --views "
            "center,cmo:2), or set composites=0"
        )
    epochs, crops = stage.optimisation.epochs_for(len(task.rows)), task.rows.composites.partners
    require_composite_epochs(stage.composites, epochs)
    return CompositeSchedule(stage.composites, epochs, crops.shape[1], task.stream(4))


def _fusion(name: str, stage: Train) -> Fusion:
    kind = FUSIONS[name]
    known = hyper_parameters(kind)
    return kind(**{k: v for k, v in stage.fusion_options.items() if k in known})


@torch.no_grad()
def choose_by(head: Head, val: LabelledRows) -> dict[str, float]:
    """Return what is chosen by: overall and mean accuracy per class, and NLL."""
    head, _ = adapted(head.eval(), PredictedRows.on_one_view("val", lambda: val.features[:, None]))
    nll = torch.zeros((), dtype=torch.float64, device=val.device)
    right = torch.empty(len(val), dtype=torch.bool, device=val.device)
    for rows, features in val.row_features.blocks(_BLOCK):
        labels, logits = val.labels[rows], head(features)
        right[rows] = predicted_labels(logits) == labels
        nll += torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    labels, right = val.labels.cpu(), right.cpu()
    counts = torch.bincount(labels, minlength=head.num_classes)
    hits = torch.bincount(labels, weights=right.double(), minlength=head.num_classes)
    present = counts > 0
    return {
        "val_overall": float(right.double().mean()),
        "val_mean_per_class": float((hits[present] / counts[present]).mean()),
        "val_nll": float(nll) / len(val),
    }
