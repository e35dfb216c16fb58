"""Settings by dotted key: whatever a user writes is taken or refused in words."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from ltcache.errors import UsageError
from ltcache.finetune.methods import TUNINGS
from ltcache.finetune.overrides import override_tuning, tuning_settings
from ltcache.methods import METHODS, has_setting, known_overrides, override, read_setting

ODD: tuple[Any, ...] = ("none", "x", "", "0.5,1", 2, 0.25, True, None, (1, 2))


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize("name", ["ce", "dr+h2t", "posthoc-la", "sage", "tip-adapter"])
def test_a_setting_of_a_method_takes_a_value_or_refuses_it(name: str, value: Any) -> None:
    for key in known_overrides(METHODS[name]):
        with contextlib.suppress(UsageError):  # any other error fails the test
            assert override(METHODS[name], {key: value}).stages


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize("name", ["lift", "wise-ft"])
def test_a_setting_of_a_fine_tuning_takes_a_value_or_refuses_it(name: str, value: Any) -> None:
    for key in tuning_settings(TUNINGS[name]):
        with contextlib.suppress(UsageError):  # any other error fails the test
            assert override_tuning(TUNINGS[name], {key: value}).terms


@pytest.mark.parametrize("name", ["epochs", "lr", "min_steps"])
def test_none_is_refused_where_a_number_is_needed(name: str) -> None:
    key = f"optimisation.{name}"
    with pytest.raises(UsageError, match=f"{key}='none' cannot be read as"):
        override_tuning(TUNINGS["lift"], {key: "none"})


def test_several_values_are_read_as_the_first_of_those_there_are() -> None:
    assert read_setting("scale", "0.5,1", (0.08, 1.0)) == (0.5, 1.0)
    assert read_setting("order", "b,a", ["a"]) == ["b", "a"]


def test_a_key_of_a_stage_is_known_as_it_can_be_changed() -> None:
    method = METHODS["posthoc-la"]
    for key in ("smooth_prior", "feature.view", "stages.0.loss", "stages.1.adjustment.tau"):
        assert has_setting(method, key) and override(method, {key: known_or(method, key)})
    for key in ("stages.0.smooth_prior", "stages.0.feature.view", "stages.7.loss", "los"):
        assert not has_setting(method, key)
        with pytest.raises(UsageError, match="no setting"):
            override(method, {key: 1})


def known_or(method: Any, key: str) -> Any:
    """Return the present value of a key, that of a stage by its last part."""
    known = known_overrides(method)
    return known[key] if key in known else known[key.split(".", 2)[2]]
