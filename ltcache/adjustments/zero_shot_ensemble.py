"""A head and zero-shot together, as in TACKLE's last rows; its poster does not say whether
probabilities or logits are averaged."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ltcache.adjustments.base import Adjustment
from ltcache.errors import FitError
from ltcache.heads import Head, HeadContext, zero_shot_logits

SPACES = ("probabilities", "logits")


class ZeroShotEnsemble(Adjustment):
    """log((1 - w) softmax(z) + w softmax(z_zs)), or (1 - w) z + w z_zs; z_zs = s <x, t_c>.

    Args:
        weight: w, of zero-shot, 0..1. space: ``probabilities`` or ``logits``.
        scale: s; None: the encoder's logit_scale.
    """

    keeps = ("text_features",)
    may_keep = ("projection",)
    at_prediction = ("weight",)
    equation = "(1 - w) p + w p_zs"
    context_text_features: Tensor
    context_projection: Tensor | None

    def __init__(
        self,
        base: Head,
        context: HeadContext,
        *,
        weight: float = 0.5,
        space: str = "probabilities",
        scale: float | None = None,
    ) -> None:
        super().__init__(base, context)
        if space not in SPACES:
            raise FitError(f"adjustment.space={space!r} is none of {', '.join(SPACES)}")
        self.weight, self.space = weight, space
        self.scale = context.scale_or(scale)

    def adjust(self, logits: Tensor, features: Tensor) -> Tensor:
        """See :meth:`Adjustment.adjust`."""
        if not 0 <= self.weight <= 1:
            raise FitError(f"the weight of zero-shot must be within 0..1, not {self.weight}")
        other = zero_shot_logits(
            features, self.context_text_features, self.context_projection, self.scale
        )
        if self.space == "logits":
            return (1 - self.weight) * logits + self.weight * other
        own, other = torch.log_softmax(logits, dim=-1), torch.log_softmax(other, dim=-1)
        if self.weight in (0, 1):
            return other if self.weight else own
        return torch.logaddexp(math.log1p(-self.weight) + own, math.log(self.weight) + other)

    def fit(
        self, features: Tensor, labels: Tensor, weights: Tensor | None, context: HeadContext
    ) -> None:
        """Check that the class texts live where the features do.

        Raises:
            FitError: they do not.
        """
        context.require_texts()

    def residual_after(self, residual: float | None) -> float | None:
        """See :meth:`Adjustment.residual_after`; zero-shot carries nothing of these counts. A mix
        of probabilities with a head that does is no power of them."""
        if residual == 0 or self.weight == 1:
            return 0.0
        if self.weight == 0:
            return residual
        return None if residual is None or self.space != "logits" else (1 - self.weight) * residual
