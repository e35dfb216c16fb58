"""Many fits on the same rows: :func:`fit_many` trains together what can be trained together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Generator

from ltcache.errors import FitError
from ltcache.fit.extra import trained_labels
from ltcache.fit.head import (
    BY_A_SLICE,
    BY_NOTHING_ASKED,
    BY_NOTHING_THERE,
    BY_VAL,
    FitOptions,
    FittedHead,
    OneFit,
    choices_of,
    fit_head,
    with_history_of,
)
from ltcache.fit.rows import LabelledRows, hold_out, require_classes
from ltcache.fit.stages import StageTraining, epoch_to_repeat, ready
from ltcache.fit.task import StageInput, StageResult
from ltcache.fit.together import shared_architecture, train_together
from ltcache.fit.train import TrainingOutcome
from ltcache.heads import FeatureTransform, Head, HeadContext
from ltcache.methods import FeatureSpec, Method, Train
from ltcache.metrics import EpochRecord
from ltcache.process import keep_freed_memory

Choices = Sequence[dict[str, Any]] | None


@dataclass(frozen=True)
class FitJob:
    """One fit of many: a method, its settings already in it, and a seed."""

    method: Method
    seed: int = 0


def fit_many(
    jobs: Sequence[FitJob],
    rows: LabelledRows,
    context: HeadContext,
    *,
    val: LabelledRows | None = None,
    extra: LabelledRows | None = None,
    choose: bool = True,
    progress: Callable[[int, EpochRecord], None] | None = None,
    options: FitOptions | None = None,
) -> list[FittedHead]:
    """Fit many methods or settings on the same rows: what :func:`fit_head` returns for each job.

    Stages are run in step. Training stages of one architecture (head, schedule, batch; any seed,
    rate, decay and loss) become one batched problem where :func:`runs_at_once` says that it pays;
    equal stages, such as the first one of several methods, are run once. Results are those of
    :func:`fit_head` up to rounding.

    Args:
        progress: called with the number of the job and each epoch's record.
        options: its ``memo`` is filled with what the stages left, so that :func:`fit_head` and
            :func:`ltcache.fit.fit_adapter` with it need not train again; ``progress`` is not used.
        the rest: see :func:`fit_head`.

    Raises:
        FitError: of the first job that cannot be fitted; the others are in the memo by then.
    """
    keep_freed_memory()
    options = options or FitOptions()
    memo = {} if options.memo is None else options.memo
    each = [
        replace(options, memo=memo, progress=_of(progress, number)) for number in range(len(jobs))
    ]
    fits = [
        OneFit(job.method, context, job.seed, own, extra)
        for job, own in zip(jobs, each, strict=True)
    ]
    require_classes(torch.bincount(trained_labels(rows, extra)).cpu())
    found = _fit(fits, rows, val, choose)
    return [
        found[number] if number in found else fit_head(
            job.method, rows, context, val=val, extra=extra, choose=choose, seed=job.seed,
            options=each[number],
        )
        for number, job in enumerate(jobs)
    ]  # fmt: skip


def _of(
    progress: Callable[[int, EpochRecord], None] | None, number: int
) -> Callable[[EpochRecord], None] | None:
    return None if progress is None else lambda record: progress(number, record)


_LARGEST = 2**26  # multiplications of one product of one run
_COPIES = 6  # of a run's weights: its head's, stacked, the gradient, two moments, the best epoch's
_BUFFERS = 3  # of a run's rows and logits: with what a loss makes of them


def runs_at_once(runs: int, batch: int, dim: int, classes: int, device: torch.device) -> int:
    """Return how many runs are best trained as one problem; 1: one by one.

    Together pays while the fixed cost of a step counts beside its products. Measured with 32 runs
    (8 seeds x 4 settings) on 3,922 x 512, 56 classes, two threads: 4.1 times faster at batch 128
    (2**22 multiplications), 2.5 times at 512 (2**24), 2.3 times at 2,048 (2**26); larger products
    have not been measured, so they are left one by one. On an accelerator, where small products
    leave it idle, always together; on a GPU as many as half of its free memory holds.
    """
    if device.type == "cuda":
        each = 4 * (_COPIES * dim * classes + _BUFFERS * batch * (dim + classes))
        return max(1, min(runs, torch.cuda.mem_get_info(device)[0] // 2 // each))
    together = device.type != "cpu" or batch * dim * classes <= _LARGEST
    return runs if together else 1


def _fit(
    fits: Sequence[OneFit], rows: LabelledRows, val: LabelledRows | None, choose: bool
) -> dict[int, FittedHead]:
    """Return number of the job -> what :func:`fit_head` would, of all that could be fitted."""
    if val is not None or not choose:
        tuned_on = BY_VAL if val is not None else BY_NOTHING_ASKED
        states = [_JobState(number, fit, rows, val) for number, fit in enumerate(fits)]
        _run_in_step(states)
        return {state.number: state.fitted(tuned_on) for state in states if not state.failed}
    slices = {seed: hold_out(rows, seed) for seed in {fit.seed for fit in fits}}
    parts = {
        seed: (rows.take(part[0]), rows.take(part[1])) for seed, part in slices.items() if part
    }
    trials = {
        number: _JobState(number, fit, *parts[fit.seed])
        for number, fit in enumerate(fits)
        if fit.seed in parts
    }
    _run_in_step(list(trials.values()))
    finals = [
        _JobState(number, fit, rows, None, trials[number].choice() if number in trials else None)
        for number, fit in enumerate(fits)
        if number not in trials or not trials[number].failed
    ]
    _run_in_step(finals)
    found = {}
    for state in [final for final in finals if not final.failed]:
        if state.number in trials:
            state.results = with_history_of(trials[state.number].results, state.results)
        found[state.number] = state.fitted(
            BY_A_SLICE if state.number in trials else BY_NOTHING_THERE
        )
    return found


@dataclass(eq=False)
class _JobState:
    """How far the fit of a job has come."""

    number: int
    fit: OneFit
    rows: LabelledRows
    val: LabelledRows | None
    choices: Choices = None
    task: StageInput | None = None
    transform: FeatureTransform | None = None
    head: Head | None = None
    results: list[StageResult] = field(default_factory=list)
    failed: bool = False

    def choice(self) -> list[dict[str, Any]]:
        """Return what each stage chose."""
        assert self.val is not None
        return choices_of(self.results, self.val)

    def fitted(self, tuned_on: str) -> FittedHead:
        """Return what is left of the stages; its seconds are those of the stages alone."""
        assert self.transform is not None
        assert self.task is not None
        began = time.perf_counter()
        return self.fit.fitted(self.transform, self.task, self.results, tuned_on, began)

    def key(self, number: int) -> str:
        """Return what the memo knows a stage by."""
        assert self.task is not None
        return self.fit.key(number, self.task, self.choices)


def _run_in_step(states: Sequence[_JobState]) -> None:
    """Run stage after stage of all fits; one that fails goes no further."""
    _start(states)
    for number in range(max((len(state.fit.method.stages) for state in states), default=0)):
        active = [s for s in states if number < len(s.fit.method.stages) and not s.failed]
        _train(active, number)
        for state in active:
            if state.failed:
                continue
            assert state.task is not None
            try:
                result, state.task = state.fit.stage(number, state.task, state.head, state.choices)
            except FitError:
                state.failed = True  # fit_head says why
                continue
            state.head = result.head
            state.results.append(result)


def _start(states: Sequence[_JobState]) -> None:
    """Give every fit its task; fits of equal features share the transformed rows."""
    known: dict[tuple[FeatureSpec, int], tuple[FeatureTransform, StageInput]] = {}
    for state in states:
        fit, where = state.fit, (state.fit.method.feature, id(state.rows))
        try:
            if where not in known:
                known[where] = fit.start(state.rows, state.val)
        except FitError:
            state.failed = True
            continue
        generator = Generator().manual_seed(fit.seed)
        transform, task = known[where]
        state.transform = deepcopy(transform)
        state.task = replace(task, generator=generator, progress=fit.options.progress)


def _train(states: Sequence[_JobState], number: int) -> None:
    """Train the stages of one number that the memo does not have, together where that pays."""
    waiting: dict[str, tuple[_JobState, StageTraining]] = {}
    for state in states:
        stage, memo = state.fit.method.stages[number], state.fit.options.memo
        assert memo is not None and state.task is not None
        key = state.key(number)
        if not isinstance(stage, Train) or key in memo or key in waiting:
            continue
        try:
            waiting[key] = (state, ready(stage, state.task, state.head))
        except FitError:
            state.failed = True
    groups: dict[Any, list[tuple[_JobState, StageTraining]]] = {}
    for key, pair in waiting.items():
        groups.setdefault(shared_architecture(pair[1]) or key, []).append(pair)
    for group in groups.values():
        _train_group(group, number)


def _train_group(group: Sequence[tuple[_JobState, StageTraining]], number: int) -> None:
    """Train runs of one architecture by as many at once as pays; those that end early first."""
    first = group[0][1]
    batch = first.stage.optimisation.batch_for(len(first.task.rows))
    head = first.head
    share = runs_at_once(len(group), batch, head.dim, head.num_classes, first.task.device)
    ordered = sorted(group, key=lambda pair: _stop(pair[0], number) or 0)
    for start in range(0, len(ordered), share):
        part = ordered[start : start + share]
        begin = time.perf_counter()
        trained = _trained([pair[1] for pair in part], [_stop(pair[0], number) for pair in part])
        seconds = (time.perf_counter() - begin) / len(part)
        for (state, training), found in zip(part, trained, strict=True):
            if found is None:
                state.failed = True
                continue
            result = replace(training.result(found), seconds=seconds)
            state.fit.remember(state.key(number), result, training.task)


def _trained(
    trainings: Sequence[StageTraining], stops: Sequence[int | None]
) -> Sequence[TrainingOutcome | None]:
    """Train runs together, or the only one as ever."""
    if len(trainings) > 1:
        return train_together(trainings, stops)
    (one,), (stop,) = trainings, stops
    try:
        return [one.train(stop)]
    except FitError:
        return [None]


def _stop(state: _JobState, number: int) -> int | None:
    """Return the number of epochs that a choice repeats, or None."""
    stage = state.fit.method.stages[number]
    assert isinstance(stage, Train) and state.task is not None
    choice = None if state.choices is None else state.choices[number]
    return epoch_to_repeat(stage, choice, len(state.task.rows))
