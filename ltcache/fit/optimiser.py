"""How parameters move: torch's optimisers, and their fused kernels alone for the steps of heads.

A step of a small head takes a tenth of a millisecond; what :class:`torch.optim.Optimizer` does
around its kernel takes several times as long, and making one imports torch's compiler, which takes
seconds. :class:`FusedSteps` calls the same kernel, so that parameters are equal to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol, TypedDict

import torch
from torch import Tensor

from ltcache.errors import FitError
from ltcache.heads import Head
from ltcache.methods import Optimisation, Train
from ltcache.objectives import Objective
from ltcache.records import one_line

_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8


class ParameterGroup(TypedDict, total=False):
    """Parameters that move alike: ``factor`` is on the learning rate, ``lr`` with it in it."""

    params: list[Tensor]
    weight_decay: float
    factor: float
    lr: float


class StepsOfParameters(Protocol):
    """What a training asks of its optimiser."""

    @property
    def param_groups(self) -> Any:
        """Groups of parameters, each a :class:`ParameterGroup`."""

    def step(self) -> Any:
        """Move all parameters that have a gradient."""

    def zero_grad(self) -> None:
        """Forget all gradients."""


def head_optimiser(head: Head, objective: Objective, stage: Train) -> StepsOfParameters:
    """Return the optimiser over the head's parameters and those of an objective; only matrices
    decay.

    A parameter whose factor is 0 is frozen here; other factors scale the learning rate.
    """
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, how in parameters_to_train(head, stage).items():
        groups.setdefault(how, []).append(head.get_parameter(name))
    for name, parameter in objective.named_parameters():
        groups.setdefault(_how(f"objective.{name}", parameter, stage), []).append(parameter)
    settings: list[ParameterGroup] = [
        {"params": parameters, "weight_decay": decay, "factor": factor}
        for (factor, decay), parameters in groups.items()
    ]
    return steps_of(settings, stage.optimisation)


def parameters_to_train(head: Head, stage: Train) -> dict[str, tuple[float, float]]:
    """Return each parameter that moves -> the factor on its learning rate, its decay.

    Raises:
        FitError: there is none.
    """
    found: dict[str, tuple[float, float]] = {}
    for name, parameter in head.named_parameters():
        factor, decay = _how(name, parameter, stage)
        parameter.requires_grad_(parameter.requires_grad and factor > 0)
        if parameter.requires_grad:
            found[name] = (factor, decay)
    if not found:
        raise FitError("every parameter of the head is frozen: there is nothing to train")
    return found


def _how(name: str, parameter: Tensor, stage: Train) -> tuple[float, float]:
    """Return the factor on the learning rate of a parameter, and its decay."""
    factor = next((f for start, f in stage.lr_factors.items() if name.startswith(start)), 1.0)
    return factor, stage.optimisation.weight_decay if parameter.ndim > 1 else 0.0


def steps_of(settings: list[ParameterGroup], optimisation: Optimisation) -> StepsOfParameters:
    """Return the optimiser of groups of parameters, with nothing around torch's kernels."""
    device = settings[0]["params"][0].device.type
    if not _has_kernels(device):
        return optimiser_of(settings, optimisation)
    return FusedSteps(settings, optimisation)


def optimiser_of(
    settings: Sequence[ParameterGroup], optimisation: Optimisation
) -> torch.optim.Optimizer:
    """Return the optimiser of groups of parameters, whose state can be saved."""
    options: dict[str, Any] = {"lr": optimisation.lr}
    kind: Any = torch.optim.AdamW
    if optimisation.optimiser == "sgd":
        kind = torch.optim.SGD
        options |= {"momentum": optimisation.momentum, "nesterov": optimisation.momentum > 0}
    try:
        optimiser: torch.optim.Optimizer = kind(settings, fused=True, **options)
    except RuntimeError:  # torch before 2.4 has no fused step on a CPU
        optimiser = kind(settings, **options)
    return optimiser


def set_lr(optimiser: StepsOfParameters, lr: float) -> None:
    """Set the learning rate of every group, times its factor."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["factor"]


@one_line
@dataclass(eq=False)
class _ParameterMoments:
    """What AdamW (both) or momentum (the first) keeps of a parameter, and its steps so far."""

    first: Tensor
    second: Tensor
    steps: Tensor
    fresh: bool = True


@one_line
@dataclass(eq=False)
class FusedSteps:
    """AdamW or SGD on groups of parameters by torch's fused kernels; a :class:`StepsOfParameters`.

    Args:
        param_groups: each with ``params`` (leaves), ``weight_decay`` and ``factor``.
        optimisation: which, and with what momentum.
    """

    param_groups: list[ParameterGroup]
    optimisation: Optimisation
    _kept: dict[Tensor, _ParameterMoments] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for group in self.param_groups:
            group["lr"] = self.optimisation.lr
            for parameter in group["params"]:
                zeros = torch.zeros_like(parameter, requires_grad=False)
                steps = torch.zeros((), device=parameter.device)
                self._kept[parameter] = _ParameterMoments(zeros, zeros.clone(), steps)
        self._move = _sgd if self.optimisation.optimiser == "sgd" else _adamw

    @torch.no_grad()
    def step(self) -> None:
        """Move all parameters that have a gradient."""
        for group in self.param_groups:
            reached = [(p, p.grad) for p in group["params"] if p.grad is not None]
            if reached:
                moving, gradients = [p for p, _ in reached], [grad for _, grad in reached]
                kept = [self._kept[p] for p in moving]
                self._move(moving, gradients, kept, group, self.optimisation)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


def _adamw(
    moving: list[Tensor],
    gradients: list[Tensor],
    kept: Sequence[_ParameterMoments],
    group: ParameterGroup,
    optimisation: Optimisation,
) -> None:
    steps = [moments.steps for moments in kept]
    torch._foreach_add_(steps, 1)
    torch._fused_adamw_(
        moving, gradients, [m.first for m in kept], [m.second for m in kept], [],
        steps, lr=group["lr"], beta1=_BETA1, beta2=_BETA2, weight_decay=group["weight_decay"],
        eps=_EPS, amsgrad=False, maximize=False,
    )  # fmt: skip


def _sgd(
    moving: list[Tensor],
    gradients: list[Tensor],
    kept: Sequence[_ParameterMoments],
    group: ParameterGroup,
    optimisation: Optimisation,
) -> None:
    momentum = optimisation.momentum
    for first in (True, False):  # a first step fills the momentum
        some = [k for k, moments in enumerate(kept) if moments.fresh is first]
        if not some:
            continue
        torch._fused_sgd_(
            [moving[k] for k in some], [gradients[k] for k in some],
            [kept[k].first for k in some] if momentum else [], lr=group["lr"],
            weight_decay=group["weight_decay"], momentum=momentum, dampening=0.0,
            nesterov=momentum > 0, maximize=False, is_first_step=first,
        )  # fmt: skip
    for moments in kept:
        moments.fresh = False


@cache
def _has_kernels(device: str) -> bool:
    """Whether this torch has both kernels for a kind of device, tried on one number."""
    parameter = torch.zeros(1, device=device)
    try:
        for kind in ("adamw", "sgd"):
            parameter.grad = torch.ones_like(parameter)
            FusedSteps(
                [{"params": [parameter], "weight_decay": 0.0}], Optimisation(optimiser=kind)
            ).step()
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):  # an older one
        return False
    return True
