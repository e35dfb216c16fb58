"""Every method in METHODS as data, overrides, and the prior bookkeeping."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from ltcache.errors import FitError, UsageError
from ltcache.losses import LOSSES
from ltcache.methods import (
    METHODS,
    UNAVAILABLE,
    FeatureSpec,
    Method,
    Optimisation,
    Train,
    Transform,
    counts_as_drawn,
    known_overrides,
    method_by_name,
    override,
    residual_prior,
)
from ltcache.sampling import SAMPLERS

COUNTS = torch.tensor([100, 25, 4])


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_is_complete_and_survives_json(name: str) -> None:
    method = METHODS[name]
    assert method.name == name and method.title and method.reference and method.differs
    assert method.fidelity in ("exact", "analogue", "reconstruction")
    assert Method.from_dict(json.loads(json.dumps(method.to_dict()))) == method
    full = override(method, None)
    assert override(full, known_overrides(full)) == full


def _left(stage: Train) -> float:
    return residual_prior(stage, LOSSES[stage.loss](COUNTS, **stage.loss_options))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_names_what_exists_and_survives_a_round_trip(name: str) -> None:
    method = override(METHODS[name], {})
    assert Method.from_dict(json.loads(json.dumps(method.to_dict()))) == method
    assert override(method, known_overrides(METHODS[name])) is not None
    override(METHODS[name], METHODS[name].ablation)
    for stage in METHODS[name].stages:
        if isinstance(stage, Train):
            counts_as_drawn(stage, COUNTS)


@pytest.mark.parametrize(
    ("name", "left"),
    [("ce", 1.0), ("focal", 1.0), ("crt", 0.0), ("logit-adjustment", 0.0), ("lift-lp", 0.0)],
)
def test_which_prior_the_logits_of_a_method_carry(name: str, left: float) -> None:
    stage = METHODS[name].stages[-1]
    assert isinstance(stage, Train) and _left(stage) == left


@pytest.mark.parametrize("name", sorted(UNAVAILABLE))
def test_a_known_method_that_cannot_be_trained_says_what_it_needs(name: str) -> None:
    assert name not in METHODS and set(UNAVAILABLE[name].near) <= set(METHODS)
    with pytest.raises(UsageError, match="not trainable on cached features.*Needed: "):
        method_by_name(name)


def test_settings_reach_every_stage_and_fusion() -> None:
    settings = {"stages.0.loss": "focal", "stages.0.loss.gamma": 1, "fusion.ratio": "0.5"}
    method = override(method_by_name("dr+h2t-third"), {**settings, "sampler": "class_aware"})
    first, middle, last = method.stages
    assert first.loss_options["gamma"] == 1.0 and middle.loss == "cross_entropy"
    assert last.fusion_options == {"ratio": 0.5} and last.sampler == "class_aware"
    plain = override(METHODS["dr+h2t"], {"fusion": "none", "partner": "none"}).stages[-1]
    assert plain.fusion == () and plain.partner is None
    both = override(METHODS["dr+h2t"], {"fusion": "mixup,h2t", "fusion.alpha": 0.4}).stages[-1]
    assert both.fusion == ("mixup", "h2t") and both.fusion_options["alpha"] == 0.4


def test_a_value_that_is_given_is_no_longer_chosen() -> None:
    chosen = override(METHODS["posthoc-la"], {"choose.tau": "0.5,1"}).stages[-1]
    assert chosen.choose == {"tau": (0.5, 1.0)}
    given = override(METHODS["posthoc-la"], {"adjustment.tau": "0.75"}).stages[-1]
    assert given.choose == {} and given.options["tau"] == 0.75
    with pytest.raises(UsageError, match="no setting 'stages.5.loss'"):
        override(METHODS["ce"], {"stages.5.loss": "focal"})


def test_unknown_method_lists_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'logit-adjustment'"):
        method_by_name("logit_adjustment")
    assert method_by_name("ce") is METHODS["ce"]


def test_overrides_change_names_options_and_schedules() -> None:
    method = override(
        METHODS["ce"],
        {
            "loss": "logit_adjustment",
            "loss.tau": "0.5",
            "head": "cosine",
            "head.scale": 16,
            "init": "class_mean",
            "sampler": "square_root",
            "optimisation.epochs": "10",
            "feature.transform": "l2",
        },
    )
    stage = method.stages[-1]
    assert stage.loss_options == {"smooth_prior": False, "tau": 0.5}
    assert stage.head_options == {"scale": 16.0} and isinstance(stage.head_options["scale"], float)
    assert (stage.init, stage.sampler, stage.optimisation.epochs) == (
        "class_mean",
        "square_root",
        10,
    )
    assert method.feature.transform == "l2" and METHODS["ce"].stages[-1].loss == "cross_entropy"


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ({"loss.ta": 1}, "no setting 'loss.ta'"),
        ({"optimisation.epoch": 1}, "did you mean 'optimisation.epochs'"),
        ({"loss": "logit_adjustmen"}, "unknown loss .* did you mean 'logit_adjustment'"),
        ({"head.scale": 3}, "no setting 'head.scale'"),
        ({"optimisation.epochs": 2.5}, "cannot be read as int"),
        ({"loss.smooth_prior": "perhaps"}, "cannot be read as bool"),
        ({"optimisation.lr": "fast"}, "cannot be read as float"),
        ({"optimisation.lr": -1}, "must be positive"),
        ({"optimisation.batch": 0}, "at least 1"),
        ({"optimisation.optimiser": "lion"}, "none of adamw, sgd"),
        ({"optimisation.precision": "fp8"}, "none of fp32, bf16"),
        ({"feature.transform": "pca"}, "none of none, l2"),
        ({"feature.field": "words"}, "none of embedding"),
    ],
)
def test_bad_overrides_are_refused_with_the_nearest(overrides: dict, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        override(METHODS["ce"], overrides)


def test_none_asks_for_the_automatic_schedule() -> None:
    method = override(METHODS["ce"], {"optimisation.epochs": 7})
    assert override(method, {"optimisation.epochs": None}).stages[-1].optimisation.epochs is None
    assert override(method, {"optimisation.epochs": "none"}).stages[-1].optimisation.epochs is None
    assert override(method, {"feature.transform": "none"}).feature.transform == "none"


@pytest.mark.parametrize("rows", [1, 30, 300, 4_000, 115_846, 400_000])
def test_automatic_schedule_suits_every_size(rows: int) -> None:
    optimisation = Optimisation()
    batch, epochs = optimisation.batch_for(rows), optimisation.epochs_for(rows)
    assert 1 <= batch <= min(rows, 2048) and 8 <= epochs <= 200
    steps = epochs * -(-rows // batch)
    assert 100 <= steps <= 1700


def test_correcting_a_balanced_prior_is_refused_or_warned_about() -> None:
    stage = Train(loss="logit_adjustment", sampler="class_aware")
    with pytest.raises(FitError, match="second time"):
        counts_as_drawn(stage, COUNTS)
    with pytest.warns(UserWarning, match="second time"):
        counts = counts_as_drawn(stage, COUNTS, allow_double_correction=True)
    assert torch.equal(counts, COUNTS.double())


def test_a_partial_correction_of_balanced_draws_is_warned_of_unless_a_method_has_it() -> None:
    published = METHODS["gcl"].stages[-1]
    assert isinstance(published, Train) and published.loss == "gcl"
    assert torch.equal(counts_as_drawn(published, COUNTS), COUNTS.double())
    with pytest.warns(UserWarning, match="loss 'gcl' would correct the prior a second time"):
        counts_as_drawn(replace(published, init="random"), COUNTS)


def test_the_second_stage_of_gcl_before_it_had_its_loss_is_a_setting_away() -> None:
    settings = {"loss": "cross_entropy", "head.scale": 30.0}
    last = override(METHODS["gcl"], settings).stages[-1]
    assert isinstance(last, Train)
    assert (last.loss, last.head_options["scale"]) == ("cross_entropy", 30.0)
    assert last == override(METHODS["dr-cosine"], {"head.scale": 30.0}).stages[-1]


def test_a_correction_subtracts_only_what_the_sampler_leaves() -> None:
    stage = Train(loss="logit_adjustment", sampler="square_root")
    counts = counts_as_drawn(stage, COUNTS)
    torch.testing.assert_close(counts / counts[0], torch.tensor([1, 0.5, 0.2]).double())
    assert counts.sum() == COUNTS.sum()
    plain = counts_as_drawn(replace(stage, loss="cross_entropy"), COUNTS)
    assert torch.equal(plain, COUNTS.double())
    assert _left(replace(stage, loss="cross_entropy")) == 0.5


def test_fields_are_taken_in_order_of_preference() -> None:
    spec = FeatureSpec(field="pooled_or_embedding")
    assert spec.resolve({"embedding": 4, "pooled": 8}) == "pooled"
    assert spec.resolve({"embedding": 4}) == "embedding"
    joint = FeatureSpec(field="embedding_or_pooled")
    assert joint.resolve({"embedding": 4, "pooled": 8}) == "embedding"
    assert joint.resolve({"pooled": 8}) == "pooled"
    with pytest.raises(FitError, match="needs the field 'pooled'"):
        FeatureSpec(field="pooled").resolve({"embedding": 4})


@pytest.mark.parametrize("name", sorted(METHODS))
def test_only_heads_that_can_undo_a_standardisation_are_said_to(name: str) -> None:
    method = METHODS[name]
    if "a linear head can undo" in method.differs:
        heads = {stage.head for stage in method.stages if isinstance(stage, Train)}
        transforms = {stage.transform for stage in method.stages if isinstance(stage, Transform)}
        assert heads <= {"linear", "lws", "disalign"} and not transforms
        assert method.feature.transform == "standardize"


def test_a_sampler_is_credited_to_those_who_draw_so() -> None:
    assert "MiSLAS" not in SAMPLERS["class_balanced"].reference
    assert "draws with replacement, where MiSLAS draws class-aware" in METHODS["mislas"].differs
