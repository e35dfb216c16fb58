"""Focal loss over a softmax (Lin et al., ICCV 2017): rows that are already right count less."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.losses.base import Loss
from ltcache.losses.softmax import softmax_residual_


def focal(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """Return (1 - p_y)**gamma * -log p_y, (N,); see :class:`FocalLoss`."""
    losses = F.cross_entropy(logits, labels, reduction="none")
    return doubt_of(losses) ** gamma * losses


def doubt_of(losses: Tensor) -> Tensor:
    """Return 1 - p_y, (N,), from -log p_y: exact near p_y = 1, and never 0, where a power with an
    exponent below 1 has no finite slope."""
    return (-torch.expm1(-losses)).clamp(min=torch.finfo(losses.dtype).tiny)


class FocalLoss(Loss):
    """(1 - p_y)**gamma * CE(z, y).

    It tells easy rows from hard ones, not rare classes from frequent ones: its minimiser ranks the
    classes as the posterior does, so logits keep the prior that was drawn.

    Args:
        class_counts: (C,).
        gamma: how fast the weight falls with p_y; 0 is cross entropy.
        smooth_prior: see :class:`Loss`.

    Raises:
        FitError: a negative gamma.
    """

    reference = "Lin et al., ICCV 2017"
    equation = "(1 - p_y)^gamma CE(z, y)"

    def __init__(
        self, class_counts: Tensor, *, gamma: float = 2.0, smooth_prior: bool = False
    ) -> None:
        super().__init__(class_counts, smooth_prior=smooth_prior)
        if gamma < 0:
            raise FitError(f"loss.gamma={gamma} must not be negative")
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See :meth:`Loss.forward`."""
        return focal(logits, labels, self.gamma)

    @torch.no_grad()
    def gradient(self, logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`OffsetCrossEntropy.gradient`.

        With l = -log p_y and d = 1 - p_y the slope in l is d**gamma + gamma p_y l d**(gamma - 1),
        and that of l in z is softmax(z) - onehot(y).
        """
        losses = softmax_residual_(logits, labels)
        doubt = doubt_of(losses)
        easy = doubt**self.gamma
        slope = easy + self.gamma * (-losses).exp() * losses * doubt ** (self.gamma - 1)
        logits *= (slope * weights.to(logits.dtype))[:, None]
        return easy * losses, logits
