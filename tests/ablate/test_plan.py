"""The product of choices: what is taken, what is left out with a note, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ltcache.ablate import settings_of
from ltcache.errors import UsageError
from ltcache.methods import METHODS, override


def test_the_product_has_each_line_once() -> None:
    found, notes = settings_of(
        ["ce", "logit-adjustment"], {"loss.tau": ["0.5", "1"], "optimisation.lr": [1e-3, 1e-2]}
    )
    assert [setting.name for setting in found] == [
        "ce, optimisation.lr=0.001",
        "ce, optimisation.lr=0.01",
        "logit-adjustment, loss.tau=0.5, optimisation.lr=0.001",
        "logit-adjustment, loss.tau=0.5, optimisation.lr=0.01",
        "logit-adjustment, loss.tau=1, optimisation.lr=0.001",
        "logit-adjustment, loss.tau=1, optimisation.lr=0.01",
    ]
    assert notes == ["loss.tau is no setting of ce: left out there"]
    assert found[2].method.stages[0].loss_options["tau"] == 0.5  # type: ignore[union-attr]
    assert found[3].overrides == {"loss.tau": "0.5", "optimisation.lr": 1e-2}


def test_names_come_before_what_they_decide() -> None:
    found, notes = settings_of(["ce"], {"head.scale": [10.0, 20.0], "head": ["linear", "cosine"]})
    assert [setting.name for setting in found] == [
        "ce, head=linear",
        "ce, head.scale=10.0, head=cosine",
        "ce, head.scale=20.0, head=cosine",
    ]
    assert notes == ["head.scale is no setting of ce: left out there"]


def test_a_setting_that_no_method_has_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no method has a setting 'loss.tua'.*'loss.tau'"):
        settings_of(["ce", "logit-adjustment"], {"loss.tua": [1]})
    with pytest.raises(UsageError, match=r"no method has a setting 'optimisation.epoch'"):
        settings_of(["ce"], overrides={"optimisation.epoch": 3})
    with pytest.raises(UsageError, match="cannot be read as float"):
        settings_of(["ce", "logit-adjustment"], {"loss.tau": ["much"]})
    with pytest.raises(UsageError, match="unknown method 'crtt'; did you mean 'crt'"):
        settings_of(["crtt"])


def test_overrides_reach_every_method_that_has_them_and_do_not_rename() -> None:
    found, notes = settings_of(["ce", "ncm"], overrides={"optimisation.epochs": 3})
    assert [setting.name for setting in found] == ["ce", "ncm"]
    assert found[0].method.stages[0].optimisation.epochs == 3  # type: ignore[union-attr]
    assert notes == ["optimisation.epochs is no setting of ncm: left out there"]


def test_two_methods_of_one_name_are_refused_where_one_of_them_would_be_left_out() -> None:
    ce, slow = METHODS["ce"], override(METHODS["ce"], {"optimisation.lr": 1e-4})
    with pytest.raises(UsageError, match=r"different methods are called 'ce'.*a name of its own"):
        settings_of([ce, slow])
    found, _ = settings_of([ce, replace(slow, name="slow ce"), override(ce, None)])
    assert [setting.name for setting in found] == ["ce", "slow ce"]


def test_a_fusion_is_another_form_of_a_method() -> None:
    found, notes = settings_of(["dr", "ncm", "sade"], fusion=["none", "h2t"])
    assert [s.name for s in found] == ["dr", "dr+h2t", "ncm", "sade", "sade+h2t"]
    assert found[1].method.title == METHODS["dr+h2t"].title
    (note,) = notes
    assert note.startswith("ncm has no form with fusion") and note.endswith("; left out")
    only, _ = settings_of(["dr"], fusion=["h2t", "h2t-third"])
    assert [setting.name for setting in only] == ["dr+h2t", "dr+h2t-third"]
    with pytest.raises(UsageError, match=r"none of the methods.*'h2t': ncm.*such as dr"):
        settings_of(["ncm"], fusion=["none", "h2t"])
    with pytest.raises(UsageError, match="none of the methods.*'h3t'.*known: h2t, h2t-third"):
        settings_of(["dr"], fusion=["h3t"])


def test_a_stage_can_be_named() -> None:
    found, _ = settings_of(["dr"], {"stages.0.optimisation.lr": [1e-2]})
    first, last = found[0].method.stages[0], found[0].method.stages[-1]
    assert first.optimisation.lr == 1e-2 != last.optimisation.lr  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="no method has a setting"):
        settings_of(["dr"], {"stages.9.optimisation.lr": [1e-2]})
