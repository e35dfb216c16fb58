"""One sentence of each image's class, drawn anew in every step, and what a frozen copy of the
encoder says of both (VL-LTR; Tian et al., ECCV 2022).

A sentence follows from the seed, the step and the image's place in the joined batch, so that it is
the same on all ranks, in both passes of a batch that is split, and after a resume.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ltcache.finetune.augmentation import counted_draws
from ltcache.finetune.classifier import ClassTexts
from ltcache.finetune.contrastive import unit_rows
from ltcache.records import one_line

_STREAM = 0x73656E74656E6365  # keeps these numbers apart from those of augmentations


@one_line
@dataclass(frozen=True, eq=False)
class FrozenTeacher:
    """A copy of the encoder as it was before the tuning.

    Attributes:
        tower: pixels uint8 (n, 3, H, W) -> field -> rows.
        texts: the sentences, by its text tower. logit_scale: its factor on cosines.
    """

    tower: Callable[[Tensor], Mapping[str, Tensor]]
    texts: ClassTexts
    logit_scale: float


@one_line
@dataclass(eq=False)
class DrawnSentences:
    """The sentences of a step.

    Attributes:
        texts: every sentence, by the text tower that is tuned. teacher: or None.
        seed: 0 .. 2**64 - 1. step: of the training, from 0.
    """

    texts: ClassTexts
    teacher: FrozenTeacher | None = None
    seed: int = 0
    step: int = 0

    def rows(self, labels: Tensor) -> Tensor:
        """Return the unit embedding of one sentence of each label's class, (N, D), of (N,) labels
        of the joined batch, on the CPU; with gradients where the tower trains."""
        return self.texts.drawn(labels, self._uniform(labels))

    def teacher_logits(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return what the teacher thinks of each image, its own embeddings (N, D), and each of the
        sentences of :meth:`rows`, (N, N).
        """
        assert self.teacher is not None
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            rows = self.teacher.texts.drawn(labels, self._uniform(labels))
            return self.teacher.logit_scale * unit_rows(images) @ rows.T

    def _uniform(self, labels: Tensor) -> Tensor:
        uniform = counted_draws(self.seed, _STREAM, 0, 0, self.step).random(len(labels))
        return torch.from_numpy(uniform)
