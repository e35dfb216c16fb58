"""OLTR's modulated attention: where on a map its own context counts (Liu et al., Large-scale
long-tailed recognition in an open world, CVPR 2019)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ltcache.heads.scored import uniform


class ModulatedAttention(nn.Module):
    """x + s * P softmax(A B') G on a map x of T positions: A, B and G are D/2 channels of each
    position, P brings them back to D, and s = softmax over positions of a layer on the whole map.

    P starts at zero: an exact identity.

    Args:
        dim: D. positions: T.
    """

    def __init__(self, dim: int, positions: int) -> None:
        super().__init__()
        inner = max(1, dim // 2)
        self.theta, self.phi, self.value = (nn.Linear(dim, inner) for _ in range(3))
        self.mask = nn.Linear(inner, dim)
        self.spatial = nn.Linear(positions * dim, positions)

    @torch.no_grad()
    def start(self, generator: Generator) -> None:
        """Draw all weights but those of P, which are zero, as all biases are."""
        for layer in (self.theta, self.phi, self.value, self.spatial):
            layer.weight.copy_(uniform(tuple(layer.weight.shape), layer.in_features, generator))
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.mask.weight)
        nn.init.zeros_(self.mask.bias)

    def forward(self, field: Tensor) -> Tensor:
        """Return the map (N, T, D) with its context added where it counts."""
        near = (self.theta(field) @ self.phi(field).mT).softmax(dim=2)  # (N, T, T)
        context = self.mask(near @ self.value(field))
        where = F.softmax(self.spatial(field.flatten(1)), dim=1)  # (N, T)
        added: Tensor = field + where[:, :, None] * context
        return added
