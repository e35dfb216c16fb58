"""Many runs as one problem: equal to single fits, for everything that a run may differ in."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.fit import FitJob, FitOptions, FittedHead, LabelledRows, fit_head, fit_many
from ltcache.fit import many as planner
from ltcache.fit.stages import StageTraining, ready
from ltcache.fit.task import StageInput
from ltcache.fit.together import (
    ClosedFormSteps,
    MappedSteps,
    SharedSteps,
    shared_architecture,
    train_together,
)
from ltcache.fit.train import train_head
from ltcache.heads import HeadContext, predict_logits
from ltcache.methods import METHODS, Method, Train, override

COUNTS = torch.tensor([90, 40, 20, 10, 5, 5])
MEANS = torch.randn(6, 12, generator=torch.Generator().manual_seed(3))
CONTEXT = HeadContext(12, 6, COUNTS, text_features=F.normalize(MEANS, dim=1), logit_scale=20.0)


def _rows(counts: torch.Tensor, seed: int) -> LabelledRows:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(6), counts)
    return LabelledRows(MEANS[labels] + torch.randn(len(labels), 12, generator=generator), labels)


ROWS, VAL = _rows(COUNTS, 0), _rows(torch.full((6,), 8), 1)


def _method(name: str, **overrides: object) -> Method:
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    return override(METHODS[name], {"optimisation.epochs": 5} | keys)


def _require_equal(one: FittedHead, other: FittedHead) -> None:
    assert one.choices == other.choices and one.init == other.init
    assert one.tuned_on == other.tuned_on and one.residual_prior == other.residual_prior
    a, b = (predict_logits(fit.head, fit.transform(VAL.features)) for fit in (one, other))
    assert (a - b).abs().max() <= 1e-4 * b.abs().max()
    assert len(one.history) == len(other.history)
    for mine, theirs in zip(one.history, other.history, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-5)


VARIED = [
    FitJob(_method("logit-adjustment", loss__tau=0.5), 0),
    FitJob(_method("logit-adjustment", loss__tau=1.5), 3),
    FitJob(_method("ce", optimisation__lr=0.02), 1),
    FitJob(_method("ce", optimisation__weight_decay=0.7), 1),
    FitJob(_method("crt"), 2),
    FitJob(_method("focal"), 2),
    FitJob(_method("cb"), 0),
    FitJob(_method("cb", loss__beta=0.9), 1),
    FitJob(_method("seesaw"), 0),
    FitJob(_method("seesaw"), 1),
]


@pytest.mark.parametrize("weighted", [False, True])
def test_linear_heads_of_many_losses_are_one_problem_and_equal_single_fits(weighted: bool) -> None:
    rows = replace(ROWS, weights=torch.rand(len(ROWS)) + 0.5) if weighted else ROWS
    with mock.patch.object(planner, "train_together", wraps=train_together) as together:
        many = fit_many(VARIED, rows, CONTEXT, val=VAL)
    assert [len(call.args[0]) for call in together.call_args_list] == [len(VARIED)]
    for job, fitted in zip(VARIED, many, strict=True):
        alone = fit_head(job.method, rows, CONTEXT, val=VAL, seed=job.seed)
        _require_equal(fitted, alone)


SAME_DRAWS = {
    "offsets": [_method("logit-adjustment", loss__tau=tau) for tau in (0.5, 1.0, 2.0)],
    "rates": [_method("ce", optimisation__lr=lr) for lr in (0.003, 0.01, 0.03)],
    "weights": [_method("grw", loss__rho=rho) for rho in (0.5, 1.0)],
    "directions": [_method("lift-lp", loss__tau=tau) for tau in (0.5, 1.0)],
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", SAME_DRAWS)
def test_runs_of_a_seed_share_the_rows_that_they_draw(kind: str, weighted: bool) -> None:
    rows = replace(ROWS, weights=torch.rand(len(ROWS)) + 0.5) if weighted else ROWS
    jobs = [FitJob(method, seed) for method in SAME_DRAWS[kind] for seed in (0, 3)]
    spy = {"autospec": True, "side_effect": SharedSteps.__call__}
    with mock.patch.object(SharedSteps, "__call__", **spy) as shared:
        many = fit_many(jobs, rows, CONTEXT, val=VAL)
    assert shared.called
    for job, fitted in zip(jobs, many, strict=True):
        _require_equal(fitted, fit_head(job.method, rows, CONTEXT, val=VAL, seed=job.seed))


@pytest.mark.parametrize("kind", SAME_DRAWS)
def test_runs_that_end_at_epochs_of_their_own_still_share_rows_with_their_labels(kind: str) -> None:
    def trainings() -> list[StageTraining]:
        found = []
        for method in SAME_DRAWS[kind]:
            (stage,) = method.stages
            assert isinstance(stage, Train)
            task = StageInput(ROWS, None, CONTEXT, "none", torch.Generator().manual_seed(7))
            found.append(ready(stage, task, None))
        return found

    together, stops = trainings(), (2, 5, 3)
    spy = {"autospec": True, "side_effect": SharedSteps.__call__}
    with mock.patch.object(SharedSteps, "__call__", **spy) as shared:
        train_together(together, stops[: len(together)])
    assert shared.called
    for mine, alone, stop in zip(together, trainings(), stops, strict=False):
        train_head(alone.head, alone.objective, alone.stage, alone.task, stop)
        a, b = (predict_logits(training.head, VAL.features) for training in (mine, alone))
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


@pytest.mark.parametrize(
    ("name", "val"),
    [
        *((name, VAL) for name in ("lift-lp", "ldam-drw", "gcl", "lws", "ride", "ballad", "lade")),
        ("posthoc-la", None),
        ("dr+h2t", None),
    ],
)
def test_methods_of_every_kind_equal_single_fits(name: str, val: LabelledRows | None) -> None:
    jobs = [FitJob(_method(name, optimisation__epochs=3), seed) for seed in (0, 1)]
    for job, fitted in zip(jobs, fit_many(jobs, ROWS, CONTEXT, val=val), strict=True):
        _require_equal(fitted, fit_head(job.method, ROWS, CONTEXT, val=val, seed=job.seed))


def _trainings(name: str, seeds: tuple[int, ...], optimiser: str) -> list[StageTraining]:
    """Return first stages of 20 steps in float64."""
    stage = METHODS[name].stages[0]
    assert isinstance(stage, Train)
    changes = {"epochs": 2, "min_steps": 0, "batch": 17, "lr": 0.01, "optimiser": optimiser}
    stage = replace(stage, optimisation=replace(stage.optimisation, **changes))  # type: ignore[arg-type]
    weights = torch.linspace(0.5, 1.5, len(ROWS)).double()
    rows = LabelledRows(ROWS.features.double(), ROWS.labels, weights)
    found = []
    for seed in seeds:
        task = StageInput(rows, None, CONTEXT, "none", torch.Generator().manual_seed(seed))
        training = ready(stage, replace(task, rows=LabelledRows(ROWS.features, ROWS.labels)), None)
        found.append(replace(training, task=task, head=training.head.double()))
    return found


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, ClosedFormSteps) for name in ("ce", "lift-lp", "ldam-drw", "seesaw", "gcl")),
        *((name, MappedSteps) for name in ("lade", "ballad", "tip-adapter-f")),
    ],
)
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_twenty_steps_in_float64_agree_with_single_training(
    name: str, kind: type, optimiser: str
) -> None:
    together = _trainings(name, (0, 1, 2), optimiser)
    alone = _trainings(name, (0, 1, 2), optimiser)
    for training in alone:
        train_head(training.head, training.objective, training.stage, training.task)
    assert len({shared_architecture(training) for training in _shared(together)}) == 1
    with mock.patch.object(kind, "__call__", autospec=True, side_effect=kind.__call__) as steps:
        train_together(_shared(together), [None] * 3)
    assert steps.call_count == 20
    for one, other in zip(together, alone, strict=True):
        for (key, a), b in zip(one.head.state_dict().items(), other.head.state_dict().values(),
                               strict=True):  # fmt: skip
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=key)


def _shared(trainings: list[StageTraining]) -> list[StageTraining]:
    """Return trainings on the rows of the first one, as fits of equal features have them."""
    rows = trainings[0].task.rows
    return [replace(t, task=replace(t.task, rows=rows)) for t in trainings]


@pytest.mark.parametrize("name", ["ride", "reslt", "dr-mu"])
def test_what_cannot_be_stacked_runs_alone(name: str) -> None:
    """Operations without a batched form, running statistics, fusions."""
    stage = _method(name).stages[0]
    assert isinstance(stage, Train)
    task = StageInput(ROWS, None, CONTEXT, "none", torch.Generator().manual_seed(0))
    assert shared_architecture(ready(stage, task, None)) is None


def test_stages_that_several_methods_share_are_trained_once() -> None:
    jobs = [FitJob(_method(name), 0) for name in ("posthoc-la", "ce", "tau-norm")]
    with mock.patch.object(planner, "ready", wraps=ready) as started:
        fit_many(jobs, ROWS, CONTEXT, val=VAL)
    assert started.call_count == 1


def test_a_memo_that_was_filled_spares_single_fits_their_training() -> None:
    jobs, memo = [FitJob(_method("lift-lp"), seed) for seed in (0, 1)], {}
    many = fit_many(jobs, ROWS, CONTEXT, val=VAL, options=FitOptions(memo=memo))
    with mock.patch("ltcache.fit.stages.train_head", side_effect=AssertionError):
        again = fit_head(
            jobs[1].method, ROWS, CONTEXT, val=VAL, seed=1, options=FitOptions(memo=memo)
        )
    _require_equal(many[1], again)
    assert many[1].seconds > 0


def test_a_run_that_explodes_says_so_and_leaves_the_others_in_the_memo() -> None:
    bad = FitJob(_method("ce", optimisation__lr=1e38, optimisation__optimiser="sgd"), 0)
    jobs, memo = [FitJob(_method("ce", optimisation__optimiser="sgd"), 0), bad], {}
    with pytest.raises(FitError, match=r"lower optimisation\.lr"):
        fit_many(jobs, ROWS, CONTEXT, val=VAL, options=FitOptions(memo=memo))
    assert len(memo) == 1
    fitted = fit_head(jobs[0].method, ROWS, CONTEXT, val=VAL, options=FitOptions(memo=memo))
    _require_equal(fitted, fit_head(jobs[0].method, ROWS, CONTEXT, val=VAL))


def test_progress_names_the_job() -> None:
    seen: list[tuple[int, int]] = []
    jobs = [FitJob(_method("ce"), seed) for seed in (0, 1)]
    fit_many(jobs, ROWS, CONTEXT, val=VAL, progress=lambda job, r: seen.append((job, r["epoch"])))
    assert sorted(seen) == [(job, epoch) for job in (0, 1) for epoch in range(1, 6)]


def test_bfloat16_products_together_stay_close_to_single_ones() -> None:
    jobs = [FitJob(_method("ce", optimisation__precision="bf16"), seed) for seed in (0, 1)]
    for job, fitted in zip(jobs, fit_many(jobs, ROWS, CONTEXT, val=VAL), strict=True):
        alone = fit_head(job.method, ROWS, CONTEXT, val=VAL, seed=job.seed)
        assert fitted.history[-1]["loss"] == pytest.approx(alone.history[-1]["loss"], rel=0.01)


def test_no_rows_and_no_jobs() -> None:
    assert fit_many([], ROWS, CONTEXT) == []
    with pytest.raises(FitError, match="no labelled training rows"):
        fit_many(
            [VARIED[0]],
            LabelledRows(torch.zeros(0, 12), torch.zeros(0, dtype=torch.int64)),
            CONTEXT,
        )


def test_a_gpu_is_given_as_many_runs_as_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    free, large = [8 << 30], (2048, 768, 8142, torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[0], 141 << 30))
    few = planner.runs_at_once(40, *large)
    assert 1 < few < 40
    assert planner.runs_at_once(40, 128, 64, 10, torch.device("cuda")) == 40
    free[0] = 1 << 20
    assert planner.runs_at_once(40, *large) == 1
    free[0] = 141 << 30
    assert planner.runs_at_once(40, *large) == 40
