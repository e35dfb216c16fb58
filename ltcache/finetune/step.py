"""One module that holds all that trains and its loss, so that DistributedDataParallel can wrap it.

A batch that is too large for one pass is split into micro-batches, with the gradient of the whole:

- a loss that is a mean over rows adds up, weighted by rows;
- any other one, such as a contrastive loss, which compares all images of a batch, is trained in two
  passes (GradCache; Gao et al., RepL4NLP 2021): the first one embeds every micro-batch without a
  graph, and the gradient of the loss with respect to the embeddings is found; the second one embeds
  again, with a graph, and sends that gradient back through the tower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ltcache.finetune.classifier import ClassTexts
from ltcache.finetune.gather import gathered_rows, ranks
from ltcache.finetune.objective import EmbeddedBatch, TuningObjective
from ltcache.finetune.sentences import DrawnSentences
from ltcache.finetune.spec import CONTRASTIVE
from ltcache.heads import Head
from ltcache.images import Preprocessing
from ltcache.process import to_device
from ltcache.records import one_line

EMBEDDING = "embedding"
TEACHER = "teacher"
"""Name of the embeddings by a frozen copy, among the fields of a batch."""
Fields = dict[str, Tensor]


@one_line
@dataclass(frozen=True, eq=False)
class FirstPass:
    """What the first pass leaves for a micro-batch of the second.

    Attributes:
        gradients: field -> gradient of the loss with respect to this micro-batch's rows.
        fields, labels: of the joined batch; None but for the last micro-batch, which also brings
            the loss's own gradient to texts, head and scale.
    """

    gradients: Fields
    fields: Fields | None = None
    labels: Tensor | None = None


class FieldEmbedder:
    """Pixels to the fields of an image tower, with gradients where they are enabled.

    Args:
        model: an encoder's, adapters inserted. fields: images (N, 3, H, W) -> field -> rows.
        needed: which of the fields are used.
        preprocessing: of the encoder, for its mean and deviation.
        device: of the model. channels_last: the tower's memory format.
        precision: ``fp32``, ``bf16`` or ``fp16``: of the towers.
        compiled: let torch.compile make the forward.
    """

    def __init__(
        self,
        model: Any,
        fields: Callable[[Tensor], Fields],
        needed: Sequence[str],
        preprocessing: Preprocessing,
        *,
        device: torch.device,
        channels_last: bool = False,
        precision: str = "fp32",
        compiled: bool = False,
    ) -> None:
        self.model = model
        self.needed = tuple(needed)
        self.device = device
        self.precision = precision
        self._fields: Callable[[Tensor], Fields] = torch.compile(fields) if compiled else fields
        self._mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)
        self._white = torch.tensor(255.0, device=device)  # for a number a GPU takes 1 / 255
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, pixels: Tensor) -> Fields:
        """Return the needed fields, float32 (n, dim), of pixels uint8 (n, 3, H, W)."""
        images = pixels.to(torch.float32).div_(self._white).sub_(self._mean).div_(self._std)
        with self.autocast():
            found = self._fields(images.contiguous(memory_format=self._format))
        return {name: found[name].float() for name in self.needed}

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which towers compute."""
        if self.precision == "fp32":
            return nullcontext()
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        return torch.autocast(self.device.type, kind)


class TrainingStep(nn.Module):
    """Images and labels to a scalar whose gradient is that of the objective.

    Args:
        embed: the image tower; its model's parameters are this module's.
        objective: what is minimised.
        head: on ``field``, or None where images are compared with class texts.
        field: what the classifier works on.
        texts: class texts, or None where nothing needs them.
        sentences: of which each image gets one, or None.
    """

    def __init__(
        self,
        embed: FieldEmbedder,
        objective: TuningObjective,
        *,
        head: Head | None,
        field: str,
        texts: ClassTexts | None,
        sentences: DrawnSentences | None = None,
    ) -> None:
        super().__init__()
        self.model = embed.model
        self.head = head
        self.texts = texts
        self.objective = objective
        self.field = field
        self.embed = embed
        self.sentences = sentences

    def begin_step(self, step: int) -> None:
        """Let what is random draw what belongs to a step, also after a resume."""
        self.objective.begin_step(step)
        if self.sentences is not None:
            self.sentences.step = step

    def fields(self, pixels: Tensor) -> Fields:
        """Return what the image tower says of images (n, 3, H, W), and that of a teacher."""
        found = self.embed(pixels)
        if self.sentences is not None and self.sentences.teacher is not None:
            with torch.no_grad():
                found[TEACHER] = self.sentences.teacher.tower(pixels)[EMBEDDING]
        return found

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.embed.device

    @property
    def logit_scale(self) -> Tensor | None:
        """The factor on cosines with texts, not its logarithm; None without a text tower."""
        scale: Tensor | None = getattr(self.model, "logit_scale", None)
        return None if scale is None else scale.exp()

    def loss(self, fields: Fields, labels: Tensor, progress: float, share: float = 1.0) -> Tensor:
        """Return the objective of a (joined) batch's fields (N, dim), labels and share.

        Args:
            labels: on the CPU: which texts a batch needs is found there, without a wait for a GPU.
        """
        texts, classes, sentences, teacher_logits = None, None, None, None
        own, pasted = own_and_pasted(labels)
        scored = bool(self.objective.means) and self.head is None  # by the texts of all classes
        with self.embed.autocast():
            if self.texts is not None and (scored or CONTRASTIVE in self.objective.contrasts):
                classes = None if scored else torch.unique(labels)
                texts = self.texts(classes)
            if self.sentences is not None:
                sentences = self.sentences.rows(own)
        if self.sentences is not None and TEACHER in fields:
            teacher_logits = self.sentences.teacher_logits(fields[TEACHER], own)
        logits = None if self.head is None else self.head(fields[self.field])
        images = fields[EMBEDDING if EMBEDDING in fields else self.field]
        others, known = (
            None if numbers is None else to_device(numbers, self.device)
            for numbers in (pasted, classes)
        )
        scale = self.logit_scale
        embedded = EmbeddedBatch(
            images, to_device(own, self.device), 1.0 if scale is None else scale, texts, known,
            logits, other_labels=others, share=share, sentences=sentences,
            teacher_logits=teacher_logits,
        )  # fmt: skip
        return self.objective(embedded, progress)

    def forward(
        self,
        pixels: Tensor,
        labels: Tensor,
        progress: float,
        weight: float | None = None,
        cached: FirstPass | None = None,
        share: float = 1.0,
    ) -> Tensor:
        """Return the scalar to go back from.

        Args:
            pixels: uint8 (n, 3, H, W). progress: 0..1 of the training.
            labels, share: see :class:`ltcache.finetune.reader.ImageBatch`; labels on the CPU.
            weight: of a micro-batch of a loss over rows; None: this is all of the rank's share.
            cached: of a micro-batch's second pass.
        """
        fields = self.embed(pixels) if cached is not None else self.fields(pixels)
        if cached is not None:
            back = [(fields[name] * grad).sum() for name, grad in cached.gradients.items()]
            if cached.fields is not None and cached.labels is not None:
                back.append(self.loss(cached.fields, cached.labels, progress, share))
            return torch.stack(back).sum()
        if weight is not None:
            return weight * self.loss(fields, labels, progress, share)
        names = list(fields)
        *rows, labels = gathered_rows(*(fields[name] for name in names), labels)
        return self.loss(dict(zip(names, rows, strict=True)), labels, progress, share)


def own_and_pasted(labels: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return an image's own labels (N,) and those of what is pasted into it, or None, of (N,) or
    (N, 2)."""
    if labels.ndim == 1:
        return labels, None
    own, pasted = labels.T.contiguous()
    return own, pasted


Backward = Callable[[Tensor], None]
Seeded = Callable[[int], None]


def accumulate(
    step: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    *,
    share: float = 1.0,
    micro_batch: int,
    progress: float,
    backward: Backward,
    seeded: Seeded,
) -> Tensor:
    """Add the gradient of a batch to ``.grad`` of all that trains; return its loss, a scalar.

    Args:
        step: a :class:`TrainingStep`, or DistributedDataParallel around one.
        pixels, labels: of this rank's part of the batch, labels on the CPU.
        share: of the first labels, if pasted.
        micro_batch: largest number of images in one pass.
        backward: goes back from a scalar (and scales it, where gradients are).
        seeded: sets the random state of a micro-batch by its number, for layers that draw.
    """
    inner = step.module if isinstance(step, DistributedDataParallel) else step
    assert isinstance(inner, TrainingStep)
    micro = list(zip(pixels.split(micro_batch), labels.split(micro_batch), strict=True))
    (everything,) = gathered_rows(labels)
    inner.objective.observe(to_device(own_and_pasted(everything)[0], inner.device))
    if inner.objective.by_rows:
        return _by_rows(step, micro, progress, share, len(everything), backward, seeded)
    if _largest(len(micro), inner.device) == 1:
        seeded(0)
        loss = step(pixels, labels, progress, share=share)
        backward(loss)
        return loss.detach()
    return _in_two_passes(step, inner, micro, progress, share, backward, seeded)


def _by_rows(
    step: nn.Module,
    micro: list[tuple[Tensor, Tensor]],
    progress: float,
    share: float,
    rows: int,
    backward: Backward,
    seeded: Seeded,
) -> Tensor:
    total = torch.zeros((), device=micro[0][0].device)
    for number, (pixels, labels) in enumerate(micro):
        seeded(number)
        weight = ranks() * len(labels) / rows  # data parallelism takes the mean over ranks
        with _unsynchronised(step, number + 1 < len(micro)):
            loss = step(pixels, labels, progress, weight, share=share)
            backward(loss)
        total += loss.detach()
    return _mean_over_ranks(total)


def _in_two_passes(
    step: nn.Module,
    inner: TrainingStep,
    micro: list[tuple[Tensor, Tensor]],
    progress: float,
    share: float,
    backward: Backward,
    seeded: Seeded,
) -> Tensor:
    parts: list[Fields] = []
    with torch.no_grad():
        for number, (pixels, _) in enumerate(micro):
            seeded(number)
            parts.append(inner.fields(pixels))
    own = {name: torch.cat([part[name] for part in parts]).requires_grad_() for name in parts[0]}
    *rows, labels = gathered_rows(*own.values(), torch.cat([labels for _, labels in micro]))
    fields = dict(zip(own, rows, strict=True))
    loss = inner.loss(fields, labels, progress, share)
    found = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
    gradients = {
        name: grad.split([len(labels) for _, labels in micro])
        for name, grad in zip(own, found, strict=True)
        if grad is not None
    }
    joint = {name: value.detach() for name, value in fields.items()}
    inner.objective.draw_again()  # texts and head get the gradient of the noise that images had
    for number, (pixels, mine) in enumerate(micro):
        seeded(number)
        last = number + 1 == len(micro)
        part = {name: pieces[number] for name, pieces in gradients.items()}
        cached = FirstPass(part, joint, labels) if last else FirstPass(part)
        with _unsynchronised(step, not last):
            value = step(pixels, mine, progress, None, cached, share)
            if value.requires_grad:
                backward(value)
    return loss.detach()


def _unsynchronised(step: nn.Module, wanted: bool) -> AbstractContextManager[Any]:
    """Return the context in which data parallelism only accumulates."""
    if wanted and isinstance(step, DistributedDataParallel):
        context: AbstractContextManager[Any] = step.no_sync()
        return context
    return nullcontext()


def _largest(value: int, device: torch.device) -> int:
    """Return the largest value over all ranks."""
    if ranks() == 1:
        return value
    import torch.distributed as dist

    found = torch.tensor([value], device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def _mean_over_ranks(value: Tensor) -> Tensor:
    if ranks() == 1:
        return value
    import torch.distributed as dist

    dist.all_reduce(value)
    return value / ranks()


def trained_parameters(step: TrainingStep) -> Mapping[str, nn.Parameter]:
    """Return name -> parameter of all that trains; each once."""
    return {name: p for name, p in step.named_parameters() if p.requires_grad}
