"""A changed recipe is not reported under its old name, and an unknown name finds others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ltcache.ablate.plan import settings_of
from ltcache.errors import UsageError
from ltcache.finetune import TUNINGS, override_tuning, tuning_by_name
from ltcache.fit import fit_adapter
from ltcache.methods import METHODS, Train, method_by_name, override
from ltcache.methods.catalogue import ENCODER_TUNINGS
from ltcache.runs.run import open_run
from tests.fakes import FakeCache, long_tail_counts


@pytest.mark.parametrize(
    ("name", "overrides", "shown"),
    [
        ("logit-adjustment", {"loss": "seesaw"}, "logit-adjustment (loss=seesaw)"),
        ("ce", {"head": "cosine", "init": "class_mean"}, "ce (head=cosine, init=class_mean)"),
        ("ce", {"sampler": "class_aware"}, "ce (sampler=class_aware)"),
        ("ce", {"loss": "logit_adjustment", "loss.tau": 0.5},
         "ce (loss=logit_adjustment, loss.tau=0.5)"),
        ("dr", {"stages.0.loss": "focal"}, "dr (stages.0.loss=focal)"),
        ("dr", {"smooth_prior": "true"}, "dr (smooth_prior=true)"),
        ("ride+h2t", {"fusion": "none", "partner": "none"}, "ride+h2t (fusion=none, partner=none)"),
        ("posthoc-la", {"adjustment.tau": 1}, "posthoc-la (adjustment.tau=1)"),
        ("ncm", {"feature.transform": "l2"}, "ncm (feature.transform=l2)"),
        ("ce", {"optimisation.epochs": 3, "optimisation.lr": 0.1}, "ce"),
        ("ce", {"loss": "cross_entropy"}, "ce"),
    ],
)  # fmt: skip
def test_a_changed_method_says_what_was_changed(
    name: str, overrides: dict[str, Any], shown: str
) -> None:
    method = override(METHODS[name], overrides)
    assert method.name == shown
    assert (method.title == METHODS[name].title) == (shown == name)
    assert override(method, None).name == shown  # a change is told once
    back = {"loss": METHODS[name].stages[-1].loss} if "loss" in overrides else None  # type: ignore[union-attr]
    if back is not None and len(overrides) == 1:
        assert override(method, back).name == name


@pytest.mark.parametrize("name", METHODS)
def test_a_method_as_it_is_keeps_its_name(name: str) -> None:
    method = override(METHODS[name], None)
    assert (method.name, method.title) == (name, METHODS[name].title)
    assert [type(s) for s in method.stages] == [type(s) for s in METHODS[name].stages]


def test_a_run_is_stored_and_read_under_the_changed_name(tmp_path: Path) -> None:
    cache: Any = FakeCache(long_tail_counts(5, 60, 6))
    settings = {"loss": "focal", "optimisation.epochs": 1}
    fit_adapter(cache, "logit-adjustment", tmp_path / "run", overrides=settings)
    run = open_run(tmp_path / "run")
    assert run.method.name == "logit-adjustment (loss=focal)"
    assert isinstance(run.method.stages[0], Train) and run.method.stages[0].loss == "focal"
    assert '"method": "logit-adjustment (loss=focal)"' in (tmp_path / "run/run.json").read_text()


def test_a_run_of_a_form_that_no_list_has_is_stored_and_read_under_its_name(tmp_path: Path) -> None:
    cache: Any = FakeCache(long_tail_counts(5, 60, 6))
    settings = {"optimisation.epochs": 1, "fusion.ratio": 0.5}
    fit_adapter(cache, "dr+h2t-third", tmp_path / "run", overrides=settings)
    run = open_run(tmp_path / "run")
    assert run.method.name == "dr+h2t-third (fusion.ratio=0.5)" and len(run.method.stages) == 3


def test_lines_of_an_ablation_say_what_is_changed_in_all_of_them() -> None:
    found, _ = settings_of(["ce", "ncm"], {"loss.gamma": [1, 2]}, overrides={"loss": "focal"})
    names = [setting.name for setting in found]
    assert names == ["ce (loss=focal), loss.gamma=1", "ce (loss=focal), loss.gamma=2", "ncm"]


@pytest.mark.parametrize(
    ("overrides", "shown"),
    [
        ({"loss": "seesaw"}, "lift (loss=seesaw)"),
        ({"adapters": "none", "image.train": "bias"}, "lift (adapters=none, image.train=bias)"),
        ({"smooth_prior": "true"}, "lift (smooth_prior=true)"),
        ({"optimisation.epochs": 3}, "lift"),
    ],
)
def test_a_changed_fine_tuning_says_what_was_changed(overrides: dict[str, Any], shown: str) -> None:
    tuning = override_tuning(TUNINGS["lift"], overrides)
    assert tuning.name == shown and override_tuning(tuning, None).name == shown


def test_an_unknown_name_suggests_a_few() -> None:
    with pytest.raises(UsageError, match="did you mean 'logit-adjustment'") as caught:
        method_by_name("logit-adjustmnt")
    assert len(str(caught.value)) < 200 and "ltcache methods" in str(caught.value)
    with pytest.raises(UsageError, match="did you mean 'lora'"):
        tuning_by_name("lorra")


def test_a_name_of_the_other_command_says_which_command() -> None:
    assert set(TUNINGS) - set(METHODS) == ENCODER_TUNINGS
    with pytest.raises(UsageError, match="ltcache finetune --method lift.*lift-lp"):
        method_by_name("lift")
    with pytest.raises(UsageError, match="ltcache fit-adapter --method sade"):
        tuning_by_name("sade")
