"""Weights between those a tuning began with and those it ended with (WiSE-FT: Wortsman et al.,
Robust fine-tuning of zero-shot models, CVPR 2022)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ltcache.encoder import mix_weights
from ltcache.finetune.spec import AUTO, FineTuning
from ltcache.finetune.step import TrainingStep
from ltcache.metrics import validation_rank

SHARES = tuple(number / 10 for number in range(11))
DEFAULT = 0.5  # what the publication recommends where nothing can choose


@dataclass(frozen=True)
class AveragingChoice:
    """What was chosen.

    Attributes:
        share: of the tuned weights. tuned_on: in words, what chose it.
        scores: share -> scores of validation images, where they chose.
    """

    share: float
    tuned_on: str
    scores: dict[str, dict[str, float]]


def start_of(step: TrainingStep) -> dict[str, Tensor]:
    """Return a copy of all tensors of the model and the head, to go back towards."""
    return {name: value.detach().clone() for name, value in _state(step).items()}


def average_weights(
    step: TrainingStep,
    start: Mapping[str, Tensor],
    tuning: FineTuning,
    judge: Callable[[], Mapping[str, float]] | None,
) -> AveragingChoice:
    """Put (1 - share) start + share tuned in the place of the tuned weights, head and texts too.

    Args:
        start: of :func:`start_of`, before the training.
        judge: scores of validation images, or None; they choose where the share is ``auto``, by
            mean accuracy per class (ties: lower NLL, then the smaller share).
    """
    tuned = start_of(step)
    if tuning.average != AUTO or judge is None:
        share = DEFAULT if tuning.average in (AUTO, None) else float(tuning.average)
        _mix(step, start, tuned, share)
        asked = tuning.average != AUTO
        return AveragingChoice(
            share, "nothing, as asked" if asked else "nothing: there is no val", {}
        )
    scores: dict[str, dict[str, float]] = {}
    for share in SHARES:
        _mix(step, start, tuned, share)
        scores[f"{share:g}"] = dict(judge())
    best = max(SHARES, key=lambda share: validation_rank(scores[f"{share:g}"]))
    _mix(step, start, tuned, best)
    return AveragingChoice(best, "val", scores)


@torch.no_grad()
def _mix(
    step: TrainingStep, start: Mapping[str, Tensor], tuned: Mapping[str, Tensor], share: float
) -> None:
    for name, value in _state(step).items():
        value.copy_(tuned[name])
    before = {n.removeprefix("model."): v for n, v in start.items() if n.startswith("model.")}
    mix_weights(step.model, before, share)
    for name, value in _state(step).items():
        if name.startswith("head.") and value.is_floating_point():
            value.copy_(torch.lerp(start[name], tuned[name], share))


def _state(step: TrainingStep) -> dict[str, Tensor]:
    state = {f"model.{name}": value for name, value in step.model.state_dict().items()}
    if step.head is not None:
        state |= {f"head.{name}": value for name, value in step.head.state_dict().items()}
    return state
