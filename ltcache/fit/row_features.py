"""Features of rows, which share memory with the rows that they were taken from where that is much.

Rows that are held out, and rows as a transform maps them, are copies while they are small, for a
step gathers from a copy fastest. Of large ones the numbers of the rows and the transform are kept,
and a batch is gathered and mapped when it is needed: the values are the same to the bit, and the
memory of a fit is that of its features, of an ablation's processes that of one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ltcache.heads import FeatureTransform
from ltcache.records import one_line

LARGE = 2**26
"""Values above which features are not copied: 256 MiB of float32, such as 131,072 x 512. A copy of
115,000 x 512 takes 0.3 s of a core, and steps on it a sixth less time than on shared rows (200,000
x 512, 100 classes)."""
_FEW = 2**24  # values from which statistics are taken at once
_BLOCK = 2048  # rows read at once


@one_line
@dataclass(frozen=True, eq=False)
class RowFeatures:
    """Features of N rows.

    Args:
        stored: float32 (M, D), or (M, T, D) of tokens.
        at: which of the stored rows these are, int64 (N,); None: all in their order.
        transform: maps (n, D) to (n, D'), row by row; None: they are as stored.
    """

    stored: Tensor
    at: Tensor | None = None
    transform: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.stored if self.at is None else self.at)

    @property
    def copied(self) -> bool:
        """Whether the features lie in memory as they are."""
        return self.at is None and self.transform is None

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D), or (N, T, D) of tokens."""
        return (len(self), *self.stored.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """Of the features."""
        return self.stored.dtype

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.stored.device

    def whole(self) -> Tensor:
        """Return all features, (N, D'): a copy where they do not lie in memory as they are."""
        return self.part(0, len(self))

    def part(self, start: int, end: int) -> Tensor:
        """Return the features of neighbours, (n, D')."""
        stored = self.stored[start:end] if self.at is None else self.stored[self.at[start:end]]
        return stored if self.transform is None else self.transform(stored)

    def gather(self, index: Tensor, room: Tensor | None = None) -> Tensor:
        """Return a copy of the features of some rows, (n, D').

        Args:
            index: int64 (n,). room: (n, D'), where the copy may be put.
        """
        if self.copied:
            return torch.index_select(self.stored, 0, index, out=room)
        index = index if self.at is None else self.at.index_select(0, index)
        stored = self.stored.index_select(0, index)
        return stored if self.transform is None else self.transform(stored)

    def blocks(self, size: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield ``size`` rows at a time: which these are, and their features (n, D').

        Who keeps something of each block should put it into room made before: a small array that
        stays behind a block keeps the next block from taking its memory.
        """
        for start in range(0, len(self), size):
            end = min(start + size, len(self))
            yield slice(start, end), self.part(start, end)

    def take(self, index: Tensor) -> RowFeatures:
        """Return those of some rows; ``index`` is int64 (n,)."""
        index = index.to(self.device)
        if not self._large:
            return RowFeatures(self.gather(index))
        return replace(self, at=index if self.at is None else self.at[index])

    def mapped(self, transform: Callable[[Tensor], Tensor]) -> RowFeatures:
        """Return the features as a transform maps them, (n, D) to (n, D'), row by row."""
        if not self._large:
            return RowFeatures(transform(self.whole()))
        before = self.transform
        both = transform if before is None else lambda features: transform(before(features))
        return replace(self, transform=both)

    def to(self, device: torch.device) -> RowFeatures:
        """Return them on a device."""
        at = None if self.at is None else self.at.to(device)
        return replace(self, stored=self.stored.to(device), at=at)

    def fit(self, transform: FeatureTransform, weights: Tensor | None) -> None:
        """Let a transform take its statistics from the rows, which may have weights (N,)."""
        if self.copied and self.stored.numel() <= _FEW:
            transform.fit(self.stored, weights)
        else:  # nine times as fast on 115,000 x 512, since torch's deviation of columns is slow
            transform.fit_blocks(lambda: (part for _, part in self.blocks(_BLOCK)), weights)

    @property
    def _large(self) -> bool:
        return self.stored.numel() > LARGE
