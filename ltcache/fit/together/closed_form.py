"""Steps of R affine heads whose gradients are written out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from ltcache.fit.rows import LabelledRows
from ltcache.fit.stages import StageTraining
from ltcache.fit.together.loss_groups import LossGroup
from ltcache.fit.together.runs_alike import drawn_by
from ltcache.fit.together.stacked_heads import StackedHeads, scores_of
from ltcache.heads import Head


class ClosedFormSteps:
    """:class:`ltcache.fit.steps.ClosedFormStep` for R runs: two batched products.

    Args:
        trainings: in the order of the stack. largest: rows of the largest batch.
    """

    def __init__(
        self, trainings: Sequence[StageTraining], stack: StackedHeads, largest: int
    ) -> None:
        self.stack, self.rows = stack, trainings[0].task.rows
        precision = trainings[0].stage.optimisation.precision
        dtype = self.rows.row_features.dtype
        self.narrow = torch.bfloat16 if precision == "bf16" else dtype
        self.represented = self.rows.row_features.mapped(self._represented)
        few = self.represented.part(0, 2).to(dtype)
        self.losses = list(LossGroup.of(trainings))
        self.affine = _StackedAffine(stack)
        runs, dim, classes = len(stack), few.shape[1], stack.head.num_classes
        self.gathered = few.new_empty(runs * largest, dim, dtype=self.narrow)
        self.logits = few.new_empty(runs * largest * classes)
        self.gradient = few.new_empty(runs, classes, dim)

    @torch.no_grad()
    def _represented(self, features: Tensor) -> Tensor:
        head = self.stack.head
        return head.normalise(head.represent(features))[0].to(self.narrow)

    def __call__(self, index: Tensor, progress: float) -> Tensor:
        """Put the gradients of the rows ``index`` (R, B) into the stack; return values (R,)."""
        weight, bias = self.affine()
        labels = self.rows.labels[index]
        own = None if self.rows.weights is None else self.rows.weights[index]
        with torch.no_grad():
            rows = self._gather(index)
            logits = self._products(rows, weight, bias)
            values = [
                part(logits[part.span], rows[part.span], labels[part.span],
                     None if own is None else own[part.span], progress)
                for part in self.losses
            ]  # fmt: skip
            gradient = self._weight_gradient(logits, rows)
        self._push(weight, gradient)
        if bias is not None:
            self._push(bias, logits.sum(dim=1))
        return torch.cat(values)

    @staticmethod
    def _push(tensor: Tensor, gradient: Tensor) -> None:
        if tensor.requires_grad and tensor.is_leaf:
            tensor.grad = gradient
        elif tensor.requires_grad:
            tensor.backward(gradient)

    def _gather(self, index: Tensor) -> Tensor:
        flat = index.flatten()
        return self.represented.gather(flat, self.gathered[: len(flat)]).view(*index.shape, -1)

    def _products(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        runs, batch, _ = rows.shape
        classes = weight.shape[1]
        logits = self.logits[: runs * batch * classes].view(runs, batch, classes)
        turned = weight.detach().to(self.narrow).transpose(1, 2)
        if self.narrow != logits.dtype:
            logits.copy_(torch.bmm(rows, turned))
        else:
            torch.bmm(rows, turned, out=logits)
        if bias is not None:
            logits += bias.detach()[:, None]
        return logits

    def _weight_gradient(self, change: Tensor, rows: Tensor) -> Tensor:
        if self.narrow != change.dtype:
            return self.gradient.copy_(torch.bmm(change.to(self.narrow).transpose(1, 2), rows))
        return torch.bmm(change.transpose(1, 2), rows, out=self.gradient)

    @torch.no_grad()
    def scores(self, val: LabelledRows) -> list[dict[str, float]]:
        """Return :func:`ltcache.fit.train.choose_by` of each run."""
        weight, bias = self.affine()
        flat = weight.flatten(0, 1)
        shift = None if bias is None else bias.flatten()

        def logits(features: Tensor) -> Tensor:
            head = self.stack.head
            rows = head.normalise(head.represent(features))[0]
            return F.linear(rows, flat, shift).view(len(rows), len(self.stack), -1)

        return scores_of(logits, val, len(self.stack), self.stack.head.num_classes)


class SharedSteps(ClosedFormSteps):
    """The same for S seeds x K settings whose runs of a seed draw the same rows: these are gathered
    once, and the two products have K * C columns in place of C.

    Args:
        trainings: seed after seed, their losses cross entropies with or without an offset.
    """

    def __init__(
        self, trainings: Sequence[StageTraining], stack: StackedHeads, largest: int
    ) -> None:
        super().__init__(trainings, stack, largest)
        self.settings = len([t for t in trainings if drawn_by(t) == drawn_by(trainings[0])])

    def __call__(self, index: Tensor, progress: float) -> Tensor:
        """See :class:`ClosedFormSteps`; values are computed as (S, B, K, C)."""
        weight, bias = self.affine()
        runs, classes, dim = weight.shape
        seeds = runs // self.settings
        drawn = index[:: self.settings]  # (S, B); labels are of these rows, whatever the others say
        labels = self.rows.labels[drawn].repeat_interleave(self.settings, dim=0)
        own = None
        if self.rows.weights is not None:
            own = self.rows.weights[drawn].repeat_interleave(self.settings, dim=0)
        (part,) = self.losses
        with torch.no_grad():
            rows = self._gather(drawn)  # (S, B, D)
            wide = weight.detach().reshape(seeds, self.settings * classes, dim)
            shift = None if bias is None else bias.detach().reshape(seeds, -1)
            logits = self._products(rows, wide, shift)  # (S, B, K C)
            row_weights = part.row_weights(rows, labels, own, progress)
            values = part.shared(logits, labels, row_weights, self.settings)
            gradient = self.gradient.view(seeds, -1, dim)
            if self.narrow == logits.dtype:
                torch.bmm(logits.transpose(1, 2), rows, out=gradient)
            else:
                gradient.copy_(torch.bmm(logits.to(self.narrow).transpose(1, 2), rows))
        self._push(weight, self.gradient)
        if bias is not None:
            self._push(bias, logits.sum(dim=1).view(runs, classes))
        return values


class _StackedAffine:
    """Weight (R, C, D') and bias (R, C) or None of R heads, differentiable in the stack."""

    def __init__(self, stack: StackedHeads) -> None:
        self.stack, self.module = stack, _AffineOf(stack.head)
        self.leaves = [self._leaf(tensor) for tensor in self.module()]

    def _leaf(self, tensor: Tensor) -> str | None:
        """Return the name of the parameter that a tensor is, or None for a derived one."""
        return next((n for n, p in self.stack.head.named_parameters() if p is tensor), None)

    def __call__(self) -> tuple[Tensor, Tensor | None]:
        if None not in self.leaves:
            found = tuple(self.stack.values[name] for name in self.leaves if name is not None)
        else:
            named = {f"head.{name}": value for name, value in self.stack.values.items()}
            found = vmap(lambda values: functional_call(self.module, values, ()))(named)
        return found[0], found[1] if len(found) > 1 else None


class _AffineOf(nn.Module):
    """A head whose call is :meth:`Head.affine`, without what is None."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self) -> tuple[Tensor, ...]:
        affine = self.head.affine()
        assert affine is not None
        return tuple(tensor for tensor in affine if tensor is not None)
