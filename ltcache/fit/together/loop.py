"""The loop over epochs and steps of runs that are trained as one problem."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ltcache.fit.optimiser import parameters_to_train
from ltcache.fit.stages import StageTraining
from ltcache.fit.together.closed_form import ClosedFormSteps, SharedSteps
from ltcache.fit.together.loss_groups import LossGroup
from ltcache.fit.together.mapped import MappedSteps, can_be_mapped
from ltcache.fit.together.runs_alike import (
    _bytes,
    adds_offset,
    drawn_by,
    fingerprint_of,
    has_closed_form,
)
from ltcache.fit.together.stacked_heads import StackedHeads, StackOptimiser
from ltcache.fit.train import TrainingOutcome, draw
from ltcache.metrics import EpochRecord, is_better
from ltcache.process import to_device
from ltcache.sampling import RowsByClass


def shared_architecture(training: StageTraining) -> tuple[Any, ...] | None:
    """Return what runs must have in common to be one problem; None: this one must run alone.

    Alone are fusions, composites, soups, the full-batch solver, objectives that keep a state, and
    losses with a state or noise but no closed form.
    """
    head, objective, stage, task = training.head, training.objective, training.stage, training.task
    alone = stage.optimisation.optimiser == "lbfgs" or stage.composites > 0 or stage.soup > 0
    if alone or stage.fusion or stage.partner is not None or objective.keeps_state:
        return None
    parameters_to_train(head, stage)  # freezes
    closed = has_closed_form(training)
    if not closed and not can_be_mapped(training):
        return None
    optimisation = stage.optimisation
    shapes = [(name, p.shape, p.dtype, p.requires_grad) for name, p in head.named_parameters()]
    loss = None if closed else fingerprint_of(objective.loss, stage.loss_options)
    return (
        closed, type(head), repr(head.config()), tuple(shapes), _bytes(dict(head.named_buffers())),
        loss, type(objective), repr(stage.objective_options), tuple(stage.lr_factors.items()),
        id(task.rows), None if task.val is None else id(task.val),
        optimisation.batch, optimisation.epochs, optimisation.min_steps, optimisation.optimiser,
        optimisation.momentum, optimisation.precision,
    )  # fmt: skip


def train_together(
    trainings: Sequence[StageTraining], stops: Sequence[int | None]
) -> list[TrainingOutcome | None]:
    """Train the heads of runs of one :func:`shared_architecture` in place.

    Args:
        stops: epochs after which each run ends; None: all of the schedule.

    Returns:
        For each run what :func:`ltcache.fit.train.train_head` returns; None where the loss is no
        longer finite, in which case the head is of no use.
    """
    order = sorted(range(len(trainings)), key=lambda k: _rank(trainings[k]))
    problem = _BatchedFits([trainings[k] for k in order], [stops[k] for k in order])
    found = dict(zip(order, problem.train(), strict=True))
    return [found[k] for k in range(len(trainings))]


def _rank(training: StageTraining) -> tuple[Any, ...]:
    """Neighbours share a call of their loss, then the rows that they draw, then the optimiser."""
    optimisation = training.stage.optimisation
    loss = LossGroup.kind(training) if has_closed_form(training) else ()
    return (*loss, drawn_by(training), optimisation.lr, optimisation.weight_decay)


class _BatchedFits:
    """The loop of :func:`ltcache.fit.train.train_head` over R runs."""

    def __init__(self, trainings: Sequence[StageTraining], stops: Sequence[int | None]) -> None:
        self.trainings = trainings
        self.optimisation, self.task = trainings[0].stage.optimisation, trainings[0].task
        self.epochs = self.optimisation.epochs_for(len(self.task.rows))
        self.stops = [min(self.epochs, stop or self.epochs) for stop in stops]
        self.batch = self.optimisation.batch_for(len(self.task.rows))
        self.stack = StackedHeads([training.head for training in trainings])
        kind = steps_for(trainings)
        self.step: ClosedFormSteps | MappedSteps = kind(trainings, self.stack, self.batch)
        self.optimiser = StackOptimiser(trainings, self.stack)
        self.by_class = RowsByClass.of(self.task.rows.labels, self.stack.head.num_classes)
        self.draws = [drawn_by(training) for training in trainings]
        self.history: list[list[EpochRecord]] = [[] for _ in trainings]
        self.kept = {name: value.detach().clone() for name, value in self.stack.values.items()}
        self.best: list[EpochRecord | None] = [None] * len(trainings)
        self.lost = [False] * len(trainings)

    def train(self) -> list[TrainingOutcome | None]:
        """Run all epochs and put what each run keeps into its head."""
        for epoch in range(max(self.stops)):
            losses = self._epoch(epoch)
            self._record(epoch, losses)
        self.stack.write(self.kept)
        for training in self.trainings:
            training.head.eval()
        return [
            None
            if lost
            else TrainingOutcome(history, len(history) if best is None else int(best["epoch"]))
            for history, best, lost in zip(self.history, self.best, self.lost, strict=True)
        ]

    def _epoch(self, epoch: int) -> list[float]:
        """Train one epoch and return the mean objective of each run."""
        steps = self.optimisation.steps_per_epoch(len(self.task.rows))
        self.stack.head.train()
        total = torch.zeros(len(self.stack), device=self.task.device)
        for number, index in enumerate(self._draw(epoch, steps)):
            done = (epoch * steps + number) / (self.epochs * steps)
            total += self.step(index, done)
            self.optimiser.step((1 + math.cos(math.pi * done)) / 2)
        return [loss / steps for loss in total.tolist()]

    def _draw(self, epoch: int, steps: int) -> Sequence[Tensor]:
        """Return the row numbers (R, B) of each step. A run that is over draws no more: it follows
        one that drew alike, if one goes on, for they may share the rows that are gathered."""
        drawn = {
            run: order_of(training, self.by_class, epoch / self.epochs)
            for run, training in enumerate(self.trainings)
            if epoch < self.stops[run]
        }
        alike = {self.draws[run]: order for run, order in drawn.items()}
        anybody = next(iter(drawn.values()))
        orders = torch.stack(
            [
                drawn[run] if run in drawn else alike.get(draws, anybody)
                for run, draws in enumerate(self.draws)
            ]
        )
        return torch.tensor_split(to_device(orders, self.task.device), steps, dim=1)

    def _record(self, epoch: int, losses: Sequence[float]) -> None:
        """Keep each run's record, and its parameters where this is its best epoch or its last."""
        running = [r for r, stop in enumerate(self.stops) if epoch < stop and not self.lost[r]]
        val = self.task.val
        scores = None if val is None else self.step.scores(val)
        kept = []
        for run in running:
            record: EpochRecord = {
                "epoch": epoch + 1, "epochs": self.epochs, "loss": losses[run]
            }  # fmt: skip
            if not math.isfinite(losses[run]):
                self.lost[run] = True
                continue
            if scores is not None:
                record |= scores[run]
                if is_better(record, self.best[run]):
                    self.best[run] = record
                    kept.append(run)
            elif epoch + 1 == self.stops[run]:
                kept.append(run)
            self.history[run].append(record)
            progress = self.trainings[run].task.progress
            if progress is not None:
                progress(record)
        self.stack.copy_to(self.kept, kept)


def order_of(training: StageTraining, by_class: RowsByClass, progress: float) -> Tensor:
    """Return the row numbers of one epoch of a run, (N,)."""
    (order,) = draw(training.stage.sampler, by_class, training.task, progress, 1)
    assert order is not None
    return order


def steps_for(trainings: Sequence[StageTraining]) -> type[ClosedFormSteps] | type[MappedSteps]:
    """Return the fastest form of a step that serves runs, which lie in order of their rank."""
    if not has_closed_form(trainings[0]):
        return MappedSteps
    draws = [len(list(members)) for _, members in groupby(map(drawn_by, trainings))]
    even = len(set(draws)) == 1 and draws[0] > 1
    one_loss = len({LossGroup.kind(training) for training in trainings}) == 1
    if even and one_loss and adds_offset(trainings[0].objective.loss):
        return SharedSteps
    return ClosedFormSteps
