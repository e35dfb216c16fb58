"""Nearest class mean (Kang et al., Decoupling representation and classifier, ICLR 2020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ltcache.heads.base import Head, HeadContext
from ltcache.heads.moments import weighted_class_means
from ltcache.heads.scored import check_choice

VARIANTS = ("cl2n", "l2n", "un")


class NCMHead(Head):
    """z_c = -|x - m_c|^2 / temperature, m_c the mean of the rows x of class c.

    Args:
        variant: ``cl2n``: x = f minus the training mean, of unit length; ``l2n``: x = f of unit
            length; ``un``: x = f.
        temperature: moves no prediction, only how sure it is; not part of the reference.
    """

    fixed_representation = True
    at_prediction = ("temperature",)
    inits = ()
    residual = 0.0  # every class is one mean, whatever its number of rows
    equation = "z_c = -|x - m_c|^2"

    def __init__(
        self, context: HeadContext, *, variant: str = "cl2n", temperature: float = 1.0
    ) -> None:
        super().__init__(context)
        check_choice("variant", variant, VARIANTS)
        self.variant, self.temperature = variant, temperature
        self.register_buffer("mean", torch.zeros(context.dim))
        self.register_buffer("centroids", torch.zeros(context.num_classes, context.dim))

    mean: Tensor
    centroids: Tensor

    def normalise(self, representation: Tensor) -> Tensor:
        """Return x less an origin that no distance depends on."""
        if self.variant == "cl2n":
            return F.normalize(representation - self.mean, dim=-1)
        if self.variant == "l2n":
            representation = F.normalize(representation, dim=-1)
        return representation - self.mean

    def classify(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.classify`."""
        rows = self.normalise(representation)
        lengths = rows.square().sum(-1, keepdim=True) + self.centroids.square().sum(-1)
        return (2 * rows @ self.centroids.T - lengths) / self.temperature

    @torch.no_grad()
    def fit(
        self, features: Tensor, labels: Tensor, weights: Tensor | None, context: HeadContext
    ) -> None:
        """See :meth:`Head.fit`.

        Raises:
            FitError: a class without rows.
        """
        rows = F.normalize(features, dim=1) if self.variant == "l2n" else features
        self.mean.copy_(weighted_class_means(rows, torch.zeros_like(labels), weights, 1)[0])
        rows = self.normalise(features)
        self.centroids.copy_(weighted_class_means(rows, labels, weights, self.num_classes))
