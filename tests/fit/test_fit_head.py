"""Fitting on tensors: laws, equal paths, determinism, choice of the epoch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ltcache.errors import FitError
from ltcache.fit import FitOptions, FittedHead, LabelledRows, StageResult, fit_head, hold_out
from ltcache.fit.head import choices_of
from ltcache.heads import HeadContext, predict_logits
from ltcache.methods import METHODS, Method, override
from ltcache.metrics import evaluate_logits, last_alike

COUNTS = torch.tensor([150, 60, 24, 10, 5, 5])
MEANS = torch.randn(6, 12, generator=torch.Generator().manual_seed(3))


def _rows(counts: torch.Tensor, seed: int, noise: float = 1.2) -> LabelledRows:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(6), counts)
    features = MEANS[labels] + noise * torch.randn(len(labels), 12, generator=generator)
    return LabelledRows(features, labels)


def _fit(
    method: Method, rows: LabelledRows | None = None, val: LabelledRows | None = None, **options
) -> FittedHead:  # type: ignore[no-untyped-def]
    context = HeadContext(12, 6, COUNTS)
    return fit_head(method, _rows(COUNTS, 0) if rows is None else rows, context, val=val, **options)


def _short(name: str, **overrides: object) -> Method:
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    return override(METHODS[name], {"optimisation.epochs": 6} | keys)


def _bytes(fitted: FittedHead) -> bytes:
    return b"".join(v.numpy().tobytes() for v in fitted.head.state_dict().values())


@pytest.mark.parametrize("name", ["ce", "crt", "logit-adjustment", "lift-lp"])
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_closed_form_fit_equals_autograd(name: str, optimiser: str) -> None:
    method = _short(name, optimisation__optimiser=optimiser, optimisation__batch=37)
    rows = _rows(COUNTS, 0)
    weighted = LabelledRows(rows.features, rows.labels, torch.rand(len(rows)) + 0.5)
    for part in (rows, weighted):
        fast = _fit(method, part, val=part, seed=2)
        slow = _fit(method, part, val=part, seed=2, options=FitOptions(closed_form=False))
        for (key, a), b in zip(fast.head.state_dict().items(), slow.head.state_dict().values(),
                               strict=True):  # fmt: skip
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3, msg=key)
        assert fast.history[-1]["loss"] == pytest.approx(slow.history[-1]["loss"], rel=1e-4)


def test_bfloat16_products_stay_close_to_fp32() -> None:
    method = _short("ce")
    narrow = override(method, {"optimisation.precision": "bf16"})
    a, b = _fit(method, val=_rows(COUNTS, 1)), _fit(narrow, val=_rows(COUNTS, 1))
    assert a.history[-1]["loss"] == pytest.approx(b.history[-1]["loss"], rel=0.02)


def test_logit_adjustment_beats_cross_entropy_on_few_shot_classes() -> None:
    test = _rows(torch.full((6,), 200), 9)
    few = {}
    for name in ("ce", "logit-adjustment", "crt"):
        fitted = _fit(METHODS[name], val=_rows(torch.full((6,), 20), 1))
        logits = predict_logits(fitted.head, fitted.transform(test.features)).numpy()
        scores = evaluate_logits(logits, test.labels.numpy(), COUNTS.numpy(), bootstrap=0)
        few[name] = scores.few
    assert few["logit-adjustment"] > few["ce"] + 0.05
    assert few["crt"] > few["ce"]


def test_the_epoch_is_the_best_on_validation_and_its_state_is_kept() -> None:
    val = _rows(torch.full((6,), 5), 1)
    fitted = _fit(override(METHODS["ce"], {"optimisation.lr": 0.05}), val=val)
    scores = [record["val_mean_per_class"] for record in fitted.history]
    best = fitted.best_epochs[0]
    assert scores[best - 1] == max(scores) and fitted.tuned_on == "val"
    logits = predict_logits(fitted.head, fitted.transform(val.features))
    right = (logits.argmax(1) == val.labels).float().reshape(6, 5).mean()
    assert float(right) == pytest.approx(max(scores))


def test_without_validation_a_slice_of_train_chooses_and_all_rows_are_fitted() -> None:
    seen: list[dict] = []
    fitted = _fit(_short("ce"), options=FitOptions(progress=seen.append))
    assert fitted.tuned_on.startswith("a stratified 10% of train")
    assert len(seen) == 6 + fitted.best_epochs[0]
    assert all("val_nll" in record for record in fitted.history)
    rows = _rows(COUNTS, 0)
    _, held = hold_out(rows)  # type: ignore[misc]
    counts = torch.bincount(rows.labels[held]).numpy()
    assert fitted.best_epochs == (last_alike(fitted.history, counts)["epoch"],)


def test_crops_of_the_images_that_choose_tell_epochs_no_better_apart() -> None:
    rows = _rows(torch.full((6,), 10), 1)
    scores = (0.9, 0.88, 0.86, 0.6)
    history = [
        {"epoch": k + 1, "epochs": 4, "val_mean_per_class": score, "val_nll": 1.0}
        for k, score in enumerate(scores)
    ]
    trial = [StageResult(None, 1.0, choice={"epoch": 1}, history=history)]
    crops = torch.arange(60).repeat_interleave(16)
    more = replace(rows.take(crops), images=crops)
    chosen = [choices_of(trial, chosen_on)[0]["epoch"] for chosen_on in (rows, more)]
    assert chosen == [3, 3]


def test_without_rows_to_spare_the_last_epoch_is_kept() -> None:
    fitted = fit_head(_short("ce"), _rows(torch.full((6,), 3), 0), HeadContext(12, 6, COUNTS))
    assert fitted.tuned_on.startswith("nothing") and fitted.best_epochs == (6,)


def test_without_choosing_every_row_trains_to_the_last_epoch() -> None:
    seen: list[dict] = []
    fitted = _fit(_short("ce"), options=FitOptions(progress=seen.append), choose=False)
    assert len(seen) == 6 and fitted.best_epochs == (6,) and fitted.tuned_on.startswith("nothing")
    val = _rows(torch.full((6,), 5), 1)
    assert _bytes(_fit(_short("ce"), val=val, choose=False)) == _bytes(_fit(_short("ce"), val=val))


def test_hold_out_takes_whole_units_of_every_class_that_can_give() -> None:
    rows = _rows(COUNTS, 0)
    units = np.arange(len(rows)) // 3
    train, held = hold_out(LabelledRows(rows.features, rows.labels, units=units))  # type: ignore[misc]
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(len(rows)))
    assert not {*units[train].tolist()} & {*units[held].tolist()}
    plain = hold_out(rows)
    assert plain is not None
    given = torch.bincount(rows.labels[plain[1]], minlength=6)
    assert given.tolist() == [15, 6, 2, 1, 1, 1]
    assert hold_out(_rows(torch.full((6,), 4), 0)) is None


def test_a_unit_of_several_classes_is_held_out_or_trained_on_as_a_whole() -> None:
    labels = torch.tensor([0, 1, 2]).repeat(20)
    cameras = np.arange(60) // 3  # each saw every class
    train, held = hold_out(LabelledRows(torch.zeros(60, 2), labels, units=cameras))  # type: ignore[misc]
    assert not {*cameras[train].tolist()} & {*cameras[held].tolist()}
    assert torch.bincount(labels[held]).tolist() == [2, 2, 2]
    rare = torch.where(torch.arange(60) < 3, 3, labels)  # all that there is, in one unit
    _, held = hold_out(LabelledRows(torch.zeros(60, 2), rare, units=cameras))  # type: ignore[misc]
    assert (rare[held] < 3).all()


def test_double_correction_is_refused_unless_allowed() -> None:
    method = _short("logit-adjustment", sampler="class_aware")
    with pytest.raises(FitError, match="second time"):
        _fit(method)
    with pytest.warns(UserWarning, match="second time"):
        fitted = _fit(method, options=FitOptions(allow_double_correction=True))
    assert fitted.residual_prior == 0


def test_text_start_falls_back_to_class_means_and_says_so() -> None:
    assert _fit(_short("lift-lp")).init == ("class_mean",)
    with pytest.raises(FitError, match="ltcache prompts"):
        _fit(_short("lift-lp", init="text"))
    with pytest.raises(FitError, match="transformed by 'standardize'"):
        _fit(_short("ce", init="text"))
    with pytest.raises(FitError, match="needs a stage before it"):
        _fit(_short("ce", init="previous"))


def test_bad_rows_are_refused() -> None:
    with pytest.raises(FitError, match="row 1 are not finite"):
        LabelledRows(torch.tensor([[0.0], [float("nan")]]), torch.tensor([0, 0]))
    with pytest.raises(FitError, match="2 labels for 1 rows"):
        LabelledRows(torch.zeros(1, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(FitError, match="no labelled training rows"):
        _fit(METHODS["ce"], LabelledRows(torch.zeros(0, 12), torch.zeros(0, dtype=torch.int64)))


def test_an_exploding_fit_names_the_learning_rate() -> None:
    method = _short("ce", optimisation__optimiser="sgd", optimisation__lr=1e38)
    with pytest.raises(FitError, match=r"lower optimisation\.lr"):
        _fit(method)
