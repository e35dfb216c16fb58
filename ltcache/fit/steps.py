"""One training step in two forms, which a test holds equal.

``AutogradStep`` works for every head, loss, objective and fusion. ``ClosedFormStep`` serves a head
that is one product on a fixed representation under a weighted mean of a loss that knows its
gradient: two products, one softmax in the buffer of the logits, nothing allocated. Autograd then
only sees the (C, D) side, such as the normalisation of a cosine head's weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from ltcache.errors import FitError
from ltcache.fit.composites import CompositeSchedule
from ltcache.fit.rows import LabelledRows
from ltcache.fusion import Fusion
from ltcache.heads import Head
from ltcache.objectives import HeadOutputs, Objective, TrainingBatch
from ltcache.process import to_device


@dataclass(frozen=True, eq=False)
class FusionChain:
    """Fusions in the order in which they act, and what they draw from."""

    steps: Sequence[Fusion]
    generator: Generator

    @property
    def needs_partner(self) -> bool:
        """Whether a second batch of rows is wanted."""
        return any(step.needs_partner for step in self.steps)

    @property
    def mixes_labels(self) -> bool:
        """Whether some rows get a second label, which no closed form knows."""
        return any(step.mixes_labels for step in self.steps)

    def fuse(
        self,
        representation: Tensor,
        partner: Tensor | None,
        batch: TrainingBatch,
        progress: float,
    ) -> tuple[Tensor, TrainingBatch]:
        """Return the fused representation (E, N, D') and the batch with its second labels.

        Raises:
            FitError: two fusions mix labels, and a row has no room for a third.
        """
        for step in self.steps:
            fused = step(representation, partner, self.generator, progress)
            representation = fused.representation
            if fused.order is None:
                continue
            if batch.other_labels is not None:
                raise FitError("a row has two labels at most, and two fusions mix labels: take one")
            source = batch.partner_labels if fused.of_partner else batch.labels
            assert source is not None  # a fusion with a partner has required it
            batch = replace(batch, other_labels=source[fused.order], share=fused.share)
        return representation, batch


class AutogradStep:
    """Gradients by autograd.

    Args:
        rows: features (N, D) after the transform, labels and weights.
        head, objective: what is trained, and on what.
        fusions: act on what the head represents.
    """

    def __init__(
        self, rows: LabelledRows, head: Head, objective: Objective, fusions: FusionChain
    ) -> None:
        self.rows, self.head, self.objective, self.fusions = rows, head, objective, fusions

    def __call__(self, index: Tensor, progress: float, partner: Tensor | None = None) -> Tensor:
        """Put gradients of the rows ``index`` into the parameters and return the objective.

        Args:
            index: row numbers of the batch. partner: of the second batch, as many, or None.
        """
        rows, batch = self.rows, self.batch(index, progress, partner)
        self.objective.loss.observe(batch.labels)
        representation, second = self.head.represent(batch.features), None  # (E, N, D')
        if partner is not None and (self.fusions.needs_partner or self.objective.needs_partner):
            second = self.head.represent(rows.row_features.gather(partner))
        if self.fusions.steps:
            representation, batch = self.fusions.fuse(representation, second, batch, progress)
        outputs = self._outputs(representation)
        if second is not None and self.objective.needs_partner:
            outputs = replace(outputs, partner=self._outputs(second))
        value = self.objective(outputs, batch, progress)
        value.backward()
        return value.detach()

    def batch(self, index: Tensor, progress: float, partner: Tensor | None) -> TrainingBatch:
        """Return what a step trains on; arguments as of a step."""
        rows = self.rows
        return TrainingBatch(
            rows.row_features.gather(index),
            rows.labels[index],
            None if rows.weights is None else rows.weights[index],
            partner_labels=None if partner is None else rows.labels[partner],
            rows=index,
        )

    def _outputs(self, representation: Tensor) -> HeadOutputs:
        experts = self.head.classify(representation)
        return HeadOutputs(representation, experts, self.head.combine(experts))


class CompositeStep(AutogradStep):
    """As :class:`AutogradStep`, some batches being composites of their rows.

    Args:
        rows: with composites. schedule: which batches are.
        others: as of :class:`AutogradStep`.
    """

    def __init__(
        self,
        rows: LabelledRows,
        head: Head,
        objective: Objective,
        fusions: FusionChain,
        schedule: CompositeSchedule,
    ) -> None:
        super().__init__(rows, head, objective, fusions)
        self.schedule = schedule

    def batch(self, index: Tensor, progress: float, partner: Tensor | None) -> TrainingBatch:
        """See :meth:`AutogradStep.batch`."""
        plain, made = super().batch(index, progress, partner), self.rows.composites
        drawn = self.schedule.draw(progress, len(index))
        if drawn is None or made is None:
            return plain
        number = to_device(drawn, index.device)
        return replace(
            plain,
            features=made.features[index, number],
            other_labels=self.rows.labels[made.partners[index, number]],
            share=made.shares[index, number],
        )


class ClosedFormStep:
    """Gradients in closed form; see the module.

    Args:
        rows, head, objective, fusions: as of :class:`AutogradStep`.
        largest: rows of the largest batch, for the buffers.
        precision: of the two products.
    """

    def __init__(
        self,
        rows: LabelledRows,
        head: Head,
        objective: Objective,
        fusions: FusionChain,
        largest: int,
        precision: str = "fp32",
    ) -> None:
        self.head, self.objective, self.fusions = head, objective, fusions
        self.labels, self.weights = rows.labels, rows.weights
        dtype = rows.row_features.dtype
        self.narrow = torch.bfloat16 if precision == "bf16" else dtype
        self.represented = rows.row_features.mapped(self._represented)
        few = self.represented.part(0, 2).to(dtype)
        dim, classes = few.shape[1], head.num_classes
        new = few.new_empty
        self.rows = new((largest, dim), dtype=self.narrow)
        self.logits = new((largest, classes))
        self.gradient = new((classes, dim))

    @staticmethod
    def serves(
        head: Head, objective: Objective, batch: TrainingBatch, fusions: FusionChain
    ) -> bool:
        """Whether this form exists for a head, an objective and fusions."""
        return (
            head.fixed_representation
            and head.num_experts == 1
            and hasattr(objective.loss, "gradient")
            and objective.row_weights(batch, 0.0) is not None
            and head.affine() is not None
            and not fusions.mixes_labels
            and not (objective.needs_partner or objective.keeps_state)
        )

    def __call__(self, index: Tensor, progress: float, partner: Tensor | None = None) -> Tensor:
        """See :class:`AutogradStep`."""
        affine = self.head.affine()
        assert affine is not None
        labels = self.labels.index_select(0, index)
        own = None if self.weights is None else self.weights.index_select(0, index)
        self.objective.loss.observe(labels)
        with torch.no_grad():
            logits = self.logits[: len(index)]
            rows = self._rows(index, partner, progress)
            self._logits(rows, affine.weight.detach(), affine.bias, logits)
            weights = self.objective.row_weights(TrainingBatch(rows, labels, own), progress)
            assert weights is not None
            losses, change = self.objective.loss.gradient(logits, labels, weights)  # type: ignore[operator]
            gradient = self._weight_gradient(change, rows)
        for tensor, grad in ((affine.weight, gradient), (affine.bias, change)):
            if tensor is not None and tensor.requires_grad:
                _push(tensor, grad if grad is gradient else change.sum(dim=0))
        return losses @ weights.to(losses.dtype)

    @torch.no_grad()
    def _represented(self, features: Tensor) -> Tensor:
        """Return what does not change of rows while the head is trained, (n, D')."""
        representation = self.head.represent(features)
        if self.fusions.steps:
            return representation[0]
        return self.head.normalise(representation)[0].to(self.narrow)

    def _rows(self, index: Tensor, partner: Tensor | None, progress: float) -> Tensor:
        """Return what the product is taken with, (n, D'), in its precision."""
        if not self.fusions.steps:
            return self.represented.gather(index, self.rows[: len(index)])
        first = self.represented.gather(index)[None]
        second = None if partner is None else self.represented.gather(partner)[None]
        fused, _ = self.fusions.fuse(first, second, TrainingBatch(first[0], index), progress)
        return self.head.normalise(fused)[0].to(self.narrow)

    def _logits(self, rows: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
        if self.narrow == out.dtype:
            if bias is None:
                torch.mm(rows, weight.T, out=out)
            else:
                torch.addmm(bias, rows, weight.T, out=out)
            return
        out.copy_(rows @ weight.to(self.narrow).T)
        if bias is not None:
            out += bias

    def _weight_gradient(self, change: Tensor, rows: Tensor) -> Tensor:
        if self.narrow == change.dtype:
            return torch.mm(change.T, rows, out=self.gradient)
        return self.gradient.copy_(change.to(self.narrow).T @ rows)


def _push(tensor: Tensor, gradient: Tensor) -> None:
    """Give a tensor its gradient: a parameter as it stands, what is derived through autograd."""
    if tensor.is_leaf:
        tensor.grad = gradient
    else:
        tensor.backward(gradient)
