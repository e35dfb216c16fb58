"""What the trainings of several runs have in common: which of them are one call."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from ltcache.fit.stages import StageTraining
from ltcache.fit.steps import ClosedFormStep, FusionChain
from ltcache.losses import Loss, OffsetCrossEntropy
from ltcache.objectives import TrainingBatch


def has_closed_form(training: StageTraining) -> bool:
    """Whether a run's step needs no autograd."""
    rows = training.task.rows
    few = TrainingBatch(rows.row_features.part(0, 2), rows.labels[:2])
    none = FusionChain((), training.task.stream(1))
    closed = training.task.closed_form
    return closed and ClosedFormStep.serves(training.head, training.objective, few, none)


def drawn_by(training: StageTraining) -> str:
    """Return what decides which rows a run draws; runs of one seed often draw the same."""
    state = training.task.generator.get_state().numpy().tobytes()
    return f"{training.stage.sampler} {hashlib.blake2b(state, digest_size=16).hexdigest()}"


def adds_offset(loss: Loss) -> bool:
    kind: Any = type(loss)
    known = issubclass(kind, OffsetCrossEntropy)
    return known and kind.gradient is OffsetCrossEntropy.gradient and not has_state(loss)


def has_state(loss: Loss) -> bool:
    return type(loss).observe is not Loss.observe


def is_weighted(training: StageTraining) -> bool:
    return training.objective.loss.class_weights is not None


@torch.no_grad()
def is_noisy(loss: Any) -> bool:
    """Whether a loss draws from its generator, which is left as it was."""
    state = loss.generator.get_state()
    logits = loss.prior.new_zeros(1, len(loss.prior), dtype=torch.float32)
    loss.gradient(logits, torch.zeros(1, dtype=torch.int64, device=logits.device), logits[:, 0] + 1)
    noisy = not torch.equal(state, loss.generator.get_state())
    loss.generator.set_state(state)
    return noisy


def fingerprint_of(loss: Loss, options: Any) -> str:
    return f"{type(loss).__module__}.{type(loss).__qualname__} {sorted(options.items())} " + _bytes(
        dict(loss.named_buffers())
    )


def _bytes(tensors: dict[str, Tensor]) -> str:
    """Return a hash of named tensors."""
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors.items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
