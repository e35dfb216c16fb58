"""A method on tensors: no paths, no caches. This is what every outer function ends in."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator

from ltcache.errors import FitError
from ltcache.fit.rows import SHARE, Rows, hold_out
from ltcache.fit.train import Progress, Trained, train
from ltcache.heads import HEADS, FeatureTransform, Head, HeadContext
from ltcache.losses import LOSSES
from ltcache.methods import Method, Stage, Train, counts_as_drawn, residual_prior
from ltcache.objectives import OBJECTIVES
from ltcache.sampling import SAMPLERS


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained head with what it needs to be used and to be judged.

    Attributes:
        head, transform: on the CPU, in evaluation mode.
        history: one record per epoch. best_epochs: the epoch kept of each stage, from 1.
        tuned_on: in words, what chose the epoch.
        init: the initialisation of each stage as it was taken.
        residual_prior: exponent a of the class prior n**a that the logits still carry.
        seconds: wall time.
    """

    head: Head
    transform: FeatureTransform
    history: list[dict[str, Any]]
    best_epochs: tuple[int, ...]
    tuned_on: str
    init: tuple[str, ...]
    residual_prior: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Task:
    """What every stage of one fit shares: transformed rows, the context, randomness, options."""

    rows: Rows
    val: Rows | None
    context: HeadContext
    transform: str
    generator: Generator
    stop_after: int | None
    progress: Progress | None
    closed_form: bool
    allow_double_correction: bool


def fit_head(
    method: Method,
    rows: Rows,
    context: HeadContext,
    *,
    val: Rows | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
    closed_form: bool = True,
    allow_double_correction: bool = False,
) -> Fitted:
    """Fit a method.

    With the same seed, data, thread count and library versions the parameters have the same bytes
    on a CPU.

    Args:
        rows: training rows; their transform is fitted here.
        context: what heads are built from; its class counts make priors.
        val: rows to choose the epoch on. None: a stratified tenth of the training rows chooses it,
            then all rows are fitted for so many epochs of the same schedule.
        seed: of initialisation, sampling and the held-out tenth.
        progress: called with each epoch's record.
        closed_form: False forces autograd.
        allow_double_correction: let a loss correct a prior that its sampler has balanced.

    Raises:
        FitError: data or settings that cannot be fitted.
    """
    if not len(rows):
        raise FitError("there are no labelled training rows")
    begin = time.perf_counter()
    target = torch.device(device)

    def run(part: Rows, choose: Rows | None, stops: Sequence[int | None]) -> tuple[Any, ...]:
        return _run_stages(
            method, part, choose, context, seed, target, stops, progress, closed_form,
            allow_double_correction,
        )  # fmt: skip

    any_length: list[int | None] = [None] * len(method.stages)
    tuned_on = "val"
    if val is not None:
        head, transform, trained, inits = run(rows, val, any_length)
        stops = tuple(t.best_epoch for t in trained)
    elif (slices := hold_out(rows, seed)) is not None:
        _, _, trained, _ = run(rows.take(slices[0]), rows.take(slices[1]), any_length)
        stops = tuple(t.best_epoch for t in trained)
        head, transform, _, inits = run(rows, None, stops)
        tuned_on = f"a stratified {SHARE:.0%} of train, then all of train for as many epochs"
    else:
        head, transform, trained, inits = run(rows, None, any_length)
        stops = tuple(t.best_epoch for t in trained)
        tuned_on = "nothing: no class has rows to spare; the last epoch was kept"
    history = [
        {"stage": number, **record} for number, t in enumerate(trained) for record in t.history
    ]
    return Fitted(
        head=head.cpu().eval(),
        transform=transform.cpu().eval(),
        history=history,
        best_epochs=stops,
        tuned_on=tuned_on,
        init=inits,
        residual_prior=residual_prior(method.stages[-1], context.class_counts),
        seconds=time.perf_counter() - begin,
    )


def _run_stages(
    method: Method,
    rows: Rows,
    val: Rows | None,
    context: HeadContext,
    seed: int,
    device: torch.device,
    stops: Sequence[int | None],
    progress: Progress | None,
    closed_form: bool,
    allow_double_correction: bool,
) -> tuple[Head, FeatureTransform, list[Trained], tuple[str, ...]]:
    """Run the stages of a method one after another on one device."""
    rows, val = rows.to(device), None if val is None else val.to(device)
    transform = FeatureTransform(method.feature.transform, context.dim).to(device)
    transform.fit(rows.features)
    rows = replace(rows, features=transform(rows.features))
    val = None if val is None else replace(val, features=transform(val.features))
    task = Task(
        rows, val, context, transform.kind, Generator().manual_seed(seed), None, progress,
        closed_form, allow_double_correction,
    )  # fmt: skip
    head: Head | None = None
    trained: list[Trained] = []
    inits: list[str] = []
    for stage, stop in zip(method.stages, stops, strict=True):
        head, result, init = RUNNERS[type(stage)](stage, replace(task, stop_after=stop), head)
        trained.append(result)
        inits.append(init)
    if head is None:
        raise FitError(f"method {method.name} has no stage that makes a head")
    return head, transform, trained, tuple(inits)


def run_train(stage: Train, task: Task, previous: Head | None) -> tuple[Head, Trained, str]:
    """Run a :class:`ltcache.methods.Train` stage."""
    device = task.rows.features.device
    counts = counts_as_drawn(stage, task.context.class_counts, task.allow_double_correction)
    if stage.init == "previous":
        if previous is None:
            raise FitError("init=previous needs a stage before it")
        head, init = previous, "previous"
    else:
        head = HEADS[stage.head](task.context, **stage.head_options).to(device)
        init = initialise(head, stage.init, task)
    loss = LOSSES[stage.loss](counts, **stage.loss_options)
    objective = OBJECTIVES[stage.objective](loss, **stage.objective_options).to(device)
    result = train(
        head,
        objective,
        SAMPLERS[stage.sampler],
        stage.optimisation,
        task.rows,
        val=task.val,
        generator=task.generator,
        stop_after=task.stop_after,
        progress=task.progress,
        closed_form=task.closed_form,
    )
    return head, result, init


RUNNERS: Mapping[type[Stage], Callable[..., tuple[Head, Trained, str]]] = {Train: run_train}


def initialise(head: Head, how: str, task: Task) -> str:
    """Initialise a head by the first of several ways (``text|class_mean``) that the data allow.

    Returns:
        The way that was taken.
    """
    ways = how.split("|")
    for way in ways:
        try:
            if way == "text" and task.transform not in ("none", "l2"):
                raise FitError(
                    f"class texts do not live among features that were transformed by "
                    f"{task.transform!r}; take feature.transform=l2 or none, or another init"
                )
            head.initialise(way, task.rows.features, task.rows.labels, task.generator, task.context)
            return way
        except FitError:
            if way == ways[-1]:
                raise
    raise FitError("no initialisation was named")
