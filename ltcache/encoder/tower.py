"""An encoder's image tower as a module of its own, for those who trace or convert modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ltcache.encoder.encoder import Encoder


class ImageTower(nn.Module):
    """Normalised images, float32 (N, 3, H, W), to one field, float32 (N, dim).

    It holds the encoder's own image tower, not a copy, and gives the same values.

    Args:
        encoder: in float32. field: one of its ``dims``.
    """

    def __init__(self, encoder: Encoder, field: str) -> None:
        super().__init__()
        self.visual = encoder.model.visual
        self.field = field
        self._fields = encoder._fields

    def forward(self, images: Tensor) -> Tensor:
        """Return the field of a batch."""
        found: torch.Tensor = self._fields(images)[self.field]
        return found
