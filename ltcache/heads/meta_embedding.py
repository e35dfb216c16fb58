"""OLTR's meta-embedding: a feature and what a memory of centroids says of it (Liu et al.,
Large-scale long-tailed recognition in an open world, CVPR 2019)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.heads.base import Head, HeadContext
from ltcache.heads.modulated import ModulatedAttention
from ltcache.heads.neighbours import label_counts
from ltcache.heads.recalibrated import product_before
from ltcache.heads.scored import uniform

_BLOCK = 1024  # rows of tokens at once
_NEAREST = 1e-6  # the least distance to a centroid: a row may be the only one of its class


class MetaEmbeddingHead(Head):
    """z_c = s <u / (1 + |u|), w_c / |w_c|>, u = r (v + e * m), for features v.

    - m = softmax(W_h v + b_h) M: the memory M holds a centroid of each class, the means of the
      training rows at first. W_h and b_h are those of the linear head before.
    - e = tanh(W_s v + b_s): how much of m each channel takes.
    - r = 10 / min_c |v - M_c|: large for a row near a centroid; the distance counts as 1e-6 at
      least, so that a row on its centroid has r = 10^7.

    Logits carry no gradient to M: it moves by the objective ``oltr``, or stays.

    Of tokens (N, T, D), v is what the rest of the encoder makes of them.

    Args:
        scale: s. reach: numerator of r.
        meta: False: u = v, a squashed cosine classifier without memory.
        attention: of tokens: modulated attention on their map before the rest of the encoder; a
            class token stands beside it.

    Raises:
        FitError: a reach that is not positive, or an attention on features that are no tokens.
    """

    fixed_representation = True
    adopts_a_part: ClassVar[bool] = True
    inits: ClassVar[tuple[str, ...]] = ("random",)
    equation = "z_c = s <u/(1+|u|), w_c/|w_c|>, u = r (v + tanh(W_s v + b_s) * softmax(W_h v) M)"

    def __init__(
        self,
        context: HeadContext,
        *,
        scale: float = 16.0,
        reach: float = 10.0,
        meta: bool = True,
        attention: bool = False,
    ) -> None:
        super().__init__(context)
        if reach <= 0:
            raise FitError(f"head.reach={reach} must be positive")
        self.scale, self.reach, self.meta, self.attention = scale, reach, meta, attention
        self._map, self.modulated = context.tokens, None
        if attention:
            if context.tokens is None:
                raise FitError(
                    "head.attention=true attends to a map of tokens: extract them with --fields "
                    "tokens, and set feature.field=tokens and feature.transform=none"
                )
            self.modulated = ModulatedAttention(context.dim, math.prod(context.tokens.grid))
            self.fixed_representation = False  # type: ignore[misc]
        classes, dim = context.num_classes, self.width
        self.weight = nn.Parameter(torch.zeros(classes, dim))
        self.memory = nn.Parameter(torch.zeros(classes, dim))
        self.recall_weight = nn.Parameter(torch.zeros(classes, dim))  # W_h
        self.recall_bias = nn.Parameter(torch.zeros(classes))
        self.select_weight = nn.Parameter(torch.zeros(dim, dim))  # W_s
        self.select_bias = nn.Parameter(torch.zeros(dim))

    def represent(self, features: Tensor) -> Tensor:
        """Return v, (1, N, D')."""
        if self._map is None:
            return features[None]
        if self.modulated is not None:
            first = int(self._map.class_token)
            field = self.modulated(features[:, first:])
            features = torch.cat([features[:, :first], field], dim=1)
        return self._map.vectors(features)[None]

    def embed(self, features: Tensor) -> Tensor:
        """Return the meta-embedding u, (..., D), of features (..., D)."""
        if not self.meta:
            return features
        memory = self.memory.detach()
        recalled = F.linear(features, self.recall_weight, self.recall_bias).softmax(dim=-1) @ memory
        taken = F.linear(features, self.select_weight, self.select_bias).tanh()
        return self.reachability(features) * (features + taken * recalled)

    def reachability(self, features: Tensor) -> Tensor:
        """Return r, (..., 1), of features (..., D)."""
        memory = self.memory.detach()
        with torch.no_grad():  # which centroid is nearest; how near follows without cancellation
            products = features @ memory.T
            nearest = (memory.square().sum(dim=1) - 2 * products).argmin(dim=-1)
        distance = (features - memory[nearest]).norm(dim=-1, keepdim=True)
        return self.reach / distance.clamp(min=_NEAREST)

    def classify(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.classify`."""
        embedded = self.embed(representation)
        squashed = embedded / (1 + embedded.norm(dim=-1, keepdim=True))
        return self.scale * F.linear(squashed, F.normalize(self.weight, dim=1))

    def initialise(
        self,
        how: str,
        features: Tensor,
        labels: Tensor,
        generator: Generator,
        context: HeadContext,
    ) -> None:
        """See :meth:`Head.initialise`; the memory takes the mean of each class.

        Raises:
            FitError: there are no rows.
        """
        self.require_known(how)
        if not len(labels):
            raise FitError(
                f"{type(self).__name__} begins with the mean training feature of each class, and "
                "gets no features here: it is trained on a cache (fit-adapter --method oltr)"
            )
        with torch.no_grad():
            for matrix in (self.weight, self.select_weight, self.recall_weight):
                matrix.copy_(uniform(tuple(matrix.shape), self.width, generator))
            self.select_bias.zero_()
            self.recall_bias.zero_()
            if self.modulated is not None:
                self.modulated.start(generator)
            rows = torch.cat([self.represent(part)[0] for part in features.split(_BLOCK)])
            self.memory.copy_(_centroids(rows, labels, self.num_classes))

    @torch.no_grad()
    def adopt(self, previous: Head) -> None:
        """Take over W_h and b_h from a linear head, or everything from a head of this kind.

        Raises:
            FitError: the head before is neither.
        """
        if type(previous) is type(self):
            super().adopt(previous)
            return
        product = product_before(type(self).__name__, previous)
        if previous.unit_rows:
            raise FitError(
                f"{type(self).__name__} recalls by the logits of a linear head, and the stage "
                f"before has a {type(previous).__name__}: set stages.0.head=linear"
            )
        self.recall_weight.copy_(product.weight)
        self.recall_bias.zero_()
        if product.bias is not None:
            self.recall_bias.copy_(product.bias)


def _centroids(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the mean of each class, (C, D); a class without rows gets the mean of all rows."""
    rows = label_counts(labels, num_classes)
    sums = features.new_zeros(num_classes, features.shape[1]).index_add_(0, labels, features)
    means = sums / rows.clamp(min=1)[:, None]
    return torch.where(rows[:, None] > 0, means, features.mean(dim=0))
