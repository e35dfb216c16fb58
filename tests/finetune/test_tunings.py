"""Fine-tunings as data: JSON and back, changes by dotted key, errors that help."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ltcache.encoder.adapters import TOWER_ADAPTERS
from ltcache.errors import UsageError
from ltcache.finetune import TUNINGS, FineTuning, override_tuning, tuning_by_name, tuning_settings
from ltcache.heads import HEADS
from ltcache.losses import LOSSES

ALL = pytest.mark.parametrize("name", TUNINGS)


@ALL
def test_is_json_and_comes_back(name: str) -> None:
    written = override_tuning(TUNINGS[name], None)
    plain = json.loads(json.dumps(written.to_dict()))
    assert (
        FineTuning.from_dict(plain).to_dict() == FineTuning.from_dict(written.to_dict()).to_dict()
    )
    assert json.loads(json.dumps(FineTuning.from_dict(plain).to_dict())) == plain


@ALL
def test_says_what_it_is(name: str) -> None:
    tuning = TUNINGS[name]
    assert tuning.title and tuning.reference and tuning.differs and tuning.equation
    assert tuning.fidelity == "exact" or tuning.mechanism
    assert all(adapter.name in TOWER_ADAPTERS for adapter in tuning.adapters)
    assert all(term.name in LOSSES for term in tuning.logit_terms)
    assert tuning.scores_texts or tuning.classifier.head in HEADS


@ALL
def test_every_setting_can_be_set_to_what_it_is(name: str) -> None:
    written = override_tuning(TUNINGS[name], None)
    same = override_tuning(written, tuning_settings(written))
    assert json.dumps(same.to_dict()) == json.dumps(written.to_dict())


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("optimisation.lr", "1e-3", 1e-3),
        ("optimisation.epochs", "3", 3),
        ("optimisation.clip", "1.5", 1.5),
        ("optimisation.clip", "none", None),
        ("image.train", "bias", "bias"),
        ("loss.tau", "0.5", 0.5),
        ("classifier.scale", "16", 16.0),
        ("classifier.init", "probe", "probe"),
        ("augmentation.scale", "0.5,1", [0.5, 1.0]),
        ("adapters.bottleneck", "8", 8),
        ("lr_factors.classifier", "10", 10.0),
        ("template", "an emoji of {}", "an emoji of {}"),
        ("sampler", "square_root", "square_root"),
    ],
)
def test_a_text_is_read_as_the_setting_is(key: str, value: str, read: Any) -> None:
    changed = override_tuning(TUNINGS["lift"], {key: value})
    assert tuning_settings(changed)[key] == read


def test_names_come_before_their_options() -> None:
    changed = override_tuning(
        TUNINGS["lift"],
        {"loss.p": 0.3, "loss_weights.contrastive": 0.5, "loss": "seesaw_static,contrastive"},
    )
    assert [(term.name, term.weight) for term in changed.terms] == [
        ("seesaw_static", 1.0),
        ("contrastive", 0.5),
    ]
    assert changed.terms[0].options["p"] == 0.3


def test_a_loss_that_needs_a_statistic_brings_it_along() -> None:
    changed = override_tuning(TUNINGS["lift"], {"loss": "compensated_logit_adjustment"})
    assert changed.statistic == "compensation"
    assert changed.statistic_options["estimator"] == "finite_sample"
    back = override_tuning(changed, {"loss": "cross_entropy"})
    assert back.statistic is None


def test_adapters_can_be_switched_off_and_changed() -> None:
    assert override_tuning(TUNINGS["sage"], {"adapters": "none"}).adapters == ()
    two = override_tuning(TUNINGS["sage"], {"adapters": "sg_adapter,lora"})
    assert [adapter.name for adapter in two.adapters] == ["sg_adapter", "lora"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"optimisation.epoch": 3}, "did you mean 'optimisation.epochs'"),
        ({"loss": "logit_adjustmen"}, "did you mean 'logit_adjustment'"),
        ({"adapters": "adaptfomer"}, "did you mean 'adaptformer'"),
        ({"classifier.head": "cosin"}, "did you mean 'cosine'"),
        ({"augmentation": "crop"}, "unknown augmentation 'crop'"),
        ({"sampler": "even"}, "unknown sampler 'even'"),
        ({"image.train": "some"}, "none of full, bias, layer_norm, none"),
        ({"optimisation.lr": "fast"}, "cannot be read as float"),
        ({"optimisation.lr": 0}, "must be positive"),
        ({"optimisation.precision": "fp8"}, "none of fp32, bf16, fp16"),
        ({"template": "a photo"}, "no place for the class"),
        ({"average": 2}, "within 0..1"),
        ({"loss": ""}, "nothing to minimise"),
    ],
)
def test_what_cannot_be_meant_is_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        override_tuning(TUNINGS["lift"], overrides)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'lift' or"):
        tuning_by_name("lift+")


@pytest.mark.parametrize(
    ("key", "released"),
    [
        ("optimisation.optimiser", "adamw"),
        ("optimisation.lr", 3.5e-5),
        ("optimisation.weight_decay", 0.05),
        ("optimisation.epochs", 50),
        ("optimisation.warmup", 5.0),
        ("optimisation.clip", None),
        ("optimisation.batch", 8 * 128),
        ("sampler", "square_root"),
        ("logit_scale", "trained"),
        ("loss.smoothing", 0.1),
        ("loss.distillation", 0.5),
        ("loss_weights.sentence_contrastive", 0.5),  # the mean of both directions
    ],
)
def test_vl_ltr_has_the_settings_of_the_released_code(key: str, released: Any) -> None:
    """ChangyaoTian/VL-LTR: configs/imagelt/pretrain/pretrain_vit16.py and defaults of main.py."""
    assert tuning_settings(override_tuning(TUNINGS["vl-ltr"], None))[key] == released
