"""What a fine-tuning minimises: a weighted sum of terms on the embeddings of a joined batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ltcache.errors import FitError
from ltcache.finetune.contrastive import supervised_contrastive, unit_rows
from ltcache.finetune.spec import CONTRASTIVE, SENTENCES, ObjectiveTerm
from ltcache.losses import LOSSES, Loss
from ltcache.objectives import TrainingBatch, WeightedMean
from ltcache.records import one_line


@one_line
@dataclass(frozen=True, eq=False)
class EmbeddedBatch:
    """What the towers, and the head where there is one, say about a batch.

    Attributes:
        images: image embeddings (N, D), of any length.
        labels: (N,).
        logit_scale: the factor on cosines itself, not its logarithm.
        texts: text embeddings (K, D): of all C classes, or of those of ``classes``; or None.
        classes: labels of ``texts``, (K,), ascending as torch.unique gives them; they hold every
            label of the batch. None: all C in order.
        logits: of a head, (N, C), or None.
        other_labels: second labels (N,), of what is pasted into the images, or None.
        share: of the first labels where there are second ones, 0..1.
        sentences: embedding of a sentence of each image's class, (N, D), or None.
        teacher_logits: of a frozen encoder for each image and each sentence, (N, N), or None.
    """

    images: Tensor
    labels: Tensor
    logit_scale: Tensor | float = 1.0
    texts: Tensor | None = None
    classes: Tensor | None = None
    logits: Tensor | None = None
    other_labels: Tensor | None = None
    share: float = 1.0
    sentences: Tensor | None = None
    teacher_logits: Tensor | None = None

    @property
    def batch(self) -> TrainingBatch:
        """What the losses on logits see of it."""
        return TrainingBatch(
            self.images, self.labels, other_labels=self.other_labels, share=self.share
        )

    def texts_of(self, labels: Tensor) -> Tensor:
        """Return the text of each label's class, (N, D).

        Raises:
            FitError: there are no texts.
        """
        texts = self._texts("the contrastive term")
        if self.classes is None:
            return texts[labels]
        return texts[torch.searchsorted(self.classes, labels)]

    def class_logits(self) -> Tensor:
        """Return the head's logits, else logit_scale * cos(image, class text), (N, C), in float32
        at least, whatever autocast says.

        Raises:
            FitError: neither a head nor texts of all classes.
        """
        if self.logits is not None:
            return self.logits.to(torch.promote_types(self.logits.dtype, torch.float32))
        texts = self._texts("a loss on logits")
        if self.classes is not None:
            raise FitError(
                "a loss on logits needs a head or the texts of all classes, not only of those that "
                "occur in the batch"
            )
        with torch.autocast(self.images.device.type, enabled=False):
            return self.logit_scale * unit_rows(self.images) @ unit_rows(texts).T

    def _texts(self, what: str) -> Tensor:
        if self.texts is None:
            raise FitError(f"{what} needs the texts of classes: tune an encoder with a text tower")
        return self.texts


@dataclass(frozen=True, kw_only=True)
class ClassTextContrast:
    """:func:`supervised_contrastive` of images and the texts of their classes."""

    def __call__(self, embedded: EmbeddedBatch, labels: Tensor) -> Tensor:
        """Return the value of a batch for labels (N,), a scalar."""
        texts = embedded.texts_of(labels)
        return supervised_contrastive(embedded.images, texts, labels, embedded.logit_scale)


@dataclass(frozen=True, kw_only=True)
class SentenceContrast:
    """:func:`supervised_contrastive` of images and one sentence of each one's class (VL-LTR).

    Args:
        smoothing, distillation: see there. The teacher is the encoder before the tuning.
        templates: whose sentences are drawn, besides the manifest's templates and descriptions:
            ``openai`` (the 80 of CLIP), ``openai-simple`` (7) or ``none``.

    Raises:
        FitError: a share that is not within 0..1.
    """

    smoothing: float = 0.1
    distillation: float = 0.5
    templates: str = "openai"

    def __post_init__(self) -> None:
        for name in ("smoothing", "distillation"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise FitError(f"the loss {SENTENCES!r}: {name}={value:g} must be within 0..1")

    def __call__(self, embedded: EmbeddedBatch, labels: Tensor) -> Tensor:
        """Return the value of a batch for labels (N,), a scalar."""
        taught = embedded.teacher_logits is not None or not self.distillation
        if embedded.sentences is None or not taught:
            raise FitError(f"the loss {SENTENCES!r} needs a sentence for each image, and a teacher")
        return supervised_contrastive(
            embedded.images,
            embedded.sentences,
            labels,
            embedded.logit_scale,
            smoothing=self.smoothing,
            distillation=self.distillation,
            teacher_logits=embedded.teacher_logits,
        )


CONTRASTS: dict[str, type[ClassTextContrast | SentenceContrast]] = {
    CONTRASTIVE: ClassTextContrast,
    SENTENCES: SentenceContrast,
}
"""Losses between the images of a batch and texts, by name."""


class TuningObjective(nn.Module):
    """sum over terms of weight * term, a scalar.

    A term of :data:`CONTRASTS` compares the images of the batch with texts; any other one is the
    mean over rows of that entry of ``LOSSES`` on the logits, weighted by class where the loss says
    so, as it is for heads on cached features. A term of a batch with two labels is its value for
    the first ones times their share, and for the second ones times the rest.

    Buffers of losses that change during the training (counts seen by seesaw) are part of its state.

    Args:
        terms: at least one. class_counts: training rows of each class as drawn, (C,).
        estimated: what losses may need, such as ``delta``, tensors (C,); see ``Loss.needs``.
        seed: of losses with noise, the same on every rank.

    Raises:
        FitError: no term, an unknown one, one that is there twice, a loss that lacks what it needs,
            or options that it does not have.
    """

    def __init__(
        self,
        terms: Sequence[ObjectiveTerm],
        class_counts: Tensor,
        *,
        estimated: Mapping[str, Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        names = [term.name for term in terms]
        if not names or len(set(names)) < len(names):
            raise FitError(f"terms must be at least one, each once, not {names}")
        self.weights = {term.name: float(term.weight) for term in terms}
        self.means = nn.ModuleDict(
            {
                term.name: WeightedMean(_loss(term, class_counts, estimated or {}))
                for term in terms
                if term.name not in CONTRASTS
            }
        )
        self.contrasts = {
            t.name: CONTRASTS[t.name](**t.options) for t in terms if t.name in CONTRASTS
        }
        self._seed, self._step = seed, 0

    @property
    def by_rows(self) -> bool:
        """Whether a batch's value is the mean of its rows' own values.

        Then micro-batches weighted by their share of the rows add up to it; if not, they need the
        embeddings of the whole batch. Losses with noise draw it for the logits they are given.
        """
        return not self.contrasts and all(
            loss.of_rows and loss.class_weights is None for loss in self._losses()
        )

    def observe(self, labels: Tensor) -> None:
        """Tell the losses the labels (N,) of a joined batch: once a step, before its value."""
        for loss in self._losses():
            loss.observe(labels)

    def begin_step(self, step: int) -> None:
        """Let losses with noise draw what belongs to a step, also after a resume."""
        self._step = step
        for number, loss in enumerate(self._losses()):
            seed = (self._seed + (step * 64 + number + 1) * 0x9E3779B97F4A7C15) % 2**63
            loss.generator = Generator(loss.prior.device).manual_seed(seed)

    def draw_again(self) -> None:
        """Let losses with noise draw the same once more for the same batch."""
        self.begin_step(self._step)

    def forward(self, embedded: EmbeddedBatch, progress: float = 0.0) -> Tensor:
        """Return the value of a batch; ``progress`` runs from 0 to 1 over the training.

        Raises:
            FitError: a term lacks texts or logits.
        """
        terms = self.terms(embedded, progress)
        return torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()

    def terms(self, embedded: EmbeddedBatch, progress: float = 0.0) -> dict[str, Tensor]:
        """Return the value of each term, a scalar, without its weight; outside of autocast."""
        with torch.autocast(embedded.images.device.type, enabled=False):
            return self._terms(embedded, progress)

    def _terms(self, embedded: EmbeddedBatch, progress: float) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        batch = embedded.batch
        for name, contrast in self.contrasts.items():
            parts = [p.fraction * contrast(embedded, p.batch.labels) for p in batch.by_label()]
            values[name] = torch.stack(parts).sum()
        if self.means:
            logits = embedded.class_logits()
            for name, mean in self.means.items():
                assert isinstance(mean, WeightedMean)
                values[name] = mean.mean_loss(logits, batch, progress)
        return values

    def _losses(self) -> list[Loss]:
        return [mean.loss for mean in self.means.values() if isinstance(mean, WeightedMean)]


def _loss(term: ObjectiveTerm, class_counts: Tensor, estimated: Mapping[str, Tensor]) -> Loss:
    kind: Any = LOSSES.get(term.name)
    if kind is None:
        raise FitError(f"no term {term.name!r}; there are {', '.join((*CONTRASTS, *LOSSES))}")
    if missing := [name for name in kind.needs if name not in estimated]:
        raise FitError(
            f"the loss {term.name!r} needs {', '.join(missing)}, which was not estimated"
        )
    given = {name: estimated[name] for name in kind.needs}
    try:
        loss: Loss = kind(class_counts, **given, **term.options)
    except TypeError as error:
        raise FitError(f"the loss {term.name!r}: {error}") from None
    return loss
