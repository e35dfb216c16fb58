"""Heads of balanced subsets, averaged: the first stage of LT-Soups (Aminbeidokhti et al., LT-Soups:
Bridging head and tail classes via subsampled model soups, NeurIPS 2025)."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Generator, Tensor

from ltcache.fit.task import StageInput
from ltcache.fit.train import TrainingOutcome
from ltcache.heads import Head
from ltcache.methods import Train

SubsetTraining = Callable[[Train, StageInput, Head], tuple[Head, TrainingOutcome]]
"""(stage, task, head to start from, which stays as it is) -> trained head, outcome."""


def subset_sizes(class_counts: Tensor, subsets: int | None) -> list[int]:
    """Return the most rows that each subset has of a class, ascending; the last has all rows.

    Args:
        class_counts: (C,); classes without rows do not count. subsets: K sizes in equal ratios from
            the rarest class to the most frequent one, one size only where they are equal; None:
            as many as double from the first.
    """
    present = class_counts[class_counts > 0]
    least, most = int(present.min()), int(present.max())
    if subsets is None:
        doubled = [least * 2**step for step in range(most.bit_length())]
        return [size for size in doubled if size < most] + [most]
    ratio = most / least
    powers = [step / max(1, subsets - 1) for step in range(subsets - 1)] + [1.0]
    return sorted({round(least * ratio**power) for power in powers})


def draw_subset(labels: Tensor, most: int, generator: Generator) -> Tensor:
    """Return the numbers of at most so many rows of each class, drawn without replacement."""
    order = torch.randperm(len(labels), generator=generator)
    by_class = order[labels.cpu()[order].argsort(stable=True)]
    counts = torch.bincount(labels.cpu())
    starts = (counts.cumsum(0) - counts)[labels.cpu()[by_class]]
    return by_class[torch.arange(len(by_class)) - starts < most].sort().values.to(labels.device)


def train_soup(
    head: Head, stage: Train, task: StageInput, train: SubsetTraining
) -> TrainingOutcome:
    """Train a head in place: w = (1 - a) w + a w_k over subsets k of growing size, a the stage's
    ``soup``, where w begins as the head and every w_k is trained from it on subset k alone.

    Losses know the class counts of the subset. Each training runs to its end: nothing is chosen.
    """
    mixed = {name: value.clone() for name, value in head.state_dict().items()}
    start, draws, history, steps = deepcopy(head), task.stream(5), [], 0
    learnt = {name for name, _ in head.named_parameters()}
    for size in subset_sizes(torch.bincount(task.rows.labels).cpu(), stage.subsets):
        rows = task.rows.take(draw_subset(task.rows.labels, size, draws))
        counts = torch.bincount(rows.labels, minlength=head.num_classes)
        context = replace(task.context, class_counts=counts.to(task.context.class_counts))
        alone = replace(stage, soup=0.0, init="previous")
        trained, outcome = train(alone, replace(task, rows=rows, val=None, context=context), start)
        state = trained.state_dict()
        mixed |= {name: torch.lerp(mixed[name], state[name], stage.soup) for name in learnt}
        history += outcome.history
        steps += len(outcome.history) * alone.optimisation.steps_per_epoch(len(rows))
    head.load_state_dict(mixed)
    head.eval()
    numbered = [{**r, "epoch": k + 1, "epochs": len(history)} for k, r in enumerate(history)]
    return TrainingOutcome(numbered, len(history), steps)
