"""Head-to-tail fusion (Li et al., Feature fusion from head to tail for long-tailed visual
recognition, AAAI 2024): rows of a balanced batch take channels from rows of the data as it is."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ltcache.errors import FitError
from ltcache.fusion.base import FusedBatch, Fusion
from ltcache.process import to_device


class H2T(Fusion):
    """f[:, J] = g[:, J]: a random set J of int(ratio D') channels comes from the partner's rows.

    One set per batch and expert, rows aligned, labels those of the first batch. On a convolutional
    map before average pooling the swap is per channel, so on the pooled vector it is the same.

    Args:
        ratio: share of the channels, 0..1; 0 changes nothing, 1 takes the partner's rows whole.

    Raises:
        FitError: a ratio outside 0..1.
    """

    needs_partner = True
    reference = "Li et al. (H2T), AAAI 2024"
    equation = "f[:, J] = g[:, J], |J| = int(ratio D'), g drawn instance-wise"

    def __init__(self, *, ratio: float = 0.25) -> None:
        super().__init__()
        if not 0 <= ratio <= 1:
            raise FitError(f"fusion.ratio={ratio} must lie in 0..1")
        self.ratio = ratio

    def forward(
        self,
        representation: Tensor,
        partner: Tensor | None,
        generator: Generator,
        progress: float = 0.0,
    ) -> FusedBatch:
        """See :meth:`Fusion.forward`."""
        partner = self.require_partner(representation, partner)
        experts, _, dim = representation.shape
        chosen = torch.zeros(experts, dim, dtype=torch.bool)
        for channels in chosen:
            channels[torch.randperm(dim, generator=generator)[: int(self.ratio * dim)]] = True
        swap = to_device(chosen, representation.device)[:, None]  # (E, 1, D')
        return FusedBatch(torch.where(swap, partner, representation))
