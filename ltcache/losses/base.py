"""The one contract of all losses.

A loss is built from the class counts and its hyper-parameters, and maps logits (N, C) and labels
(N,) to (N,) values. It never reduces, weighs samples or mixes labels: an objective does that in one
place. Whatever follows from counts is a buffer, so that it moves with the module.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.losses.softmax import offset_cross_entropy_


def class_prior(class_counts: Tensor, smooth_prior: bool = False) -> Tensor:
    """Return the class prior, (C,), float64: n / sum(n), or (n + 1) / sum(n + 1) where smoothed.

    The smoothed form is that of Candle's compensating logit adjustment (Shi et al., KDD 2024).

    Raises:
        FitError: a class has no training rows and the smoothed prior was not asked for.
    """
    counts = class_counts.to(torch.float64)
    if smooth_prior:
        counts = counts + 1
    if bool((counts <= 0).any()):
        empty = torch.nonzero(counts <= 0).flatten().tolist()
        shown = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
        raise FitError(
            f"{len(empty)} of {len(counts)} classes have no training rows (labels {shown}); "
            "leave them out of the class list, or set smooth_prior=true"
        )
    return counts / counts.sum()


class Loss(nn.Module):
    """Base of all losses.

    Args:
        class_counts: training rows of each class as drawn, (C,); may be effective (fractional).
        smooth_prior: take (n + 1) / sum(n + 1) as the prior; else a class without rows is refused.

    Attributes:
        class_counts: as given, buffer (C,), float64. prior: class prior, buffer (C,), float64.
        class_weights: buffer (C,), float64, mean 1, which the objective multiplies into the weight
            of each row by its label; None for equal ones.
        weights_from: share of the training, 0..1, from which they count (deferred re-weighting).
        needs: keyword arguments, tensors (C,), that an earlier stage has to have estimated.
        generator: of a loss with noise, which it draws in training mode only; None: torch's own.
        of_rows: whether a row's loss depends on that row alone, not on others of the batch.
        corrects: what the loss does about the prior: ``none``; ``full``: it removes a stated share
            (see :meth:`residual_prior`); ``partial``: some of it, by an amount nobody can state.
    """

    corrects: ClassVar[Literal["none", "partial", "full"]] = "none"
    reference: ClassVar[str]
    equation: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    of_rows: ClassVar[bool] = True
    class_counts: Tensor
    prior: Tensor
    class_weights: Tensor | None
    weights_from: float = 0.0
    generator: torch.Generator | None = None

    def __init__(self, class_counts: Tensor, *, smooth_prior: bool = False) -> None:
        super().__init__()
        self.smooth_prior = smooth_prior
        counts = torch.as_tensor(class_counts, dtype=torch.float64)
        self.register_buffer("prior", class_prior(counts, smooth_prior))
        self.register_buffer("class_counts", counts.clone())
        self.register_buffer("class_weights", None)

    def observe(self, labels: Tensor) -> None:
        """Count labels (N,) of a training batch before its loss; most losses need no such thing."""

    def weights_at(self, progress: float) -> Tensor | None:
        """Return the class weights (C,) in force at ``progress`` 0..1 of the training, or None."""
        return self.class_weights if progress >= self.weights_from else None

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return one loss per row, (N,), for logits (N, C) and labels (N,) in 0..C-1."""
        raise NotImplementedError

    def residual_prior(self, drawn: float) -> float:
        """Return the exponent a of the prior n**a that trained logits still carry.

        Args:
            drawn: exponent of the class frequencies that the sampler draws (1 = as in the data,
                0 = balanced).
        """
        return drawn


class OffsetCrossEntropy(Loss):
    """Cross entropy on logits plus a fixed offset per class: the shape of most prior corrections.

    Subclasses set ``offset``; with it comes the closed-form gradient that the fast fit uses.

    Attributes:
        offset: buffer (C,), float64, or None where nothing is added.
    """

    offset: Tensor | None

    def set_offset(self, offset: Tensor | None) -> None:
        """Store the offset as a buffer."""
        self.register_buffer("offset", offset)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See :meth:`Loss.forward`."""
        if self.offset is not None:
            logits = logits + self.offset.to(logits.dtype)
        return F.cross_entropy(logits, labels, reduction="none")

    def gradient(self, logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses (N,) and d(sum of weights * losses) / d logits, without autograd.

        Args:
            logits: (N, C); overwritten by the gradient.
            labels: (N,).
            weights: (N,), for a mean 1 / N each.
        """
        offset = None if self.offset is None else self.offset.to(logits.dtype)
        return offset_cross_entropy_(logits, labels, weights, offset), logits
