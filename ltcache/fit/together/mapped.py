"""Steps of R heads of any kind, mapped over the runs with :func:`torch.func.vmap`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ltcache.fit.rows import LabelledRows
from ltcache.fit.stages import StageTraining
from ltcache.fit.together.runs_alike import has_state
from ltcache.fit.together.stacked_heads import StackedHeads, scores_of
from ltcache.heads import Head
from ltcache.objectives import HeadOutputs, Objective, TrainingBatch


class _HeadWithObjective(nn.Module):
    """A head and its objective: (features, labels, weights, progress) -> scalar."""

    def __init__(self, head: Head, objective: Objective) -> None:
        super().__init__()
        self.head, self.objective = head, objective

    def forward(
        self, features: Tensor, labels: Tensor, weights: Tensor | None, progress: float
    ) -> Tensor:
        representation = self.head.represent(features)
        experts = self.head.classify(representation)
        outputs = HeadOutputs(representation, experts, self.head.combine(experts))
        value: Tensor = self.objective(outputs, TrainingBatch(features, labels, weights), progress)
        return value


class MappedSteps:
    """:class:`ltcache.fit.steps.AutogradStep` for R runs with equal losses, by ``torch.func.vmap``.

    Args: as of :class:`ClosedFormSteps`.
    """

    def __init__(
        self, trainings: Sequence[StageTraining], stack: StackedHeads, largest: int
    ) -> None:
        self.stack, self.rows = stack, trainings[0].task.rows
        self.whole = _HeadWithObjective(stack.head, trainings[0].objective)

    def __call__(self, index: Tensor, progress: float) -> Tensor:
        """See :class:`ClosedFormSteps`."""
        rows = self.rows
        features = rows.row_features.gather(index.flatten()).view(*index.shape, -1)
        own = None if rows.weights is None else rows.weights[index]
        values = self.values(features, rows.labels[index], own, progress)
        values.sum().backward()
        return values.detach()

    def values(
        self, features: Tensor, labels: Tensor, own: Tensor | None, progress: float
    ) -> Tensor:
        """Return the objectives (R,) of features (R, B, D), differentiable in the stack."""
        named = {f"head.{name}": value for name, value in self.stack.values.items()}

        def value(
            parameters: dict[str, Tensor], features: Tensor, labels: Tensor, own: Tensor | None
        ) -> Tensor:
            inputs = (features, labels, own, progress)
            found: Tensor = functional_call(self.whole, parameters, inputs)
            return found

        where = (0, 0, 0, None if own is None else 0)
        found: Tensor = vmap(value, in_dims=where)(named, features, labels, own)
        return found

    @torch.no_grad()
    def scores(self, val: LabelledRows) -> list[dict[str, float]]:
        """See :class:`ClosedFormSteps`."""
        head = self.stack.head.eval()

        def logits(features: Tensor) -> Tensor:
            call = vmap(lambda values, x: functional_call(head, values, (x,)), in_dims=(0, None),
                        out_dims=1)  # fmt: skip
            found: Tensor = call(self.stack.values, features)
            return found

        return scores_of(logits, val, len(self.stack), head.num_classes)


def can_be_mapped(training: StageTraining) -> bool:
    """Whether ``vmap`` can follow a head and its objective, tried on two rows."""
    rows = training.task.rows
    if has_state(training.objective.loss):
        return False
    training.head.train()
    steps = MappedSteps([training], StackedHeads([training.head]), 2)
    few = rows.row_features.part(0, 2)
    own = None if rows.weights is None else rows.weights[None, :2]
    try:
        with warnings.catch_warnings():  # an operation that vmap makes run by run gains nothing
            warnings.filterwarnings("error", message="There is a performance drop")
            for progress in (0.0, 1.0):
                steps.values(few[None], rows.labels[None, :2], own, progress)
            steps.scores(LabelledRows(few, rows.labels[:2]))
    except (RuntimeError, NotImplementedError, ValueError, TypeError, UserWarning):
        return False
    finally:
        training.head.train()
    return True
