"""Zero-shot classification by class texts (Radford et al., 2021, section 3.1) as a head."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ltcache.heads.base import AffineWeights, Head, HeadContext


class ZeroShotHead(Head):
    """z_c = s <x, t_c>, x = f/|f| in the joint space, through the projection from another.

    Args:
        scale: s; None: the encoder's logit_scale.
    """

    fixed_representation = True
    keeps = ("text_features",)
    may_keep = ("projection",)
    inits = ()
    # No training row was looked at: the logits hold the prior of the encoder's own training, and
    # nothing of these class counts.
    residual = 0.0
    equation = "z_c = s <f/|f|, t_c>"
    context_text_features: Tensor
    context_projection: Tensor | None

    def __init__(self, context: HeadContext, *, scale: float | None = None) -> None:
        super().__init__(context)
        self.scale = context.scale_or(scale)

    def normalise(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.normalise`: unit rows in the joint space."""
        return joint_rows(representation, self.context_projection)

    def classify(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.classify`."""
        return F.linear(self.normalise(representation), *self.affine())

    def affine(self) -> AffineWeights:
        """See :meth:`Head.affine`."""
        return AffineWeights(self.scale * self.context_text_features, None)

    def fit(
        self, features: Tensor, labels: Tensor, weights: Tensor | None, context: HeadContext
    ) -> None:
        """Check that the class texts live where the features do; nothing is estimated.

        Raises:
            FitError: they do not.
        """
        context.require_texts()


def joint_rows(features: Tensor, projection: Tensor | None) -> Tensor:
    """Return unit rows in the joint space, (..., D_joint), for features (..., D)."""
    return F.normalize(features if projection is None else features @ projection, dim=-1)


def zero_shot_logits(
    features: Tensor, text_features: Tensor, projection: Tensor | None, scale: float
) -> Tensor:
    """Return s <x, t_c>, (..., C); see :class:`ZeroShotHead`."""
    return scale * (joint_rows(features, projection) @ text_features.T)
