"""Cumulative learning of two branches (Zhou et al., BBN: Bilateral-branch network with cumulative
learning for long-tailed visual recognition, CVPR 2020)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ltcache.errors import FitError
from ltcache.fusion.base import FusedBatch, Fusion


class BilateralBranches(Fusion):
    """[2 l f ; 2 (1 - l) g], labels l y + (1 - l) y', l = 1 - t**2, t the progress.

    The first branch sees the batch, the second its partner, whose rows a reversed sampler draws:
    training moves from the data as they are to rare classes. A head with the two branches' logits
    summed, such as ``branches``, classifies the pair; at prediction both branches see one image.

    Args:
        share: l as a constant, 0..1; None: the parabola.

    Raises:
        FitError: a share outside 0..1; in training, a head that has not two branches.
    """

    needs_partner = True
    mixes_labels = True
    reference = "Zhou et al. (BBN), CVPR 2020"
    equation = "[2 l f ; 2 (1 - l) g], l = 1 - t**2"

    def __init__(self, *, share: float | None = None) -> None:
        super().__init__()
        if share is not None and not 0 <= share <= 1:
            raise FitError(f"fusion.share={share} must lie in 0..1")
        self.share = share

    def forward(
        self,
        representation: Tensor,
        partner: Tensor | None,
        generator: Generator,
        progress: float = 0.0,
    ) -> FusedBatch:
        """See :meth:`Fusion.forward`."""
        partner = self.require_partner(representation, partner)
        if len(representation) != 2:
            raise FitError(
                f"fusion=bbn is for the two branches of head=branches, not {len(representation)}"
            )
        share = 1 - progress**2 if self.share is None else self.share
        fused = torch.stack([2 * share * representation[0], 2 * (1 - share) * partner[1]])
        order = torch.arange(representation.shape[1], device=representation.device)
        return FusedBatch(fused, order, share, of_partner=True)
