"""The parameters of several heads stacked to (R, ...), their optimiser and their scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ltcache.fit.optimiser import ParameterGroup, parameters_to_train, set_lr, steps_of
from ltcache.fit.rows import LabelledRows
from ltcache.fit.stages import StageTraining
from ltcache.heads import Head, predicted_labels
from ltcache.process import to_device

BLOCK = 8192  # rows predicted at once, over all runs


class StackedHeads:
    """The parameters of heads of one architecture.

    Attributes:
        head: the first one, for its structure. values: name -> (R, ...), leaves.
    """

    def __init__(self, heads: Sequence[Head]) -> None:
        self.head, self.heads = heads[0], heads
        self.values = {
            name: torch.stack([head.get_parameter(name).detach() for head in heads])
            .requires_grad_(parameter.requires_grad)
            for name, parameter in heads[0].named_parameters()
        }  # fmt: skip

    def __len__(self) -> int:
        return len(self.heads)

    def copy_to(self, kept: dict[str, Tensor], runs: Sequence[int]) -> None:
        """Copy the parameters of some runs to the same places of other tensors."""
        if not runs:
            return
        device = next(iter(self.values.values())).device
        places = to_device(torch.tensor(runs), device)
        for name, value in self.values.items():
            kept[name][places] = value.detach()[places]

    @torch.no_grad()
    def write(self, values: dict[str, Tensor]) -> None:
        """Put stacked values into the heads."""
        for name, value in values.items():
            for head, own in zip(self.heads, value, strict=True):
                head.get_parameter(name).copy_(own)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for value in self.values.values():
            value.grad = None


class StackOptimiser:
    """torch's own optimiser, on slices of the stack: neighbours of one rate and decay are one."""

    def __init__(self, trainings: Sequence[StageTraining], stack: StackedHeads) -> None:
        self.stack = stack
        self.pieces: list[tuple[str, slice, Tensor]] = []
        groups: dict[tuple[float, float], list[Tensor]] = {}
        moves = [parameters_to_train(t.head, t.stage) for t in trainings]
        for name in moves[0]:
            rates = [
                (training.stage.optimisation.lr * move[name][0], move[name][1])
                for training, move in zip(trainings, moves, strict=True)
            ]
            for how, span in spans(rates):
                piece = stack.values[name].detach()[span].requires_grad_()
                self.pieces.append((name, span, piece))
                groups.setdefault(how, []).append(piece)
        settings: list[ParameterGroup] = [
            {"params": pieces, "weight_decay": decay, "factor": lr}
            for (lr, decay), pieces in groups.items()
        ]
        self.optimiser = steps_of(settings, trainings[0].stage.optimisation)

    def step(self, share: float) -> None:
        """Move all runs by a share of their learning rates."""
        set_lr(self.optimiser, share)
        for name, span, piece in self.pieces:
            gradient = self.stack.values[name].grad
            assert gradient is not None
            piece.grad = gradient[span]
        self.optimiser.step()
        self.stack.zero_grad()


def spans(values: Sequence[Any]) -> Iterator[tuple[Any, slice]]:
    """Return each value with the slice of neighbours that have it."""
    for value, members in groupby(range(len(values)), key=values.__getitem__):
        found = list(members)
        yield value, slice(found[0], found[-1] + 1)


@torch.no_grad()
def scores_of(logits: Any, val: LabelledRows, runs: int, classes: int) -> list[dict[str, float]]:
    """Return overall and mean accuracy per class and NLL of each run.

    Args:
        logits: features (n, D) -> (n, R, C).
    """
    block = max(1, BLOCK // runs)
    nll = torch.zeros(runs, dtype=torch.float64, device=val.device)
    right = torch.empty(len(val), runs, dtype=torch.bool, device=val.device)
    for rows, features in val.row_features.blocks(block):
        labels, found = val.labels[rows], logits(features)
        right[rows] = predicted_labels(found) == labels[:, None]
        losses = F.cross_entropy(
            found.flatten(0, 1), labels.repeat_interleave(runs), reduction="none"
        )
        nll += losses.view(-1, runs).sum(dim=0).double()
    labels, right = val.labels.cpu(), right.cpu()
    counts = torch.bincount(labels, minlength=classes)
    hits = torch.zeros(classes, runs, dtype=torch.float64).index_add_(0, labels, right.double())
    present = counts > 0
    per_class = (hits[present] / counts[present, None]).mean(dim=0)
    return [
        {"val_overall": overall, "val_mean_per_class": mean, "val_nll": loss / len(val)}
        for overall, mean, loss in zip(
            right.double().mean(dim=0).tolist(), per_class.tolist(), nll.tolist(), strict=True
        )
    ]
