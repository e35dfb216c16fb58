"""One training step in two forms, which a test holds equal.

``AutogradStep`` works for every head, loss and objective. ``ClosedFormStep`` serves a head that is
one product on a fixed representation under a weighted mean of a loss that knows its gradient: two
products, one softmax in the buffer of the logits, nothing allocated. Autograd then only sees the
(C, D) side, such as the normalisation of a cosine head's weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ltcache.heads import Head
from ltcache.objectives import Batch, Objective, Outputs


class AutogradStep:
    """Gradients by autograd.

    Args:
        features: (N, D), after the transform. labels: (N,). weights: (N,) or None.
        head, objective: what is trained, and on what.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        weights: Tensor | None,
        head: Head,
        objective: Objective,
    ) -> None:
        self.features, self.labels, self.weights = features, labels, weights
        self.head, self.objective = head, objective

    def __call__(self, index: Tensor, progress: float) -> Tensor:
        """Put gradients of the rows ``index`` into the parameters and return the objective."""
        weights = None if self.weights is None else self.weights[index]
        batch = Batch(self.features.index_select(0, index), self.labels[index], weights)
        representation = self.head.represent(batch.features)
        experts = self.head.classify(representation)
        outputs = Outputs(representation, experts, self.head.combine(experts))
        value = self.objective(outputs, batch, progress)
        value.backward()
        return value.detach()


class ClosedFormStep:
    """Gradients in closed form; see the module.

    Args:
        representation: (N, D'), computed once. labels, weights, head, objective: as above.
        largest: rows of the largest batch, for the buffers.
        precision: of the two products.
    """

    def __init__(
        self,
        representation: Tensor,
        labels: Tensor,
        weights: Tensor | None,
        head: Head,
        objective: Objective,
        largest: int,
        precision: str = "fp32",
    ) -> None:
        self.narrow = torch.bfloat16 if precision == "bf16" else representation.dtype
        self.features = representation.to(self.narrow)
        self.labels, self.weights = labels, weights
        self.head, self.objective = head, objective
        dim, classes = representation.shape[1], head.num_classes
        new = representation.new_empty
        self.rows = new((largest, dim), dtype=self.narrow)
        self.logits = new((largest, classes))
        self.gradient = new((classes, dim))

    @staticmethod
    def serves(head: Head, objective: Objective, batch: Batch) -> bool:
        """Whether this form exists for a head and an objective."""
        return (
            head.fixed_representation
            and head.num_experts == 1
            and hasattr(objective.loss, "gradient")
            and objective.row_weights(batch, 0.0) is not None
            and head.affine() is not None
        )

    def __call__(self, index: Tensor, progress: float) -> Tensor:
        """Put gradients of the rows ``index`` into the parameters and return the objective."""
        affine = self.head.affine()
        assert affine is not None
        labels = self.labels.index_select(0, index)
        own = None if self.weights is None else self.weights.index_select(0, index)
        with torch.no_grad():
            rows, logits = self.rows[: len(index)], self.logits[: len(index)]
            torch.index_select(self.features, 0, index, out=rows)
            self._logits(rows, affine.weight.detach(), affine.bias, logits)
            weights = self.objective.row_weights(Batch(rows, labels, own), progress)
            assert weights is not None
            losses, change = self.objective.loss.gradient(logits, labels, weights)  # type: ignore[operator]
            gradient = self._weight_gradient(change, rows)
        for tensor, grad in ((affine.weight, gradient), (affine.bias, change)):
            if tensor is not None and tensor.requires_grad:
                _push(tensor, grad if grad is gradient else change.sum(dim=0))
        return losses @ weights.to(losses.dtype)

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
