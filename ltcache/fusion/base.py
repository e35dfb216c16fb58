"""The one contract of all fusions: they mix rows between ``represent`` and ``classify`` of a head.

A fusion acts inside each expert and in training only. It never writes into what it is given.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from torch import Generator, Tensor, nn

from ltcache.errors import FitError


class FusedBatch(NamedTuple):
    """What a fusion makes of a batch.

    Attributes:
        representation: (E, N, D').
        order: row whose label each row has got as its second, (N,); None: labels are untouched.
        of_partner: ``order`` counts the partner's rows, not the batch's own.
        share: of the first labels, 0..1.
    """

    representation: Tensor
    order: Tensor | None = None
    share: float = 1.0
    of_partner: bool = False


class Fusion(nn.Module):
    """Base of all fusions; hyper-parameters are keyword arguments kept under their own names.

    Attributes:
        needs_partner: it takes rows from a second batch, which another sampler has drawn.
        mixes_labels: some rows get a second label, which no closed form knows.
    """

    needs_partner: ClassVar[bool] = False
    mixes_labels: ClassVar[bool] = False
    reference: ClassVar[str]
    equation: ClassVar[str]

    def forward(
        self,
        representation: Tensor,
        partner: Tensor | None,
        generator: Generator,
        progress: float = 0.0,
    ) -> FusedBatch:
        """Fuse the rows of a batch.

        Args:
            representation: (E, N, D'). partner: the same of the second batch, or None.
            generator: draws everything random, on the CPU, whatever device the rows are on.
            progress: of the training, 0..1.

        Raises:
            FitError: the fusion needs a partner and has none of the same shape.
        """
        raise NotImplementedError

    def require_partner(self, representation: Tensor, partner: Tensor | None) -> Tensor:
        """Return the partner.

        Raises:
            FitError: there is none, or its shape differs.
        """
        name = type(self).__name__
        if partner is None:
            raise FitError(
                f"{name} fuses two batches: name the sampler of the second one, partner="
            )
        if partner.shape != representation.shape:
            raise FitError(
                f"{name} fuses row by row, but the batches are of shape "
                f"{tuple(representation.shape)} and {tuple(partner.shape)}"
            )
        return partner
