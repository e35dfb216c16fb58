"""Composites in a training: rows with two labels in the place of some batches (CMO; Park et al.,
CVPR 2022)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from ltcache.errors import FitError, UsageError
from ltcache.records import one_line

_MARGIN = 3  # epochs without composites after the first one and at the end, of the original
_LEAST = 8  # epochs to each epoch of the margin: shorter trainings have shorter margins


@one_line
@dataclass(frozen=True, eq=False)
class CompositeRows:
    """Composites of N training rows, K of each.

    Args:
        features: float32 (N, K, D), or (N, K, T, D) of tokens.
        partners: int64 (N, K), the row whose image is pasted in; its label is the second one.
        shares: float32 (N, K), of the row's own label, 0..1.

    Raises:
        FitError: shapes that do not fit, or features that are not finite.
    """

    features: Tensor
    partners: Tensor
    shares: Tensor

    def __post_init__(self) -> None:
        shape = tuple(self.partners.shape)
        if tuple(self.features.shape[:2]) != shape or tuple(self.shares.shape) != shape:
            raise FitError(
                f"composites of shapes {tuple(self.features.shape)}, {shape} and "
                f"{tuple(self.shares.shape)}"
            )
        if not bool(torch.isfinite(self.features).all()):
            raise FitError("features of composites are not finite")

    def __len__(self) -> int:
        return len(self.partners)

    def to(self, device: torch.device) -> CompositeRows:
        """Return the composites on a device."""
        return CompositeRows(*(v.to(device) for v in (self.features, self.partners, self.shares)))

    def transformed(self, transform: Callable[[Tensor], Tensor]) -> CompositeRows:
        """Return the composites with their features mapped as those of rows are."""
        flat = transform(self.features.flatten(0, 1))
        return replace(self, features=flat.unflatten(0, self.partners.shape))

    def take(self, index: Tensor, plain: Tensor) -> CompositeRows:
        """Return the composites of some rows.

        A composite with a row that is not among them becomes the plain row: rows that are held out
        must not be seen in a box either.

        Args:
            index: row numbers (n,). plain: features of these rows, (n, D).
        """
        index = index.to(self.partners.device)
        place = torch.full((len(self),), -1, device=index.device)
        place[index] = torch.arange(len(index), device=index.device)
        partners = place[self.partners[index]]
        return composites_among(self.features[index], partners, self.shares[index], plain)

    def with_plain(self, features: Tensor) -> CompositeRows:
        """Return the composites with those of more rows (m, D) behind: the rows themselves."""
        count, crops = len(features), self.partners.shape[1]
        own = torch.arange(len(self), len(self) + count, device=self.partners.device)
        return CompositeRows(
            torch.cat([self.features, torch.stack([features] * crops, dim=1).to(self.features)]),
            torch.cat([self.partners, own[:, None].expand(count, crops)]),
            torch.cat([self.shares, self.shares.new_ones(count, crops)]),
        )


def composites_among(
    features: Tensor, partners: Tensor, shares: Tensor, plain: Tensor
) -> CompositeRows:
    """Return composites of which some hold a row that is not there: the plain row in their place.

    Args:
        features, partners, shares: as of :class:`CompositeRows`; partners that are not there: -1.
        plain: features of the rows by themselves, (N, D) or (N, T, D).
    """
    gone = partners < 0  # (N, K)
    features = features.clone()
    features[gone] = plain[:, None].expand_as(features)[gone].to(features)
    own = torch.arange(len(partners), device=partners.device)[:, None].expand_as(partners)
    return CompositeRows(features, torch.where(gone, own, partners), torch.where(gone, 1.0, shares))


def composites_come(epoch: int, epochs: int) -> bool:
    """Whether a training of E epochs has composites in epoch e, counted from 0: m < e < E - m.

    The margin m is 3 as in the original, and an eighth of the epochs where these are fewer than 24.
    """
    margin = min(_MARGIN, epochs // _LEAST)
    return margin < epoch < epochs - margin


def require_composite_epochs(share: float, epochs: int) -> None:
    """Refuse composites in a share of the batches of a training that has none.

    Raises:
        UsageError: no epoch has composites.
    """
    if share and not any(composites_come(epoch, epochs) for epoch in range(epochs)):
        raise UsageError(
            f"composites={share:g} has no effect: they come after the first epoch, and there is "
            f"{epochs}; take more epochs, or set composites=0"
        )


@one_line
@dataclass(frozen=True, eq=False)
class CompositeSchedule:
    """Which batches are composites.

    Args:
        probability: that a batch is, in the epochs between the margins.
        epochs: E. crops: K. generator: on the CPU.
    """

    probability: float
    epochs: int
    crops: int
    generator: Generator

    def draw(self, progress: float, rows: int) -> Tensor | None:
        """Return which composite of each row of a batch to take, (rows,); None: a plain batch.

        Args:
            progress: share of the training that is done.
        """
        epoch = math.floor(progress * self.epochs + 1e-9)  # a whole number up to rounding
        if not composites_come(epoch, self.epochs):
            return None
        if float(torch.rand((), generator=self.generator)) >= self.probability:
            return None
        return torch.randint(self.crops, (rows,), generator=self.generator)
