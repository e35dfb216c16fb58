"""A method on tensors: no paths, no caches. This is what every outer function ends in."""

from __future__ import annotations

import time
from collections.abc import MutableMapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from ltcache.errors import FitError
from ltcache.fit.extra import trained_labels, with_extra_rows
from ltcache.fit.rows import SHARE, LabelledRows, hold_out, require_classes
from ltcache.fit.stages import run_stage
from ltcache.fit.task import Progress, StageInput, StageResult
from ltcache.fit.unfitted import TrainingFit, training_fit
from ltcache.heads import FeatureTransform, Head, HeadContext
from ltcache.methods import Method
from ltcache.metrics import EpochRecord, last_alike
from ltcache.process import keep_freed_memory
from ltcache.records import digest, one_line

Memo = MutableMapping[str, tuple[StageResult, Tensor]]
"""What stages have left before, by all that determines them: methods share their first stages."""


@one_line
@dataclass(frozen=True)
class FitOptions:
    """How fits are carried out, whatever the method, the rows and the seed.

    Args:
        device: ``cpu``, ``cuda`` or another name that torch knows.
        progress: called with each epoch's record.
        closed_form: False forces autograd.
        allow_double_correction: let a stage correct a prior that is balanced already.
        memo: what earlier fits of the same rows, context and options left; stages that are the
            same are taken from it, with equal results.
    """

    device: str | torch.device = "cpu"
    progress: Progress | None = None
    closed_form: bool = True
    allow_double_correction: bool = False
    memo: Memo | None = None


@one_line
@dataclass(frozen=True, eq=False)
class FittedHead:
    """A trained head with what it needs to be used and to be judged.

    Attributes:
        head, transform: on the CPU, in evaluation mode.
        history: one record per epoch.
        choices: what was chosen in each stage: ``epoch`` (from 1), or hyper-parameters.
        tuned_on: in words, what chose them.
        init: the initialisation of each stage as it was taken.
        residual_prior: exponent a of the class prior n**a that the logits still carry; None: it
            cannot be stated.
        seconds: wall time, with that of stages that were taken from a memo when they were run.
        training: how well the head that was trained last knows its own training rows; None: none
            was trained.
    """

    head: Head
    transform: FeatureTransform
    history: list[EpochRecord]
    choices: tuple[dict[str, Any], ...]
    tuned_on: str
    init: tuple[str, ...]
    residual_prior: float | None
    seconds: float
    training: TrainingFit | None = None

    @property
    def best_epochs(self) -> tuple[int, ...]:
        """The epoch kept of each stage that trained, from 1."""
        return tuple(choice["epoch"] for choice in self.choices if "epoch" in choice)


def fit_head(
    method: Method,
    rows: LabelledRows,
    context: HeadContext,
    *,
    val: LabelledRows | None = None,
    extra: LabelledRows | None = None,
    choose: bool = True,
    seed: int = 0,
    options: FitOptions | None = None,
) -> FittedHead:
    """Fit a method.

    A head that ends without having fitted its own training rows is warned of
    (:class:`ltcache.errors.UnfittedWarning`).

    With the same seed, data, thread count and library versions the parameters have the same bytes
    on a CPU.

    Args:
        rows: training rows; their transform is fitted here.
        context: what heads are built from; its class counts make priors.
        val: rows to choose epochs and hyper-parameters on. None: a stratified tenth of the
            training rows chooses, then all rows are fitted with what it chose, up to the last
            epoch that the tenth cannot tell from its best.
        extra: rows that only train and never choose; the context's counts should know of them.
        choose: False: without ``val`` nothing is chosen; the last epoch and the method's own
            values are kept.
        seed: of initialisation, sampling and the held-out tenth.
        options: how it is carried out; None: with all defaults.

    Raises:
        FitError: data or settings that cannot be fitted.
    """
    keep_freed_memory()
    require_classes(torch.bincount(trained_labels(rows, extra)).cpu())
    begin = time.perf_counter()
    fit = OneFit(method, context, seed, options or FitOptions(), extra)
    if val is not None:
        return fit.fitted(*fit.run(rows, val, None), BY_VAL, begin)
    if not choose:
        return fit.fitted(*fit.run(rows, None, None), BY_NOTHING_ASKED, begin)
    if (slices := hold_out(rows, seed)) is None:
        return fit.fitted(*fit.run(rows, None, None), BY_NOTHING_THERE, begin)
    chosen_on = rows.take(slices[1])
    trial = fit.run(rows.take(slices[0]), chosen_on, None)[2]  # its rows are let go
    transform, task, results = fit.run(rows, None, choices_of(trial, chosen_on))
    return fit.fitted(transform, task, with_history_of(trial, results), BY_A_SLICE, begin)


BY_VAL = "val"
BY_NOTHING_ASKED = "nothing, as asked; the last epoch was kept"
BY_NOTHING_THERE = "nothing: no class has rows to spare; the last epoch was kept"
BY_A_SLICE = f"a stratified {SHARE:.0%} of train, then all of train with what it chose"


def choices_of(trial: Sequence[StageResult], chosen_on: LabelledRows) -> list[dict[str, Any]]:
    """Return what each stage chose, to be repeated on more rows.

    Of epochs it is the last one that the rows cannot tell from the best
    (:func:`ltcache.metrics.last_alike`), with the number of epochs that it was chosen from.
    """
    counts = chosen_on.image_counts()
    return [{**result.choice, **_epoch_of(result, counts)} for result in trial]


def _epoch_of(result: StageResult, class_counts: np.ndarray) -> dict[str, float]:
    """Return the epoch at which a repetition ends, and of how many; nothing where none was run."""
    scored = [record for record in result.history if "val_nll" in record]
    if "epoch" not in result.choice or not result.history:
        return {}
    if not scored:  # a soup, whose ingredients nobody scored
        return {"epochs": result.history[-1]["epochs"]}
    record = last_alike(scored, class_counts)
    return {name: record[name] for name in ("epoch", "epochs")}


def with_history_of(
    trial: Sequence[StageResult], results: Sequence[StageResult]
) -> list[StageResult]:
    """Return the results of a repetition with the histories that chose its epochs."""
    return [replace(r, history=t.history) for r, t in zip(results, trial, strict=True)]


@one_line
@dataclass(frozen=True)
class OneFit:
    """One method with everything but the rows; see :func:`fit_head`."""

    method: Method
    context: HeadContext
    seed: int
    options: FitOptions
    extra: LabelledRows | None = None
    spared: list[float] = field(default_factory=list)  # seconds of what the memo had

    def start(
        self, rows: LabelledRows, val: LabelledRows | None
    ) -> tuple[FeatureTransform, StageInput]:
        """Return the feature transform, fitted to the training rows, and the task of all stages."""
        device, options = torch.device(self.options.device), self.options
        rows = with_extra_rows(rows, self.extra).to(device)
        val = None if val is None else val.to(device)
        feature = self.method.feature
        if feature.text_rows:
            rows = with_texts(rows, self.context, feature.text_share)
        transform = FeatureTransform(feature.transform, self.context.dim).to(device)
        rows.row_features.fit(transform, rows.weights)
        return transform, StageInput(
            rows.transformed(transform),
            None if val is None else val.transformed(transform),
            replace(self.context, class_counts=self._counts()),
            transform.kind,
            Generator().manual_seed(self.seed),
            progress=options.progress,
            closed_form=options.closed_form,
            allow_double_correction=options.allow_double_correction,
        )

    def run(
        self, rows: LabelledRows, val: LabelledRows | None, choices: Sequence[dict[str, Any]] | None
    ) -> tuple[FeatureTransform, StageInput, list[StageResult]]:
        """Run the stages one after another; ``choices`` are repeated where given."""
        transform, task = self.start(rows, val)
        head: Head | None = None
        results: list[StageResult] = []
        for number in range(len(self.method.stages)):
            result, task = self.stage(number, task, head, choices)
            results.append(result)
            head = result.head
        return transform, task, results

    def fitted(
        self,
        transform: FeatureTransform,
        task: StageInput,
        results: Sequence[StageResult],
        tuned_on: str,
        begin: float,
    ) -> FittedHead:
        """Return what is left of the stages; ``begin`` is when the fit began, in seconds.

        Args:
            task: of the last stage, with the training rows.

        Raises:
            FitError: no stage made a head.
        """
        head = results[-1].head
        if head is None:
            raise FitError(f"method {self.method.name} has no stage that makes a head")
        training = _judged(results, task)
        if training is not None:
            training.warn(self.method.name)
        return FittedHead(
            head=head.cpu().eval(),
            transform=transform.cpu().eval(),
            history=[{"stage": k, **record} for k, r in enumerate(results) for record in r.history],
            choices=tuple(result.choice for result in results),
            tuned_on=tuned_on,
            init=tuple(result.init for result in results),
            residual_prior=results[-1].residual,
            seconds=time.perf_counter() - begin + sum(self.spared),
            training=training,
        )

    def stage(
        self,
        number: int,
        task: StageInput,
        head: Head | None,
        choices: Sequence[dict[str, Any]] | None,
    ) -> tuple[StageResult, StageInput]:
        """Run a stage after the head before it, or take it from the memo.

        Returns:
            What it leaves, and the task of the stage after it.
        """
        key = self.key(number, task, choices)
        result = self.recall(key, task)
        if result is None:
            begin = time.perf_counter()
            choice = None if choices is None else choices[number]
            result = run_stage(self.method.stages[number], task, head, choice)
            result = replace(result, seconds=time.perf_counter() - begin)
            self.remember(key, result, task)
        statistics = {**task.statistics, **result.statistics}
        return result, replace(task, statistics=statistics, residual=result.residual)

    def _counts(self) -> Tensor:
        """Return the rows of each class that are trained on, class texts included."""
        counts, feature = self.context.class_counts, self.method.feature
        return counts + text_copies(counts, feature.text_share) if feature.text_rows else counts

    def key(self, number: int, task: StageInput, choices: Sequence[dict[str, Any]] | None) -> str:
        """Return what a stage is remembered by: all that determines it on the same rows."""
        stages = [{"kind": type(s).__name__, **asdict(s)} for s in self.method.stages[: number + 1]]
        known = None if choices is None else list(choices[: number + 1])
        return digest([asdict(self.method.feature), stages, self.seed, len(task.rows), known])

    def recall(self, key: str, task: StageInput) -> StageResult | None:
        """Return what a stage left before, and set the randomness to where it ended."""
        if self.options.memo is None or key not in self.options.memo:
            return None
        result, state = self.options.memo[key]
        task.generator.set_state(state)
        self.spared.append(result.seconds)
        return replace(result, head=deepcopy(result.head))

    def remember(self, key: str, result: StageResult, task: StageInput) -> None:
        """Keep what a stage left and where the randomness ended."""
        if self.options.memo is not None:
            state = task.generator.get_state().clone()
            self.options.memo[key] = (replace(result, head=deepcopy(result.head)), state)


def _judged(results: Sequence[StageResult], task: StageInput) -> TrainingFit | None:
    """Return how well the head that was trained last knows the training rows."""
    trained = [result for result in results if result.steps is not None]
    if not trained or trained[-1].head is None:
        return None
    return training_fit(trained[-1].head.eval(), task.rows, trained[-1].steps or 0)


def text_copies(class_counts: Tensor, share: float) -> Tensor:
    """Return how often the text of each class is a row, (C,), int64, at least once.

    Args:
        class_counts: rows of images of each class, (C,). share: of the texts among all its rows.
    """
    return (class_counts * (share / (1 - share))).round().long().clamp(min=1)


def with_texts(rows: LabelledRows, context: HeadContext, share: float = 0.0) -> LabelledRows:
    """Return the rows with the text direction of each class as one more labelled row, or as many
    as make up a share of its rows.

    Raises:
        FitError: there are no class texts in the space of the features.
    """
    texts = context.text_directions().to(rows.device, rows.row_features.dtype)
    copies = text_copies(torch.bincount(rows.labels, minlength=len(texts)), share)
    labels = torch.arange(len(texts), device=rows.labels.device).repeat_interleave(copies)
    weights = None
    if rows.weights is not None:
        weights = torch.cat([rows.weights, rows.weights.new_ones(len(labels))])
    return LabelledRows(
        torch.cat([rows.features, texts[labels]]),
        torch.cat([rows.labels, labels]),
        weights,
        rows.with_unit_rows(labels.cpu().numpy()),  # copies of a text are one
        rows.with_image_rows(len(labels)),
        rows.composites and rows.composites.with_plain(texts[labels]),
    )
