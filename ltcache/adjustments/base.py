"""The one contract of all adjustments: a head around a finished head, (logits, features) ->
logits."""

from __future__ import annotations

from torch import Tensor

from ltcache.heads import Head, HeadContext


class Adjustment(Head):
    """Base of all adjustments: ``ADJUSTMENTS[name](base, context, **hyper_parameters)``.

    Its state is that of the head under ``base.`` and its own buffers. Representations are those of
    the head before; logits are adjusted once experts are combined.

    Args:
        base: the finished head; it is shared, not copied.
        context: as of heads.
    """

    inits = ()

    def __init__(self, base: Head, context: HeadContext) -> None:
        super().__init__(context)
        self.base = base
        self.num_experts = base.num_experts
        self.unit_rows = base.unit_rows

    def adjust(self, logits: Tensor, features: Tensor) -> Tensor:
        """Return adjusted logits (N, C) for those of the head before and features (N, D)."""
        raise NotImplementedError

    def residual_after(self, residual: float | None) -> float | None:
        """Return the exponent a of the prior n**a that adjusted logits carry, or None.

        Args:
            residual: that of the head before; None: it cannot be stated.
        """
        raise NotImplementedError

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (N, C) for features (N, D)."""
        return self.adjust(self.base(features), features)

    def represent(self, features: Tensor) -> Tensor:
        """See :meth:`Head.represent`."""
        return self.base.represent(features)

    def normalise(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.normalise`."""
        return self.base.normalise(representation)

    def fit(
        self, features: Tensor, labels: Tensor, weights: Tensor | None, context: HeadContext
    ) -> None:
        """Estimate what the adjustment needs from training rows; most need nothing."""
