"""Every method of the catalogue on a small long-tailed problem with class texts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ltcache.adjustments import PredictedRows, adapted
from ltcache.errors import FitError
from ltcache.fit import FitOptions, FittedHead, LabelledRows, RowFeatures, fit_head
from ltcache.heads import Head, HeadContext, predict_logits
from ltcache.methods import METHODS, Method, Train, build_head, override
from tests.fakes import fake_composites

CLASSES, DIM = 6, 12
COUNTS = torch.tensor([150, 60, 24, 10, 5, 5])
MEANS = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(3))
NOISE = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(4))
NOISY = F.normalize(MEANS + 0.5 * NOISE, dim=1)
CONTEXT = HeadContext(DIM, CLASSES, COUNTS, text_features=NOISY, logit_scale=20.0)


def rows(counts: torch.Tensor, seed: int, noise: float = 1.2) -> LabelledRows:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(CLASSES), counts)
    features = MEANS[labels] + noise * torch.randn(len(labels), DIM, generator=generator)
    images = torch.arange(len(labels)) // 2  # two crops each
    return LabelledRows(
        features, labels, images=images, composites=fake_composites(features, labels)
    )


TRAIN, VAL = rows(COUNTS, 0), rows(torch.full((CLASSES,), 6), 1)
TEST = rows(torch.full((CLASSES,), 20), 9)


def short(method: Method, epochs: int = 3, **optimisation: float) -> Method:
    """Return a method with all hyper-parameters written out and few epochs in each stage."""
    changes = {"epochs": epochs, **optimisation}
    settings = {
        f"stages.{number}.optimisation.{key}": value
        for number, stage in enumerate(method.stages)
        if isinstance(stage, Train)
        for key, value in changes.items()
    }
    return override(method, settings)


@cache
def fitted(name: str, settings: tuple[tuple[str, Any], ...] = (), seed: int = 0) -> FittedHead:
    method = short(override(METHODS[name], dict(settings)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "how much of the prior")
        return fit_head(method, TRAIN, CONTEXT, val=VAL, seed=seed)


def predicted(fit: FittedHead, features: torch.Tensor, head: Head | None = None) -> torch.Tensor:
    """Return logits of rows; a transductive head learns from them and two crops of each before."""

    def crops(view: str) -> torch.Tensor:
        noise = torch.randn(len(features), 2, DIM, generator=torch.Generator().manual_seed(5))
        shown = features[:, None] + (0.0 if view == "center" else 0.5 * noise)
        return fit.transform(shown.flatten(0, 1)).unflatten(0, shown.shape[:2])

    ready, _ = adapted(head or fit.head, PredictedRows("test", "center", crops))
    return predict_logits(ready, fit.transform(features))


def logits(fit: FittedHead) -> torch.Tensor:
    return predicted(fit, TEST.features)


@pytest.mark.parametrize("name", METHODS)
def test_a_fit_gives_finite_logits_and_repeats_for_its_seed(name: str) -> None:
    first = logits(fitted(name))
    assert first.shape == (len(TEST), CLASSES) and torch.isfinite(first).all()
    assert not fitted(name).head.training
    again = fit_head(short(METHODS[name]), TRAIN, CONTEXT, val=VAL, seed=0)
    assert torch.equal(logits(again), first)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_a_separable_problem(name: str) -> None:
    easy, test = rows(COUNTS, 0, noise=0.1), rows(torch.full((CLASSES,), 20), 9, noise=0.1)
    method = short(METHODS[name], epochs=30, lr=0.02, batch=16)
    context = replace(CONTEXT, text_features=F.normalize(MEANS, dim=1))
    fit = fit_head(method, easy, context, val=rows(torch.full((CLASSES,), 6), 1, noise=0.1))
    right = predicted(fit, test.features).argmax(1) == test.labels
    assert right.float().mean() > 0.95


@pytest.mark.parametrize("name", METHODS)
def test_a_head_is_rebuilt_from_its_stages_and_its_state(name: str) -> None:
    fit = fitted(name)
    kept = {k.rpartition("context_")[2]: v for k, v in fit.head.state_dict().items()}
    known = {n: kept[n] for n in ("text_features", "projection", "directions") if n in kept}
    context = HeadContext(DIM, CLASSES, COUNTS, logit_scale=20.0, **known)
    method = Method.from_dict(short(METHODS[name]).to_dict())
    head = build_head(method.stages, fit.choices, context)
    head.load_state_dict(fit.head.state_dict())
    again = predicted(fit, TEST.features, head.eval())
    torch.testing.assert_close(again, logits(fit), rtol=0, atol=0)


def test_no_two_methods_give_equal_logits_unless_the_catalogue_says_so() -> None:
    some = {"posthoc-la": (("adjustment.tau", 1.0),), "tau-norm": (("transform.tau", 1.0),)}
    found = {name: logits(fitted(name, some.get(name, ()))) for name in METHODS}
    same = {
        frozenset((one, two))
        for one, a in found.items()
        for two, b in found.items()
        if one < two and torch.equal(a, b)
    }
    said = {frozenset((n, m.same_as)) for n, m in METHODS.items() if m.same_as}
    assert same == said


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.ablation])
def test_switching_the_mechanism_off_changes_the_logits(name: str) -> None:
    method = METHODS[name]
    assert method.mechanism
    off = fitted(name, tuple(method.ablation.items()))
    assert not torch.allclose(logits(off), logits(fitted(name)), atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_not_exact_names_its_mechanism_and_what_differs(name: str) -> None:
    method = METHODS[name]
    assert method.differs.endswith(".") and method.reference and method.title
    if method.fidelity != "exact":
        assert method.mechanism and method.ablation


# random draws follow the numbering of the classes, so methods that train end elsewhere
CLOSED_FORMS = [
    name
    for name, method in METHODS.items()
    if not any(isinstance(stage, Train) for stage in method.stages)
]


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_classes_may_be_numbered_in_another_order(name: str) -> None:
    method = METHODS[name]
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    moved = torch.argsort(order)
    context = replace(CONTEXT, class_counts=COUNTS[order], text_features=NOISY[order])
    train, val = (LabelledRows(part.features, moved[part.labels]) for part in (TRAIN, VAL))
    again = fit_head(short(method), train, context, val=val)
    expected = logits(fitted(name))[:, order]
    torch.testing.assert_close(logits(again), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["dr", "tau-norm", "posthoc-la", "gda", "sage"])
def test_without_validation_a_slice_of_train_makes_every_choice(name: str) -> None:
    fit = fit_head(short(METHODS[name]), TRAIN, CONTEXT)
    assert fit.tuned_on.startswith("a stratified 10% of train")
    for stage, choice in zip(METHODS[name].stages, fit.choices, strict=True):
        wanted = {"epoch"} if isinstance(stage, Train) else set(getattr(stage, "choose", {}))
        assert wanted <= set(choice)


def test_methods_share_first_stages_through_a_memo_with_equal_results() -> None:
    memo: dict[str, Any] = {}
    for name in ("ce", "tau-norm", "lws", "posthoc-la", "dr", "dr+h2t"):
        shared = fit_head(
            short(METHODS[name]), TRAIN, CONTEXT, val=VAL, options=FitOptions(memo=memo)
        )
        assert torch.equal(logits(shared), logits(fitted(name)))
    stages = sum(len(METHODS[n].stages) for n in ("ce", "tau-norm", "lws", "posthoc-la", "dr"))
    assert len(memo) < stages  # the first stage of all of them is one entry


@pytest.mark.parametrize("estimator", ["finite_sample", "optimism"])
def test_an_estimate_of_the_compensation_is_larger_for_rarer_classes(estimator: str) -> None:
    from ltcache.fit.statistics import compensation
    from ltcache.fit.task import StageInput

    unit = replace(TRAIN, row_features=RowFeatures(F.normalize(TRAIN.features, dim=1)))
    task = StageInput(unit, None, CONTEXT, "l2", torch.Generator().manual_seed(0))
    delta = compensation(task, estimator=estimator)["delta"]
    assert delta.shape == (CLASSES,) and (delta >= 0).all()
    assert delta[-2:].mean() > delta[:2].mean()


def test_one_fold_leaves_nothing_to_fit_on() -> None:
    method = override(
        METHODS["sage"], {"compensation.estimator": "optimism", "compensation.folds": 1}
    )
    with pytest.raises(FitError, match=r"compensation\.folds=1 .*: take 2 or more"):
        fit_head(short(method), TRAIN, CONTEXT, val=VAL)


def test_the_drift_is_one_less_the_cosine_of_class_mean_and_class_text() -> None:
    from ltcache.fit.statistics import compensation
    from ltcache.fit.task import StageInput

    task = StageInput(TRAIN, None, CONTEXT, "none", torch.Generator().manual_seed(0))
    x, y = F.normalize(TRAIN.features, dim=1).double().numpy(), TRAIN.labels.numpy()
    means = np.stack([x[y == c].mean(0) for c in range(CLASSES)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    expected = 1 - (means * NOISY.double().numpy()).sum(1)
    found = compensation(task, estimator="drift")["delta"].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_finite_sample_compensation_is_effective_rank_over_twice_the_count() -> None:
    from ltcache.fit.statistics import compensation
    from ltcache.fit.task import StageInput

    task = StageInput(TRAIN, None, CONTEXT, "none", torch.Generator().manual_seed(0))
    x, y = TRAIN.features.double().numpy(), TRAIN.labels.numpy()
    centred = np.concatenate([x[y == c] - x[y == c].mean(0) for c in range(CLASSES)])
    s = centred.T @ centred / len(x)
    expected = np.trace(s) ** 2 / np.trace(s @ s) / (2 * COUNTS.numpy())
    np.testing.assert_allclose(compensation(task)["delta"].numpy(), expected, rtol=1e-6)
    every = torch.arange(len(TRAIN)).repeat_interleave(4)
    crops = replace(task, rows=TRAIN.take(every))  # four of each image, all alike
    np.testing.assert_allclose(compensation(crops)["delta"].numpy(), expected, rtol=1e-6)


def test_a_correction_of_a_balanced_head_is_refused() -> None:
    posthoc, balanced = METHODS["posthoc-la"], METHODS["crt"]
    twice = replace(posthoc, stages=(balanced.stages[0], *posthoc.stages[1:]))
    with pytest.raises(FitError, match="balanced already"):
        fit_head(short(twice), TRAIN, CONTEXT, val=VAL)
    with pytest.warns(UserWarning, match="balanced already"):
        fit_head(
            short(twice), TRAIN, CONTEXT, val=VAL, options=FitOptions(allow_double_correction=True)
        )


def test_post_hoc_adjustment_subtracts_what_the_sampler_leaves() -> None:
    settings: Mapping[str, Any] = {"sampler": "square_root", "adjustment.tau": 1.0}
    method = short(override(METHODS["posthoc-la"], settings))
    fit = fit_head(method, TRAIN, CONTEXT, val=VAL)
    bare = fit_head(replace(method, stages=method.stages[:1]), TRAIN, CONTEXT, val=VAL)
    change = logits(fit) - logits(bare)
    expected = -0.5 * (COUNTS / COUNTS.sum()).log()
    change, expected = change - change[:, :1], expected - expected[0]
    torch.testing.assert_close(change, expected.expand_as(change), atol=1e-4, rtol=1e-4)
    assert fit.residual_prior == 0.0


def test_a_margin_for_another_scale_than_the_heads_is_refused() -> None:
    with pytest.raises(FitError, match="set loss.scale and head.scale to one value"):
        fit_head(override(METHODS["ldam-drw"], {"head.scale": 10}), TRAIN, CONTEXT, val=VAL)


def test_frozen_parameters_keep_their_bytes_and_factors_scale_the_rate() -> None:
    base = fitted("lws")
    method = short(METHODS["lws"])
    first = fit_head(replace(method, stages=method.stages[:1]), TRAIN, CONTEXT, val=VAL)
    assert torch.equal(base.head.state_dict()["weight"], first.head.state_dict()["weight"])
    assert not torch.equal(base.head.state_dict()["class_scale"], torch.ones(CLASSES))
