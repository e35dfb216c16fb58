"""Parametric contrastive learning: class centres and samples compete in one softmax (Cui et al.,
PaCo, ICCV 2021, and GPaCo, TPAMI 2023), on two crops of an image and a projection of features."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.losses import Loss
from ltcache.objectives.base import HeadOutputs, Objective, TrainingBatch, TrainingStart

_IN_LOG = 1e-9


def parametric_contrast(
    class_scores: Tensor,
    labels: Tensor,
    key_scores: Tensor,
    key_labels: Tensor,
    *,
    alpha: float,
    gamma: float,
) -> Tensor:
    """Return the loss of each anchor, (A,).

    log p is taken over the union of classes and keys, the keys' terms times ``gamma``. The loss is
    -[log p(y) + alpha sum over positive keys of log p(key)] / (1 + alpha number of positive keys).

    Args:
        class_scores: (A, C), the log prior in them. labels: of the anchors, (A,).
        key_scores: (A, M); -inf where a key is the anchor itself. key_labels: (M,).
    """
    itself = key_scores == -torch.inf
    weighted = key_scores + (math.log(gamma) if gamma else -math.inf)
    total = torch.cat([class_scores, weighted], dim=1).logsumexp(dim=1)  # (A,)
    positive = (labels[:, None] == key_labels) & ~itself  # (A, M)
    own = class_scores.gather(1, labels[:, None]).squeeze(1) - total
    others = torch.where(positive, key_scores - total[:, None], 0.0).sum(dim=1)
    return -(own + alpha * others) / (1 + alpha * positive.sum(dim=1, dtype=own.dtype))


class GPaCoObjective(Objective):
    """Both views are anchors; all rows of both views and a queue are keys.

    Class scores are logits plus the log prior, scores of keys the cosine of projections over the
    temperature. With ``alpha = gamma = 0`` it is balanced softmax, averaged over the two views.

    Args:
        loss: cross entropy; the class term is one already.
        alpha: weight of a positive key beside the class centre; 0.05, and 0.01 on CIFAR.
        gamma: factor on the terms of keys in the softmax.
        temperature: of the cosines. queue: keys of past batches. width: of the projections.
        hidden: width of the projection's inner layers; the original has that of the features.

    Raises:
        FitError: a loss that is not plain cross entropy, or a value outside its range.
    """

    corrects: ClassVar[Literal["none", "partial", "full"]] = "full"
    needs_partner: ClassVar[bool] = True
    offset: Tensor
    queue_keys: Tensor
    queue_labels: Tensor

    def __init__(
        self,
        loss: Loss,
        *,
        alpha: float = 0.05,
        gamma: float = 1.0,
        temperature: float = 0.2,
        queue: int = 1024,
        width: int = 128,
        hidden: int = 256,
    ) -> None:
        super().__init__(loss)
        if loss.corrects != "none":
            raise FitError(
                f"the objective adds the class prior itself, and {type(loss).__name__} would "
                "correct it a second time; take loss=cross_entropy"
            )
        if min(alpha, gamma, queue) < 0 or temperature <= 0:
            raise FitError(
                f"objective.alpha={alpha}, gamma={gamma} and queue={queue} must not be negative, "
                f"and temperature={temperature} must be positive"
            )
        self.alpha, self.gamma, self.temperature = alpha, gamma, temperature
        self.queue, self.width, self.hidden = queue, width, hidden
        self.register_buffer("offset", (loss.prior + _IN_LOG).log())
        self.register_buffer("queue_keys", torch.zeros(0, width))
        self.register_buffer("queue_labels", torch.zeros(0, dtype=torch.int64))
        self.projection: nn.Module = nn.Identity()
        self._fresh: tuple[Tensor, Tensor] | None = None

    def begin(self, start: TrainingStart) -> None:
        """See :meth:`Objective.begin`; draws the projection."""
        dim = start.head.represent(start.rows.features[:1]).shape[-1]
        self.projection = self._layers(dim)
        _draw(self.projection, start.generator)

    def _layers(self, dim: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(dim, self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, self.width),
        )

    def forward(self, outputs: HeadOutputs, batch: TrainingBatch, progress: float) -> Tensor:
        """See :meth:`Objective.forward`."""
        assert outputs.partner is not None and batch.partner_labels is not None
        queries, keys = self._projected(outputs, outputs.partner)  # (N, width) each
        self._fresh = (keys.detach(), batch.partner_labels)
        values = [
            part.fraction * self._value(outputs, part.batch, queries, keys)
            for part in batch.by_label()
        ]
        return torch.stack(values).sum()

    def _projected(self, first: HeadOutputs, second: HeadOutputs) -> tuple[Tensor, Tensor]:
        """Return unit projections of the two views."""
        both = torch.cat([first.representation.mean(dim=0), second.representation.mean(dim=0)])
        queries, keys = F.normalize(self.projection(both), dim=1).chunk(2)
        return queries, keys

    def _value(
        self, outputs: HeadOutputs, batch: TrainingBatch, queries: Tensor, keys: Tensor
    ) -> Tensor:
        """Return the weighted mean over the anchors of both views."""
        assert outputs.partner is not None and batch.partner_labels is not None
        logits = torch.cat([outputs.logits, outputs.partner.logits])
        labels = torch.cat([batch.labels, batch.partner_labels])
        weights = self.sample_weights(batch).repeat(2) / 2
        return self._contrast(logits, labels, torch.cat([queries, keys]), queries, keys) @ (
            weights.to(logits.dtype)
        )

    def _contrast(
        self, logits: Tensor, labels: Tensor, anchors: Tensor, queries: Tensor, keys: Tensor
    ) -> Tensor:
        """Return the loss of each anchor, (A,); the first keys are the anchors themselves.

        Args:
            logits: of the anchors, (A, C). labels: of the anchors, and after them of the keys that
                are none, (A or 2 N,). anchors: (A, width). queries, keys: (N, width).
        """
        every = torch.cat([queries, keys, self.queue_keys.to(keys.dtype)])  # (2 N + queue, width)
        scores = anchors @ every.T / self.temperature
        number = torch.arange(len(anchors), device=scores.device)
        scores = scores.index_put((number, number), scores.new_full((), -torch.inf))
        return parametric_contrast(
            logits + self.offset.to(logits.dtype),
            labels[: len(anchors)],
            scores,
            torch.cat([labels, self.queue_labels]),
            alpha=self.alpha,
            gamma=self.gamma,
        )

    def end_step(self) -> None:
        """See :meth:`Objective.end_step`; the keys of the step enter the queue, the oldest go."""
        if self._fresh is None:
            return
        keys, labels = self._fresh
        first = max(0, len(self.queue_keys) + len(keys) - self.queue)
        self.queue_keys = torch.cat([self.queue_keys, keys])[first:]
        self.queue_labels = torch.cat([self.queue_labels, labels])[first:]


class PaCoObjective(GPaCoObjective):
    """The first view's rows are anchors; keys of the second view come from a momentum copy.

    The copy follows the projection: p_copy = momentum p_copy + (1 - momentum) p. Without gradient
    of the second view, class scores are those of the first.

    Args:
        momentum: of the copy; the rest as of :class:`GPaCoObjective`.
    """

    def __init__(
        self,
        loss: Loss,
        *,
        alpha: float = 0.05,
        gamma: float = 1.0,
        temperature: float = 0.2,
        queue: int = 1024,
        width: int = 128,
        hidden: int = 256,
        momentum: float = 0.999,
    ) -> None:
        super().__init__(
            loss,
            alpha=alpha,
            gamma=gamma,
            temperature=temperature,
            queue=queue,
            width=width,
            hidden=hidden,
        )
        if not 0 <= momentum <= 1:
            raise FitError(f"objective.momentum={momentum} must lie in 0..1")
        self.momentum = momentum
        self.copied: nn.Module = nn.Identity()

    def _layers(self, dim: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(dim, self.hidden),
            nn.BatchNorm1d(self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, self.width),
        )

    def begin(self, start: TrainingStart) -> None:
        """See :meth:`Objective.begin`; the copy starts as the projection."""
        super().begin(start)
        self.copied = deepcopy(self.projection).requires_grad_(False)

    def _projected(self, first: HeadOutputs, second: HeadOutputs) -> tuple[Tensor, Tensor]:
        queries = F.normalize(self.projection(first.representation.mean(dim=0)), dim=1)
        with torch.no_grad():
            keys = F.normalize(self.copied(second.representation.mean(dim=0)), dim=1)
        return queries, keys

    def _value(
        self, outputs: HeadOutputs, batch: TrainingBatch, queries: Tensor, keys: Tensor
    ) -> Tensor:
        assert batch.partner_labels is not None
        labels = torch.cat([batch.labels, batch.partner_labels])
        values = self._contrast(outputs.logits, labels, queries, queries, keys)
        return values @ self.sample_weights(batch).to(values.dtype)

    @torch.no_grad()
    def end_step(self) -> None:
        """See :meth:`Objective.end_step`; moves the copy as well."""
        super().end_step()
        for own, live in zip(self.copied.parameters(), self.projection.parameters(), strict=True):
            own.lerp_(live, 1 - self.momentum)


def _draw(layers: nn.Module, generator: Generator) -> None:
    """Draw the weights of linear layers uniformly in +-1/sqrt(inputs), their biases zero."""
    with torch.no_grad():
        for layer in layers.modules():
            if isinstance(layer, nn.Linear):
                bound = layer.in_features**-0.5
                drawn = torch.rand(layer.weight.shape, generator=generator) * 2 - 1
                layer.weight.copy_(drawn * bound)
                layer.bias.zero_()
