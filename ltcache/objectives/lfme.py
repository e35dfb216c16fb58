"""LFME: experts on groups of classes teach one student (Xiang et al., Learning from multiple
experts, ECCV 2020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.heads import Head, class_reach, predict_logits, predicted_labels
from ltcache.losses import Loss
from ltcache.metrics import GroupScheme
from ltcache.objectives.base import (
    HeadOutputs,
    Objective,
    TrainingBatch,
    TrainingStart,
    rows_of_each,
)

_GROUPS = 3  # many, medium and few


class ClassGroups(Objective):
    """An objective that knows the group of each class: many, medium or few.

    Args:
        loss: of the rows.
        many_above: a class with more training rows is many-shot.
        few_below: a class with fewer is few-shot.

    Attributes:
        group: of each class, 0 many, 1 medium, 2 few, buffer (C,), int64.
        by_group: classes, group after group, buffer (C,), int64. group_sizes: classes of each.
    """

    group: Tensor
    by_group: Tensor

    def __init__(
        self,
        loss: Loss,
        *,
        many_above: int = GroupScheme.many_above,
        few_below: int = GroupScheme.few_below,
    ) -> None:
        super().__init__(loss)
        self.many_above, self.few_below = many_above, few_below
        self.register_buffer("group", class_reach(loss.class_counts, many_above, few_below) - 1)
        self.register_buffer("by_group", torch.argsort(self.group, stable=True))
        self.group_sizes = torch.bincount(self.group, minlength=_GROUPS).tolist()

    def among_group(self, logits: Tensor, number: int) -> Tensor:
        """Return logits (N, C) with -inf for classes of other groups."""
        return logits.masked_fill(self.group != number, -torch.inf)


class GroupExpertsObjective(ClassGroups):
    """sum over groups of the mean of CE over the group's rows, expert g among the group's classes.

    The experts share no parameters, so that this is each expert's own training.

    Raises:
        FitError: in training, another number of experts than three.
    """

    def forward(self, outputs: HeadOutputs, batch: TrainingBatch, progress: float) -> Tensor:
        """See :meth:`Objective.forward`."""
        self.require_experts(outputs, _GROUPS)
        values = [
            part.fraction * self._value(outputs, part.batch, progress) for part in batch.by_label()
        ]
        return torch.stack(values).sum()

    def _value(self, outputs: HeadOutputs, batch: TrainingBatch, progress: float) -> Tensor:
        total = outputs.experts.new_zeros(())
        groups = torch.arange(_GROUPS, device=self.group.device)[:, None]
        members = rows_of_each(self.group[batch.labels] == groups)
        for number, (rows, logits) in enumerate(zip(members, outputs.experts, strict=True)):
            if len(rows):
                own = self.among_group(logits[rows], number)
                total = total + self.mean_loss(own, batch.take(rows), progress)
        return total


class LFMEObjective(ClassGroups):
    """L(v z, y) + sum_S beta_S KL_S: self-paced rows, and experts that fade as they are reached.

    - v_i = h_i + 2 t (1 - h_i), t the progress: h_i is how sure the expert of the label's group is
      of it, rescaled per class to lie between the group's mean count, relative to the few-shot
      group's, and 1. It multiplies the logits, and goes past 1 after half time, as released.
    - KL_S is that of expert S to the student among the classes of S, both at ``temperature``.
    - beta_S is 1 until the student has ``start`` of the expert's accuracy on S, then falls in
      proportion to what is missing.

    The stage before is the experts' (:class:`GroupExpertsObjective`).

    Args:
        loss: cross entropy in the original.
        temperature: of the distillation. start: share of an expert's accuracy.
        distil: factor on all beta_S; 0 learns from no expert.
        many_above, few_below: see :class:`ClassGroups`.

    Raises:
        FitError: no stage of three experts before it.
    """

    easiness: Tensor
    taught: Tensor
    beta: Tensor

    def __init__(
        self,
        loss: Loss,
        *,
        temperature: float = 2.0,
        start: float = 0.3,
        distil: float = 1.0,
        many_above: int = GroupScheme.many_above,
        few_below: int = GroupScheme.few_below,
    ) -> None:
        super().__init__(loss, many_above=many_above, few_below=few_below)
        if temperature <= 0 or not 0 < start < 1:
            raise FitError(
                f"objective.temperature={temperature} must be positive, and start={start} in 0..1"
            )
        self.temperature, self.start, self.distil = temperature, start, distil
        self.register_buffer("beta", torch.ones(_GROUPS))
        self.register_buffer("easiness", torch.ones(0))
        self.register_buffer("taught", torch.ones(0))

    @torch.no_grad()
    def begin(self, start: TrainingStart) -> None:
        """See :meth:`Objective.begin`; the experts' logits of all rows are made once."""
        if start.previous is None or start.previous.num_experts != _GROUPS:
            raise FitError(
                "objective=lfme learns from the three experts of the stage before it, which has "
                "objective=group_experts"
            )
        experts = start.previous.eval()
        self.to(start.rows.labels.device)
        own = self._of_own_experts(experts, start.rows.features)  # (N, C)
        labels = start.rows.labels
        self.easiness = self.rescaled(self._sureness(own, labels), labels)
        self.taught = self._softmax_by_group(own / self.temperature)
        judged = start.rows if start.val is None else start.val
        self._judged = judged
        right = self._right_in_group(self._of_own_experts(experts, judged.features), judged.labels)
        self.expert_accuracy = self._by_group(right, judged.labels)

    def forward(self, outputs: HeadOutputs, batch: TrainingBatch, progress: float) -> Tensor:
        """See :meth:`Objective.forward`."""
        assert batch.rows is not None
        easiness = self.easiness[batch.rows]
        paced = (easiness + 2 * progress * (1 - easiness)).to(outputs.logits.dtype)
        logits = outputs.logits * paced[:, None]
        weights = self.sample_weights(batch).to(logits.dtype)
        divergence = self._divergence(logits, self.taught[batch.rows].to(logits.dtype))
        taught = divergence.T @ weights  # (3,)
        return self.mean_loss(logits, batch, progress) + self.distil * (
            self.beta.to(logits.dtype) @ taught
        )

    def _divergence(self, logits: Tensor, taught: Tensor) -> Tensor:
        """Return the KL of each group's expert to the student on each row, (N, 3)."""
        student = self._softmax_by_group(logits / self.temperature, log=True)  # (N, C)
        every = torch.special.xlogy(taught, taught) - taught * student
        summed = every.new_zeros(len(every), _GROUPS)
        return summed.index_add(1, self.group, every)

    def _softmax_by_group(self, logits: Tensor, log: bool = False) -> Tensor:
        """Return (log) probabilities (N, C) that sum to 1 within each group of classes."""
        result = torch.empty_like(logits)
        for members in self.by_group.split(self.group_sizes):
            within = logits[:, members]
            made = F.log_softmax(within, dim=1) if log else F.softmax(within, dim=1)
            result = result.index_copy(1, members, made)
        return result

    def _of_own_experts(self, experts: Head, features: Tensor) -> Tensor:
        """Return (N, C): the logit of each class by the expert of its group."""
        every = experts.classify(experts.represent(features))  # (3, N, C)
        return every.gather(0, self.group.expand(1, every.shape[1], -1)).squeeze(0)

    def _sureness(self, own: Tensor, labels: Tensor) -> Tensor:
        """Return the probability of each row's label by the expert of its group, (N,)."""
        return self._softmax_by_group(own).gather(1, labels[:, None]).squeeze(1)

    def rescaled(self, sureness: Tensor, labels: Tensor) -> Tensor:
        """Return sureness (N,) rescaled per class to [t, 1], t of the group of the class.

        t is the mean count of the few-shot classes over that of the group: 1 for few-shot classes.
        """
        counts = self.loss.class_counts.to(sureness.dtype)
        means = torch.stack(
            [counts[self.group == number].mean() for number in range(_GROUPS)]
        )  # nan: a group without classes
        lowest = (means[self.group.max()] / means)[self.group[labels]]
        classes = len(counts)
        low = sureness.new_full((classes,), torch.inf).scatter_reduce(0, labels, sureness, "amin")[
            labels
        ]
        high = sureness.new_zeros(classes).scatter_reduce(0, labels, sureness, "amax")[labels]
        within = torch.where(high > low, (sureness - low) / (high - low).clamp(min=1e-12), 1.0)
        return within * (1 - lowest) + lowest

    def _right_in_group(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return whether the largest logit within the group of the label is the label's, (N,)."""
        others = self.group != self.group[labels][:, None]  # (N, C)
        return predicted_labels(logits.masked_fill(others, -torch.inf)) == labels

    def _by_group(self, right: Tensor, labels: Tensor) -> Tensor:
        """Return the share of right rows of each group, (3,); 0 where a group has no rows."""
        group = self.group[labels]
        rows = torch.bincount(group, minlength=_GROUPS)
        return torch.bincount(group, weights=right.double(), minlength=_GROUPS) / rows.clamp(min=1)

    def end_epoch(self, head: Head) -> None:
        """See :meth:`Objective.end_epoch`; experts that the student reaches fade."""
        judged = self._judged
        right = predicted_labels(predict_logits(head, judged.features)) == judged.labels
        reached = self._by_group(right, judged.labels) / self.expert_accuracy.clamp(min=1e-12)
        faded = ((1 - reached) / (1 - self.start)).clamp(min=0)
        self.beta = torch.where(reached < self.start, 1.0, faded)
