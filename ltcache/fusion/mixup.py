"""Mixup (Zhang et al., ICLR 2018), on features: an analogue, since mixing pixels is not linear
through an encoder."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

from ltcache.errors import FitError
from ltcache.fusion.base import FusedBatch, Fusion
from ltcache.process import to_device


class Mixup(Fusion):
    """f_i = lambda f_i + (1 - lambda) f_j, j from a permutation, lambda ~ Beta(alpha, alpha).

    One lambda per batch, partner rows from the batch itself. Every expert mixes the same rows
    with the same share, since they have the same labels.

    Args:
        alpha: 0 mixes nothing.

    Raises:
        FitError: a negative alpha.
    """

    mixes_labels = True
    reference = "Zhang et al., ICLR 2018, on features"
    equation = "f_i = lambda f_i + (1 - lambda) f_j, lambda ~ Beta(alpha, alpha)"

    def __init__(self, *, alpha: float = 0.2) -> None:
        super().__init__()
        if alpha < 0:
            raise FitError(f"fusion.alpha={alpha} must not be negative")
        self.alpha = alpha

    def forward(
        self,
        representation: Tensor,
        partner: Tensor | None,
        generator: Generator,
        progress: float = 0.0,
    ) -> FusedBatch:
        """See :meth:`Fusion.forward`."""
        share = self.draw_share(generator)
        order = torch.randperm(representation.shape[1], generator=generator)
        order = to_device(order, representation.device)
        return FusedBatch(torch.lerp(representation[:, order], representation, share), order, share)

    def draw_share(self, generator: Generator) -> float:
        """Return lambda; torch's Beta takes no generator, so NumPy's is seeded from it."""
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        return (
            float(np.random.default_rng(seed).beta(self.alpha, self.alpha)) if self.alpha else 1.0
        )
