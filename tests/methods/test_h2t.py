"""Head-to-tail fusion as a second stage, as released, and the two forms that differ from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ltcache.errors import UsageError
from ltcache.fit import fit_head
from ltcache.heads import HEADS
from ltcache.losses import LDAM
from ltcache.methods import (
    METHODS,
    Optimisation,
    Train,
    counts_as_drawn,
    method_by_name,
    override,
    with_fusion,
)
from tests.fit.test_catalogue import CONTEXT, COUNTS, TRAIN, VAL, short

FUSED = sorted(name for name in METHODS if name.endswith("+h2t"))
TWO_STAGES = [name for name in FUSED if len(METHODS[name.removesuffix("+h2t")].stages) == 2]
ONE_STAGE = sorted({*FUSED} - {*TWO_STAGES})
BLOCKS = [name for name in ONE_STAGE if name != "ballad+h2t"]  # whose classifier is the texts
MADE = (
    *("bbn", "lfme", "ace", "gpaco", "paco", "oltr", "mbj", "ce+cmo", "bsce+cmo", "ride+cmo"),
    *("vl-ltr", "sade", "sage"),
)
FROZEN = {"bbn": "down up", "ace": "down up", "ride+cmo": "down up", "sade": "down up",
          "sage": "query key value output gamma"}  # fmt: skip


def last_of(name: str, settings: dict[str, Any] | None = None) -> Train:
    stage = override(METHODS[name], settings).stages[-1]
    assert isinstance(stage, Train)
    return stage


@pytest.mark.parametrize("name", FUSED)
def test_fusion_is_the_second_stage_and_keeps_the_partners_loss(name: str) -> None:
    partner, method = METHODS[name.removesuffix("+h2t")], METHODS[name]
    first, fused = method.stages
    assert first == partner.stages[0] and isinstance(fused, Train)
    assert (fused.init, fused.sampler, fused.partner) == ("previous", "class_balanced", "instance")
    assert fused.fusion == ("h2t",) and fused.fusion_options == {"ratio": 0.25}
    kept = partner.stages[-1]
    assert isinstance(kept, Train)
    assert (fused.head, fused.head_options) == (kept.head, kept.head_options)
    assert (fused.loss, fused.objective) == (kept.loss, kept.objective)


@pytest.mark.parametrize("name", TWO_STAGES)
def test_without_fusion_the_second_stage_is_the_partners_own(name: str) -> None:
    off = last_of(name, {"fusion": "none", "partner": "none"})
    assert replace(off, fusion_options={}) == last_of(name.removesuffix("+h2t"))


def test_class_weights_end_where_classes_are_drawn_equally_often() -> None:
    def weights(stage: Train) -> torch.Tensor:
        loss = LDAM(counts_as_drawn(stage, COUNTS), **stage.loss_options)
        found = loss.weights_at(1.0)
        assert found is not None
        return found

    assert torch.equal(weights(last_of("ride+h2t")), torch.ones(len(COUNTS)).double())
    assert weights(last_of("ride")).std() > 0


@pytest.mark.parametrize("name", BLOCKS)
def test_what_is_frozen_is_all_before_the_classifier(name: str) -> None:
    stage = last_of(name)
    head = HEADS[stage.head](CONTEXT, **stage.head_options)
    head.initialise(head.inits[0], TRAIN.features, TRAIN.labels, torch.Generator(), CONTEXT)
    head.classify(head.represent(TRAIN.features).detach()).square().sum().backward()
    frozen = [n for n, _ in head.named_parameters() if n.startswith(tuple(stage.lr_factors))]
    assert set(stage.lr_factors.values()) == {0.0}
    assert frozen == [n for n, p in head.named_parameters() if p.grad is None] != []


@pytest.mark.parametrize("name", BLOCKS)
def test_the_fused_stage_trains_the_classifier_alone(name: str) -> None:
    method = short(METHODS[name])
    before = fit_head(replace(method, stages=method.stages[:1]), TRAIN, CONTEXT, val=VAL)
    after = fit_head(method, TRAIN, CONTEXT, val=VAL)
    features = after.transform(VAL.features)
    assert torch.equal(after.head.represent(features), before.head.represent(features))
    assert not torch.equal(after.head(features), before.head(features))


def test_blocks_train_along_where_they_are_asked_to() -> None:
    method = short(override(METHODS["reslt+h2t"], {"lr_factors.branches": 1, "lr_factors.norm": 1}))
    before = fit_head(replace(method, stages=method.stages[:1]), TRAIN, CONTEXT, val=VAL).head
    after = fit_head(method, TRAIN, CONTEXT, val=VAL).head
    for key in ("branches", "norm.weight", "norm.running_mean"):
        assert not torch.equal(after.state_dict()[key], before.state_dict()[key]), key


@pytest.mark.parametrize("name", TWO_STAGES)
def test_a_third_stage_fuses_by_cross_entropy_after_the_partners_two(name: str) -> None:
    partner = METHODS[name.removesuffix("+h2t")]
    *stages, third = method_by_name(f"{name}-third").stages
    assert tuple(stages) == partner.stages and isinstance(third, Train)
    kept = partner.stages[-1]
    assert isinstance(kept, Train)
    assert third == Train(
        head=kept.head,
        head_options=kept.head_options,
        init="previous",
        sampler="class_balanced",
        partner="instance",
        fusion=("h2t",),
        fusion_options={"ratio": 0.25},
        optimisation=Optimisation(lr=3e-4, weight_decay=0.1, epochs=20),
    )


@pytest.mark.parametrize(
    ("name", "blocks"), [("ride+h2t", "down up"), ("reslt+h2t", "branches norm")]
)
def test_a_whole_head_by_cross_entropy_is_a_few_settings_away(name: str, blocks: str) -> None:
    factors = {f"lr_factors.{block}": 1 for block in blocks.split()}
    stage = last_of(name, {"loss": "cross_entropy", "objective": "mean", **factors})
    assert set(stage.lr_factors.values()) == {1.0}
    head = last_of(name.removesuffix("+h2t"))
    expected = Train(
        head=head.head,
        head_options=head.head_options,
        loss_options={"smooth_prior": False},
        init="previous",
        sampler="class_balanced",
        partner="instance",
        fusion=("h2t",),
        fusion_options={"ratio": 0.25},
        optimisation=Optimisation(lr=3e-4, weight_decay=0.1, batch=512, epochs=12),
    )
    assert replace(stage, lr_factors={}) == expected


@pytest.mark.parametrize("partner", MADE)
@pytest.mark.filterwarnings("error:the sampler .* already balances")
def test_a_method_is_made_a_partner_when_it_is_asked_for(partner: str) -> None:
    method = method_by_name(f"{partner}+h2t")
    assert method == with_fusion(METHODS[partner], "h2t") and method.name not in METHODS
    *before, fused = method.stages
    assert isinstance(fused, Train) and (fused.init, fused.fusion) == ("previous", ("h2t",))
    assert (fused.sampler, fused.partner) == ("class_balanced", "instance")
    trained = {name for name, factor in fused.lr_factors.items() if factor == 0}
    assert trained == set(FROZEN.get(partner, "").split())
    options = short(method)
    first = fit_head(
        replace(options, stages=options.stages[: len(before)]), TRAIN, CONTEXT, val=VAL
    )
    found = fit_head(options, TRAIN, CONTEXT, val=VAL)
    features = found.transform(VAL.features)
    assert not torch.equal(found.head(features), first.head(features))
    off = fit_head(override(method, method.ablation), TRAIN, CONTEXT, val=VAL)
    assert not torch.equal(found.head(features), off.head(features))
    if partner in FROZEN:
        assert torch.equal(found.head.represent(features), first.head.represent(features))


@pytest.mark.parametrize(
    ("partner", "loss", "objective"),
    [
        ("bsce+cmo", "cross_entropy", "mean"),  # balanced softmax corrects the prior
        ("sade", "cross_entropy", "mean"),
        ("lfme", "cross_entropy", "mean"),  # its experts are not the stage before
        ("focal", "focal", "mean"),
        ("ride+cmo", "ldam", "ride"),
        ("oltr", "cross_entropy", "oltr"),
        ("vl-ltr", "cross_entropy", "each_expert"),
    ],
)
def test_a_partner_keeps_its_loss_unless_classes_would_be_corrected_twice(
    partner: str, loss: str, objective: str
) -> None:
    method = method_by_name(f"{partner}+h2t")
    fused, own = method.stages[-1], METHODS[partner].stages[-1]
    assert isinstance(fused, Train) and isinstance(own, Train)
    assert (fused.loss, fused.objective) == (loss, objective)
    replaced = (own.loss, own.objective) != (loss, objective)
    assert ("takes plain cross entropy" in method.differs) == replaced


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("tade+h2t", "last stage is adjust"),
        ("post-ot+h2t", "last stage is adjust"),
        ("ncm+h2t", "last stage is solve"),
        ("dr+h2t+h2t", "fuses by H2T already"),
        ("ce+h2t", r"would be dr\+h2t"),
        ("sade+h2t-third", r"no second stage.*take sade\+h2t"),
        ("nothing+h2t", "unknown method"),
    ],
)
def test_what_is_no_partner_says_why(name: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        method_by_name(name)


def test_a_form_that_is_made_keeps_its_name_and_tells_its_changes() -> None:
    method = method_by_name("dr+h2t-third")
    assert override(method, None).name == "dr+h2t-third"
    changed = override(override(method, {"fusion.ratio": 0.5}), {"sampler": "class_aware"})
    assert changed.name == "dr+h2t-third (sampler=class_aware, fusion.ratio=0.5)"


def test_a_changed_partner_keeps_its_change() -> None:
    changed = override(METHODS["dr"], {"stages.0.optimisation.lr": 0.5})
    fused = with_fusion(changed, "h2t")
    assert fused.name == "dr+h2t" and fused.stages[0].optimisation.lr == 0.5
    assert with_fusion(METHODS["dr"], "h2t") is METHODS["dr+h2t"]
