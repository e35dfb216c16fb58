"""How each kind of stage is run: (stage, task, head before it, choice to repeat) -> result."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ltcache.adjustments import ADJUSTMENTS, WEIGHT_TRANSFORMS
from ltcache.errors import FitError
from ltcache.fit.convex import solve
from ltcache.fit.rows import LabelledRows
from ltcache.fit.soup import train_soup
from ltcache.fit.statistics import STATISTICS
from ltcache.fit.task import StageInput, StageResult
from ltcache.fit.train import TrainingOutcome, choose_by, train_head
from ltcache.heads import HEADS, Head, keyword_arguments, uses_texts
from ltcache.losses import LOSSES, Loss
from ltcache.methods import (
    Adjust,
    Estimate,
    MethodStage,
    Solve,
    Train,
    Transform,
    counts_as_drawn,
    residual_prior,
)
from ltcache.metrics import is_better
from ltcache.objectives import OBJECTIVES, Objective, TrainingBatch, TrainingStart
from ltcache.records import one_line

Choice = Mapping[str, Any] | None
_NONE = torch.zeros(0, dtype=torch.int64)
TEXT_SPACE = ("none", "l2")  # feature transforms that leave class texts comparable


def run_stage(
    stage: MethodStage, task: StageInput, previous: Head | None, choice: Choice
) -> StageResult:
    """Run one stage.

    Args:
        previous: the head that the stages before made, or None.
        choice: what an earlier run of the stage chose on validation rows, to repeat it.

    Raises:
        FitError: settings or data that cannot be fitted.
    """
    return RUNNERS[type(stage)](stage, task, previous, choice)


@one_line
@dataclass(frozen=True, eq=False)
class StageTraining:
    """A :class:`ltcache.methods.Train` stage that is ready to be run.

    Attributes:
        head, objective: on the device of the task's rows. init: the initialisation that was taken.
    """

    stage: Train
    task: StageInput
    head: Head
    objective: Objective
    init: str

    def train(self, stop_after: int | None) -> TrainingOutcome:
        """Train the head in place; see :func:`ltcache.fit.train.train_head`."""
        if self.stage.soup > 0:
            return train_soup(self.head, self.stage, self.task, _trained_from)
        if self.stage.optimisation.optimiser == "lbfgs":
            return solve(self.head, self.objective, self.stage, self.task)
        return train_head(self.head, self.objective, self.stage, self.task, stop_after)

    def result(self, trained: TrainingOutcome) -> StageResult:
        """Return what the stage leaves once its head is trained."""
        residual = residual_prior(self.stage, self.objective.loss)
        choice = {"epoch": trained.best_epoch}
        how, rows = self.stage.optimisation, len(self.task.rows)
        steps = trained.best_epoch * (1 if how.optimiser == "lbfgs" else how.steps_per_epoch(rows))
        steps = steps if trained.steps is None else trained.steps
        return StageResult(self.head, residual, choice, self.init, trained.history, steps=steps)


def ready(stage: Train, task: StageInput, previous: Head | None) -> StageTraining:
    """Return a stage's head, initialised, and its objective; draws what initialising draws."""
    head, init = _head_to_train(stage, task, previous)
    loss = _loss(stage, task)
    _require_one_scale(stage, head, loss)
    loss.generator = torch.Generator(task.device).manual_seed(task.stream(2).initial_seed())
    objective = OBJECTIVES[stage.objective](loss, **stage.objective_options)
    if objective.keeps_state:
        objective.begin(_start(task, head, previous))
    return StageTraining(stage, task, head, objective.to(task.device).train(), init)


def _start(task: StageInput, head: Head, previous: Head | None) -> TrainingStart:
    """Return what an objective may prepare itself from."""

    def batch(rows: LabelledRows) -> TrainingBatch:
        everything = torch.arange(len(rows), device=rows.labels.device)
        return TrainingBatch(rows.features, rows.labels, rows.weights, rows=everything)

    val = None if task.val is None else batch(task.val)
    return TrainingStart(head, previous, batch(task.rows), val, task.stream(3))


def _trained_from(stage: Train, task: StageInput, start: Head) -> tuple[Head, TrainingOutcome]:
    training = ready(stage, task, start)
    return training.head, training.train(None)


def run_train(stage: Train, task: StageInput, previous: Head | None, choice: Choice) -> StageResult:
    """Run a :class:`ltcache.methods.Train` stage."""
    training = ready(stage, task, previous)
    return training.result(training.train(epoch_to_repeat(stage, choice, len(task.rows))))


def epoch_to_repeat(stage: Train, choice: Choice, rows: int) -> int | None:
    """Return the epoch at which a repetition ends: at the share of its own schedule at which the
    chosen epoch was in the schedule that chose it, which had fewer rows. None: at the last."""
    if choice is None:
        return None
    total = stage.optimisation.epochs_for(rows)
    return max(1, round(choice["epoch"] * total / choice.get("epochs", total)))


def _head_to_train(stage: Train, task: StageInput, previous: Head | None) -> tuple[Head, str]:
    """Return the head a stage begins with, and how it was initialised."""
    fresh = HEADS[stage.head](task.context, **stage.head_options).to(task.device)
    if stage.init != "previous":
        return fresh, initialise(fresh, stage.init, task)
    if previous is None:
        raise FitError("init=previous needs a stage before it")
    if fresh.adopts_a_part:
        initialise(fresh, "random", task)
    fresh.adopt(previous)
    return fresh, "previous"


def _loss(stage: Train, task: StageInput) -> Loss:
    counts = counts_as_drawn(stage, task.context.class_counts, task.allow_double_correction)
    kind: Any = LOSSES[stage.loss]
    missing = [name for name in kind.needs if name not in task.statistics]
    if missing:
        raise FitError(
            f"the loss {stage.loss!r} needs {', '.join(missing)}: no stage before it estimates that"
        )
    estimated = {name: task.statistics[name] for name in kind.needs}
    loss: Loss = kind(counts, **estimated, **stage.loss_options)
    return loss


def _require_one_scale(stage: Train, head: Head, loss: Loss) -> None:
    """A margin stated on cosines means another thing where the head scales otherwise."""
    margin, scale = getattr(loss, "scale", None), getattr(head, "scale", None)
    if head.unit_rows and None not in (margin, scale) and margin != scale:
        raise FitError(
            f"the margin of {stage.loss!r} is for scale {margin:g}, the head has {scale:g}: "
            "set loss.scale and head.scale to one value"
        )


def run_solve(stage: Solve, task: StageInput, previous: Head | None, choice: Choice) -> StageResult:
    """Run a :class:`ltcache.methods.Solve` stage."""
    rows = task.rows
    _require_text_space(HEADS[stage.head], stage.head, task)

    def make(options: Mapping[str, Any]) -> Head:
        head = HEADS[stage.head](task.context, **{**stage.head_options, **options})
        head = head.to(task.device)
        head.fit(rows.features, rows.labels, rows.weights, task.context)
        return head

    head, chosen = best_of(make, stage.choose, HEADS[stage.head].at_prediction, task, choice)
    return StageResult(head, head.residual, chosen)


def run_transform(
    stage: Transform, task: StageInput, previous: Head | None, choice: Choice
) -> StageResult:
    """Run a :class:`ltcache.methods.Transform` stage."""
    base = _required(previous, f"transform {stage.transform}")

    def make(options: Mapping[str, Any]) -> Head:
        settings = {**stage.options, **options}
        return WEIGHT_TRANSFORMS[stage.transform](base, task.context, **settings)

    head, chosen = best_of(make, stage.choose, (), task, choice)
    return StageResult(head, None, chosen)


def run_adjust(
    stage: Adjust, task: StageInput, previous: Head | None, choice: Choice
) -> StageResult:
    """Run a :class:`ltcache.methods.Adjust` stage."""
    base = _required(previous, f"adjustment {stage.adjustment}")
    kind: Any = ADJUSTMENTS[stage.adjustment]
    _require_text_space(kind, stage.adjustment, task)
    fixed = dict(stage.options)
    if "residual" in keyword_arguments(kind):
        fixed["residual"] = _what_is_left(stage, task)
    rows = task.rows

    def make(options: Mapping[str, Any]) -> Head:
        head = kind(base, task.context, **{**fixed, **options}).to(task.device)
        head.fit(rows.features, rows.labels, rows.weights, task.context)
        return head

    head, chosen = best_of(make, stage.choose, kind.at_prediction, task, choice)
    left = head.residual_after(task.residual)  # type: ignore[operator]
    kept = {"residual": fixed["residual"]} if "residual" in fixed else {}
    return StageResult(head, left, {**kept, **chosen})


def _what_is_left(stage: Adjust, task: StageInput) -> float:
    """Return the prior exponent to correct, refusing to correct a balanced head again."""
    if task.residual == 0:
        text = f"{stage.adjustment} would correct the prior of a head that is balanced already"
        if not task.allow_double_correction:
            raise FitError(f"{text}; leave it out, or allow it with --allow-double-correction")
        warnings.warn(text, stacklevel=2)
        return 1.0
    if task.residual is None:
        warnings.warn(
            f"{stage.adjustment}: how much of the prior the logits still carry cannot be stated; "
            "all of it is assumed",
            stacklevel=2,
        )
        return 1.0
    return task.residual


def run_estimate(
    stage: Estimate, task: StageInput, previous: Head | None, choice: Choice
) -> StageResult:
    """Run a :class:`ltcache.methods.Estimate` stage."""
    found = STATISTICS[stage.statistic](task, **stage.options)
    return StageResult(previous, task.residual, statistics=found)


RUNNERS: dict[type[MethodStage], Callable[..., StageResult]] = {
    Train: run_train,
    Solve: run_solve,
    Transform: run_transform,
    Adjust: run_adjust,
    Estimate: run_estimate,
}


def best_of(
    make: Callable[[Mapping[str, Any]], Head],
    grid: Mapping[str, Sequence[Any]],
    at_prediction: Sequence[str],
    task: StageInput,
    choice: Choice,
) -> tuple[Head, dict[str, Any]]:
    """Return the head of the best combination of a grid on validation rows, and the combination.

    Where there are neither validation rows nor a choice to repeat, the defaults are taken.

    Args:
        make: options -> head. at_prediction: options that may be set on a head once made.
        choice: the combination to repeat, with no choosing.
    """
    if choice is not None or not grid or task.val is None:
        chosen = {name: choice[name] for name in grid if name in choice} if choice else {}
        return make(chosen), chosen
    late = {name: values for name, values in grid.items() if name in at_prediction}
    early = {name: values for name, values in grid.items() if name not in at_prediction}
    best: dict[str, float] | None = None
    for first in combinations(early):
        head = make(first)
        for second in combinations(late):
            for name, value in second.items():
                setattr(head, name, value)
            found = choose_by(head, task.val)
            if is_better(found, best):
                best, chosen = found, {**first, **second}
    return make(chosen), chosen


def combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every combination of a grid's values, the last name changing fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def initialise(head: Head, how: str, task: StageInput) -> str:
    """Initialise a head by the first of several ways (``text|class_mean``) that the data allow.

    Returns:
        The way that was taken.
    """
    ways = how.split("|")
    for way in ways:
        try:
            if way == "text" and task.transform not in TEXT_SPACE:
                raise FitError(
                    f"class texts do not live among features that were transformed by "
                    f"{task.transform!r}; take feature.transform=l2 or none, or another init"
                )
            rows = task.rows if head.reads_rows(way) else task.rows.take(_NONE)
            head.initialise(way, rows.features, rows.labels, task.generator, task.context)
            return way
        except FitError:
            if way == ways[-1]:
                raise
    raise FitError("no initialisation was named")


def _require_text_space(kind: type[Head], name: str, task: StageInput) -> None:
    """Refuse class texts beside features that were moved out of their space."""
    if kind.keeps and uses_texts(kind) and task.transform not in TEXT_SPACE:
        raise FitError(
            f"{name} compares features with class texts, and {task.transform!r} moves features "
            "out of their space: take feature.transform=l2 or none"
        )


def _required(previous: Head | None, who: str) -> Head:
    if previous is None:
        raise FitError(f"{who} needs a stage before it that makes a head")
    return previous
