"""The one contract of all objectives: (outputs, batch, progress) -> scalar."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ltcache.losses import Loss


@dataclass(frozen=True, eq=False)
class Batch:
    """What a step trains on.

    Attributes:
        features: (N, D). labels: (N,). weights: sample weights (N,), or None for equal ones.
    """

    features: Tensor
    labels: Tensor
    weights: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a head says about a batch.

    Attributes:
        representation: (E, N, D'). experts: logits of each expert, (E, N, C). logits: (N, C).
    """

    representation: Tensor
    experts: Tensor
    logits: Tensor


class Objective(nn.Module):
    """Base of all objectives.

    Args:
        loss: the loss per row that it is built on.
    """

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: Outputs, batch: Batch, progress: float) -> Tensor:
        """Return the scalar to minimise; ``progress`` runs from 0 to 1 over the training."""
        raise NotImplementedError

    def row_weights(self, batch: Batch, progress: float) -> Tensor | None:
        """Return (N,) such that the objective is sum(weights * loss(logits, labels)), else None.

        An objective that can say so may be trained by the closed-form gradient of its loss.
        """
        return None
