"""Schedules on few rows: enough steps, equal shares, and a word where a head was not fitted."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch

from ltcache.errors import FitError, UnfittedWarning
from ltcache.fit import FitJob, LabelledRows, fit_head, fit_many
from ltcache.fit.stages import epoch_to_repeat
from ltcache.heads import HeadContext, predict_logits
from ltcache.methods import LEAST_STEPS, METHODS, Optimisation, Train, override
from tests.fakes import FakeCache

EMOJI_LT = 3_922  # rows on which the catalogue's epochs were chosen
EXPERTS_FROM = 8_192  # rows from which experts make their 12 epochs; below they make 192 steps
DIM, COUNTS = 32, torch.tensor([90, 60, 30, 20])
TRAINED = [(name, stage) for name, method in METHODS.items() for stage in method.stages
           if isinstance(stage, Train)]  # fmt: skip


def _rows(noise: float, seed: int = 0) -> LabelledRows:
    draw = torch.Generator().manual_seed(seed)
    means = torch.randn(len(COUNTS), DIM, generator=torch.Generator().manual_seed(7))
    labels = torch.repeat_interleave(torch.arange(len(COUNTS)), COUNTS)
    return LabelledRows(
        means[labels] + noise * torch.randn(len(labels), DIM, generator=draw), labels
    )


def _context(**more: object) -> HeadContext:
    return HeadContext(DIM, len(COUNTS), COUNTS, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "stage"), TRAINED)
@pytest.mark.parametrize("rows", [40, 200, 700])
def test_every_stage_of_every_method_makes_enough_steps(name: str, stage: Train, rows: int) -> None:
    how = stage.optimisation
    assert how.epochs_for(rows) * how.steps_per_epoch(rows) >= 96


@pytest.mark.parametrize(("name", "stage"), TRAINED)
def test_the_floor_leaves_the_measured_schedules_alone(name: str, stage: Train) -> None:
    how = stage.optimisation
    if how.epochs is not None:
        more = how.min_steps > LEAST_STEPS
        assert how.epochs_for(EXPERTS_FROM if more else EMOJI_LT) == how.epochs
        assert how.epochs_for(EMOJI_LT) * how.steps_per_epoch(EMOJI_LT) >= how.min_steps
    assert how.epochs_for(1_000_000) == (how.epochs or 8)


def test_epochs_that_somebody_names_are_not_raised() -> None:
    stage = override(METHODS["ride"], {"optimisation.epochs": "3"}).stages[-1]
    assert isinstance(stage, Train) and stage.optimisation.epochs_for(100) == 3
    both = {"optimisation.min_steps": 50, "optimisation.epochs": 3}
    stage = override(METHODS["ride"], both).stages[-1]
    assert isinstance(stage, Train) and stage.optimisation.epochs_for(100) == 50
    assert Optimisation(batch=10, epochs=3, min_steps=0).epochs_for(100) == 3


@pytest.mark.parametrize("name", ["ride", "sade", "reslt", "ride+h2t"])
def test_experts_fit_a_few_hundred_separable_rows(name: str) -> None:
    rows, test = _rows(0.5), _rows(0.5, seed=1)
    fit = fit_head(METHODS[name], rows, _context(), choose=False)
    assert (predict_logits(fit.head, fit.transform(test.features)).argmax(1) == test.labels).all()
    assert fit.training is not None and fit.training.overall == 1
    assert fit.training.steps == (96 if name == "ride+h2t" else 192)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ride", {"optimisation.epochs": 3}),
        ("ce", {"optimisation.epochs": 1, "optimisation.lr": 1e-6}),
        ("ce", {"optimisation.lr": 1e-9}),
        ("logit-adjustment", {"optimisation.epochs": 1, "optimisation.lr": 1e-6}),
        ("posthoc-la", {"optimisation.lr": 1e-9}),
    ],
)
def test_a_head_that_was_not_fitted_says_so(name: str, settings: dict[str, float]) -> None:
    with pytest.warns(UnfittedWarning, match=f"{name}.* ended before it had fitted its own"):
        fit = fit_head(override(METHODS[name], settings), _rows(0.5), _context(), choose=False)
    assert fit.training is not None and fit.training.unfitted
    assert fit.training.to_dict()["unfitted"] is True


@pytest.mark.parametrize("noise", [0.5, 6.0])
@pytest.mark.parametrize(
    ("name", "settings"),
    [("ce", {}), ("ce", {"optimisation.weight_decay": 5.0}), ("crt", {}), ("logit-adjustment", {}),
     ("ldam-drw", {}), ("ride", {}), ("lws", {}), ("gcl", {}), ("ncm", {}),
     ("ce", {"optimisation.optimiser": "lbfgs", "optimisation.weight_decay": 0.3})],
)  # fmt: skip
def test_hard_rows_balance_and_decay_raise_no_false_alarm(
    name: str, settings: dict[str, float], noise: float
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnfittedWarning)
        fit_head(override(METHODS[name], settings), _rows(noise), _context(), choose=False)


def test_rows_without_a_pattern_raise_no_false_alarm() -> None:
    rows = _rows(0.5)
    shuffled = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnfittedWarning)
        fit_head(
            METHODS["ce"],
            LabelledRows(rows.features, rows.labels[shuffled]),
            _context(),
            choose=False,
        )


def test_a_run_records_how_well_it_knows_its_training_rows() -> None:
    from ltcache.fit import fit_adapter

    cache = FakeCache(COUNTS.numpy())
    assert fit_adapter(cache, "ce").record.training["unfitted"] is False  # type: ignore[arg-type]
    assert fit_adapter(cache, "ncm").record.training is None  # type: ignore[arg-type]


@pytest.mark.parametrize(("epoch", "epochs", "repeated"), [(96, 96, 48), (30, 96, 15), (1, 96, 1)])
def test_a_chosen_epoch_is_repeated_at_its_share_of_the_schedule(
    epoch: int, epochs: int, repeated: int
) -> None:
    stage = METHODS["ride"].stages[0]
    assert isinstance(stage, Train)
    stage = replace(stage, optimisation=replace(stage.optimisation, min_steps=96))
    assert stage.optimisation.epochs_for(477) == 96 and stage.optimisation.epochs_for(530) == 48
    assert epoch_to_repeat(stage, {"epoch": epoch, "epochs": epochs}, 530) == repeated
    assert epoch_to_repeat(stage, None, 530) is None


def test_fits_together_equal_fits_one_by_one_where_the_floor_counts() -> None:
    short = {"optimisation.epochs": 2, "optimisation.min_steps": 40, "optimisation.batch": 96}
    jobs = [FitJob(override(METHODS["ce"], short), seed) for seed in (0, 1)]
    for job, found in zip(jobs, fit_many(jobs, _rows(1.0), _context()), strict=True):
        alone = fit_head(job.method, _rows(1.0), _context(), seed=job.seed)
        assert found.best_epochs == alone.best_epochs and alone.history[-1]["epochs"] == 20
        torch.testing.assert_close(
            dict(found.head.state_dict()), dict(alone.head.state_dict()), atol=1e-4, rtol=1e-3
        )


@pytest.mark.parametrize("name", ["ce", "ncm", "ride", "posthoc-la"])
def test_rows_of_one_class_are_refused(name: str) -> None:
    rows = LabelledRows(torch.randn(20, DIM), torch.full((20,), 2))
    context = HeadContext(DIM, 4, torch.tensor([0, 0, 20, 0]))
    with pytest.raises(FitError, match="of one class, label 2; at least 2"):
        fit_head(METHODS[name], rows, context)
    with pytest.raises(FitError, match="of one class, label 2; at least 2"):
        fit_many([FitJob(METHODS[name])], rows, context)
