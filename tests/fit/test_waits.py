"""Fits on a GPU, pretended: a step tells it what comes next and waits for nothing it has found."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import pytest
import torch

from ltcache.adjustments import gla
from ltcache.fit import FitJob, FitOptions, FittedHead, LabelledRows, convex, fit_head, fit_many
from ltcache.fit import many as planner
from ltcache.fit.together import train_together
from ltcache.fit.train import choose_by
from ltcache.heads import HEADS
from ltcache.methods import METHODS, Method, Train, override
from tests.fit.test_catalogue import CLASSES, CONTEXT, TRAIN, VAL, logits, short
from tests.pretended_device import CUDA, WaitLog, pretended_device

pytestmark = pytest.mark.slow

PER_STEP = {
    "reslt": "how many rows the branches of rarer classes have; all rows for all branches would "
    "take longer than to ask",
    "group_experts": "how many rows of the batch each expert has",
    "ace": "how many rows of the batch each expert is responsible for",
    "mbj": "how many rows enter the bank",
}
"""Objective -> what the host asks for once in each of its steps."""

PER_EPOCH = 4  # the loss; labels and predictions of validation rows, and their NLL
SAME_STEPS, TWICE_AS_MANY = 128, 64  # rows of a batch: 2 and 4 steps in an epoch of 254 rows
ON_GPU = FitOptions(device="cuda")


def waits(run: Callable[[], object]) -> WaitLog:
    """Return what a run on the pretended GPU waits for."""
    with pretended_device() as log, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run()
        return WaitLog(log)


def quick(name: str, batch: int, epochs: int | None = None) -> Method:
    """Return a method of as few epochs as it can have."""
    stages = [stage for stage in METHODS[name].stages if isinstance(stage, Train)]
    least = 2 if any(stage.composites for stage in stages) else 1
    return short(METHODS[name], epochs=epochs or least, batch=batch)


def asked(method: Method) -> int:
    """Return how often the host asks in all steps of a method, by the table."""
    stages = [stage for stage in method.stages if isinstance(stage, Train)]
    return sum(
        stage.optimisation.epochs_for(len(TRAIN)) * stage.optimisation.steps_per_epoch(len(TRAIN))
        for stage in stages
        if stage.objective in PER_STEP
    )


@pytest.mark.parametrize("name", METHODS)
def test_no_step_of_a_method_waits_but_for_what_the_table_says(name: str) -> None:
    found: list[FittedHead] = []
    few, many = (
        waits(lambda m=m: found.append(fit_head(m, TRAIN, CONTEXT, val=VAL, options=ON_GPU)))  # type: ignore[misc]
        for m in (quick(name, SAME_STEPS), quick(name, TWICE_AS_MANY))
    )
    expected = asked(quick(name, TWICE_AS_MANY)) - asked(quick(name, SAME_STEPS))
    assert (many - few).total() == expected, (many - few).most_common()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        on_cpu = fit_head(quick(name, SAME_STEPS), TRAIN, CONTEXT, val=VAL)
    assert torch.equal(logits(found[0]), logits(on_cpu))


def test_an_epoch_waits_for_its_loss_and_for_its_scores() -> None:
    one, two = (
        waits(lambda m=m: fit_head(m, TRAIN, CONTEXT, val=VAL, options=ON_GPU))  # type: ignore[misc]
        for m in (quick("ce", SAME_STEPS, 1), quick("ce", SAME_STEPS, 2))
    )
    assert (two - one).total() == PER_EPOCH, (two - one).most_common()


def test_scores_of_many_validation_rows_are_fetched_once() -> None:
    def scores(rows: LabelledRows) -> WaitLog:
        with mock.patch("ltcache.fit.train._BLOCK", 8):
            return waits(lambda: choose_by(HEADS["linear"](CONTEXT).to(CUDA), rows.to(CUDA)))

    twice = torch.arange(2 * len(VAL)) % len(VAL)
    assert not scores(VAL.take(twice)) - scores(VAL)


def _jobs(batch: int, epochs: int = 1) -> dict[str, list[FitJob]]:
    """Return form of the steps -> runs that are trained as one problem."""
    names = {
        "closed form": ("logit-adjustment", "focal", "seesaw"),
        "shared rows": ("logit-adjustment", "ce"),
        "mapped": ("lade",),
    }
    return {
        form: [FitJob(quick(name, batch, epochs), seed) for name in members for seed in (0, 1)]
        for form, members in names.items()
    }


@pytest.mark.parametrize("form", _jobs(1))
def test_no_step_of_batched_fits_waits(form: str) -> None:
    def run(batch: int, epochs: int = 1) -> WaitLog:
        jobs = _jobs(batch, epochs)[form]
        with mock.patch.object(planner, "train_together", wraps=train_together) as together:
            log = waits(lambda: fit_many(jobs, TRAIN, CONTEXT, val=VAL, options=ON_GPU))
        assert together.called
        return log

    few = run(SAME_STEPS)
    assert not run(TWICE_AS_MANY) - few
    if form == "closed form":
        assert (run(SAME_STEPS, 2) - few).total() == PER_EPOCH


def _solved(rows: LabelledRows) -> WaitLog:
    """Return what six iterations of the full-batch solver wait for."""
    settings = {"optimisation.optimiser": "lbfgs", "optimisation.epochs": 6}
    context = replace(CONTEXT, class_counts=torch.bincount(rows.labels, minlength=CLASSES))
    method = override(METHODS["ce"], settings)
    with mock.patch.object(convex, "_BLOCK", 100):
        return waits(lambda: fit_head(method, rows, context, val=VAL, options=ON_GPU))


def test_the_full_batch_solver_reads_once_per_evaluation_whatever_the_rows() -> None:
    twice = TRAIN.take(torch.arange(2 * len(TRAIN)) % len(TRAIN))
    once, more = _solved(TRAIN), _solved(twice)
    assert not more - once, (more - once).most_common()
    reads = {line: n for (_, line), n in once.items() if line.startswith("fit/convex.py")}
    evaluations = next(n for line, n in reads.items() if "tolist" in line)
    assert evaluations == 7  # at the start and after each of six steps
    products = sum(n for line, n in reads.items() if "torch.dot" in line)
    assert sum(reads.values()) == evaluations + products + 1  # and the eigenvectors


def test_the_prior_of_zero_shot_is_read_once_per_evaluation_whatever_the_rows() -> None:
    drawn = torch.randn(len(TRAIN), CLASSES, generator=torch.Generator().manual_seed(0))

    def run(times: int) -> WaitLog:
        values, labels = drawn.repeat(times, 1), TRAIN.labels.repeat(times)
        with mock.patch.object(gla, "_BLOCK", 100):
            return waits(lambda: gla.balanced_log_prior(values.to(CUDA), labels.to(CUDA), None))

    once = run(1)
    assert not run(2) - once
    assert not [line for kind, line in once if kind == "item" and "optimiser" in line]
