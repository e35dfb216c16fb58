"""SADE's aggregation at test time (Zhang et al., Self-supervised aggregation of diverse experts for
test-agnostic long-tailed recognition, NeurIPS 2022; first named TADE).

The released code learns the weights on views with colour, grey and blur; crops of a cache have none
of these. Its comment names an entropy regulariser that it does not have; nor is there one here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ltcache.adjustments.base import Adjustment, PredictedRows
from ltcache.errors import FitError
from ltcache.heads import Head, HeadContext
from ltcache.records import JsonObject

_BLOCK = 8192
_MOMENTUM = 0.9
LEAST_WEIGHT = 0.05
"""Smallest weight of an expert that learning goes on with."""


class SadeAggregation(Adjustment):
    """z = sum_e w_e z_e, w = softmax(a): a maximises cos(softmax z(x1), softmax z(x2)).

    x1 and x2 are two random crops of each row that is to be predicted; its label is not looked at.
    All but the E numbers a stays as it was trained. They start at 1/E and are learned by SGD with
    Nesterov momentum 0.9 on shuffled batches; after each epoch learning stops where a weight,
    rounded to two digits, is below :data:`LEAST_WEIGHT`. Logits of two crops of all rows,
    (E, N, C), are held.

    Args:
        view: random crops of the cache, two or more of each image; every epoch takes another pair
            of them while there are any.
        lr: 0.025 on ImageNet-LT, 0.1 on CIFAR, 0.01 on Places-LT, 0.2 on iNaturalist; never to be
            chosen on test rows. weight_decay: of a. batch: rows of a step.
        epochs: at most; 0 leaves all experts equal weights. min_steps: where ``epochs`` passes over
            the rows are fewer steps than this, more passes are made: the weights cannot leave 1/E
            in the ten steps that are five passes over 244 rows.
    """

    transductive = True
    instead = "sade"
    equation = "z = sum_e w_e z_e, w = argmax mean cos(p(x1), p(x2))"
    weights: Tensor | None

    def __init__(
        self,
        base: Head,
        context: HeadContext,
        *,
        view: str = "rrc:2",
        lr: float = 0.025,
        weight_decay: float = 5e-4,
        batch: int = 128,
        epochs: int = 5,
        min_steps: int = 0,
    ) -> None:
        super().__init__(base, context)
        averages = not isinstance(base, Adjustment) and type(base).combine is Head.combine
        if base.num_experts < 2 or not averages:
            raise FitError(
                f"{type(self).__name__} weighs the experts of a head that takes their mean, which "
                f"{type(base).__name__} is not: take head=experts in the stage before it"
            )
        if lr <= 0 or batch < 1 or epochs < 0 or min_steps < 0:
            raise FitError(
                f"adjustment.lr={lr:g}, batch={batch}, epochs={epochs} and min_steps={min_steps} "
                "must be above 0, at least 1, at least 0 and at least 0"
            )
        self.view, self.lr, self.weight_decay = view, lr, weight_decay
        self.batch, self.epochs, self.min_steps = batch, epochs, min_steps
        self.register_buffer("weights", None, persistent=False)

    def adapt(self, unlabelled: PredictedRows) -> JsonObject:
        """See :meth:`Adjustment.adapt`.

        Raises:
            FitError: the view has one crop of each row.
        """
        assert self.view is not None
        crops = unlabelled.crops(self.view)
        if crops.shape[1] < 2:
            raise FitError(
                f"{type(self).__name__} compares two random crops of each image, and the view "
                f"{self.view!r} has one: {how_to_add(self.view)}"
            )
        generator = Generator().manual_seed(unlabelled.seed)

        @cache
        def experts(crop: int) -> Tensor:
            return self._experts(crops[:, crop])

        pairs = _shuffled_pairs(crops.shape[1], generator)
        exponents = torch.full((self.num_experts,), 1 / self.num_experts, dtype=torch.float64)
        exponents = exponents.to(crops.device).requires_grad_()
        optimiser = torch.optim.SGD(
            [exponents], self.lr, _MOMENTUM, weight_decay=self.weight_decay, nesterov=True
        )
        epoch, self.weights = 0, exponents.detach().softmax(dim=0)
        epochs = self._epochs_to_make(len(crops))
        while epoch < epochs and self._may_go_on():
            first, second = map(experts, pairs[epoch % len(pairs)])
            for part in torch.randperm(len(crops), generator=generator).split(self.batch):
                part = part.to(crops.device)
                optimiser.zero_grad()
                with torch.enable_grad():
                    loss = -agreement(exponents.softmax(dim=0), first[:, part], second[:, part])
                    loss.backward()
                optimiser.step()
            epoch, self.weights = epoch + 1, exponents.detach().softmax(dim=0)
        return {"weights": self.weights.tolist(), "epochs": epoch}

    def _epochs_to_make(self, rows: int) -> int:
        steps_per_epoch = max(1, -(-rows // self.batch))
        return self.epochs and max(self.epochs, -(-self.min_steps // steps_per_epoch))

    def _may_go_on(self) -> bool:
        assert self.weights is not None
        return min(round(weight, 2) for weight in self.weights.tolist()) >= LEAST_WEIGHT

    @torch.no_grad()
    def _experts(self, features: Tensor) -> Tensor:
        """Return the logits of each expert, (E, N, C), by blocks of rows."""
        parts = features.split(_BLOCK)
        return torch.cat([self.base.classify(self.base.represent(p)) for p in parts], dim=1)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (N, C) for features (N, D), the experts weighed."""
        experts = self.base.classify(self.base.represent(features))
        weights = self.learned(self.weights).to(experts)
        return torch.einsum("e,enc->nc", weights, experts)

    def adjust(self, logits: Tensor, features: Tensor) -> Tensor:
        """See :meth:`Adjustment.adjust`; the mean of the experts is of no use."""
        return self(features)

    def residual_after(self, residual: float | None) -> float | None:
        """See :meth:`Adjustment.residual_after`: it depends on the rows that are predicted."""
        return None


def agreement(weights: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the mean cosine, over classes, of what weighed experts say of two crops.

    Args:
        weights: (E,), float64. first, second: logits of the experts, (E, N, C).
    """
    one, two = (
        torch.einsum("e,enc->nc", weights, logits.to(weights.dtype)).softmax(dim=1)
        for logits in (first, second)
    )
    return F.cosine_similarity(one, two, dim=1, eps=1e-6).mean()


def how_to_add(view: str) -> str:
    """Return how a cache gets the random crops that it lacks."""
    crops = view if view.startswith("rrc:") and view != "rrc:1" else "rrc:2"
    return (
        f"ltcache extract SOURCE --out CACHE --views center,{crops} adds them; another view of the "
        "cache with two crops or more is named with -s adjustment.view=VIEW"
    )


def _shuffled_pairs(crops: int, generator: Generator) -> Sequence[tuple[int, int]]:
    pairs = list(itertools.combinations(range(crops), 2))
    return [pairs[k] for k in torch.randperm(len(pairs), generator=generator).tolist()]
