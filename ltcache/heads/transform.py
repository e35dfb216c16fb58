"""What is done to features before a head sees them; its statistics are saved with the head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltcache.errors import FitError

TRANSFORMS = ("none", "l2", "standardize", "center_l2")


class FeatureTransform(nn.Module):
    """(N, D) -> (N, D): ``none``; ``l2`` (unit rows); ``standardize`` (mean 0, deviation 1 of each
    channel over the training rows); ``center_l2`` (training mean subtracted, then unit rows).

    Args:
        kind: one of ``TRANSFORMS``.
        dim: D.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, kind: str, dim: int) -> None:
        super().__init__()
        if kind not in TRANSFORMS:
            raise FitError(f"unknown transform {kind!r}; known: {', '.join(TRANSFORMS)}")
        self.kind = kind
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def fit(self, features: Tensor, weights: Tensor | None = None) -> FeatureTransform:
        """Take the statistics of training rows (N, D); a constant channel keeps deviation 1.

        Args:
            weights: of the rows, (N,), not all 0: a row of weight 2 counts as two rows do. None:
                equal ones.

        Raises:
            FitError: rows of tokens, which the rest of the encoder takes as they are.
        """
        if features.ndim > 2 and self.kind != "none":
            raise FitError(
                f"feature.transform={self.kind} is for vectors, and the rest of the encoder takes "
                "tokens as they are: set feature.transform=none"
            )
        if self.kind in ("standardize", "center_l2"):
            self.mean.copy_(_mean(features, weights))
        if self.kind == "standardize":
            if weights is None:
                std = features.std(dim=0, correction=0)
            else:
                std = _mean((features - self.mean).square(), weights).sqrt()
            low, high = features.aminmax()  # abs() would be as large as the features again
            self.std.copy_(torch.where(std > 1e-6 * torch.maximum(-low, high), std, 1.0))
        return self

    @torch.no_grad()
    def fit_blocks(
        self, blocks: Callable[[], Iterable[Tensor]], weights: Tensor | None = None
    ) -> FeatureTransform:
        """As :meth:`fit` up to rounding, for rows that come in blocks: two passes, no copy.

        Args:
            blocks: begins a pass over blocks (n, D) of all N rows. weights: as of :meth:`fit`.
        """
        if self.kind not in ("standardize", "center_l2"):
            return self.fit(next(iter(blocks())), weights)
        self.mean.copy_(_mean_of(blocks(), weights, self.mean))
        if self.kind == "standardize":
            largest = torch.zeros((), device=self.mean.device)

            def squares() -> Iterator[Tensor]:
                for block in blocks():
                    low, high = block.aminmax()
                    torch.maximum(largest, torch.maximum(-low, high), out=largest)
                    yield block.sub(self.mean).square_()

            std = _mean_of(squares(), weights, self.std).sqrt_()
            self.std.copy_(torch.where(std > 1e-6 * largest, std, 1.0))
        return self

    def forward(self, features: Tensor) -> Tensor:
        """Return the transformed features."""
        if self.kind == "standardize":
            return (features - self.mean).div_(self.std)
        if self.kind == "center_l2":
            features = features - self.mean
        return features if self.kind == "none" else F.normalize(features, dim=1)


def _mean_of(blocks: Iterable[Tensor], weights: Tensor | None, like: Tensor) -> Tensor:
    """Return the (weighted) mean (D,), float64, of blocks of rows (n, D)."""
    total, rows = torch.zeros_like(like, dtype=torch.float64), 0
    for block in blocks:
        part = slice(rows, rows + len(block))
        # sums of a block are exact enough in its own type: few rows, and their mean counts
        total += block.sum(dim=0) if weights is None else weights[part].to(block) @ block
        rows += len(block)
    return total / (rows if weights is None else weights.double().sum())


def _mean(rows: Tensor, weights: Tensor | None) -> Tensor:
    """Return the (weighted) mean (D,) of rows (N, D)."""
    return rows.mean(dim=0) if weights is None else weights.to(rows) @ rows / weights.sum()
