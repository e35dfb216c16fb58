"""Which of several views a method trains on: what a cache has decides, and the run says which."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltcache.ablate import ablate, tune
from ltcache.errors import CacheError
from ltcache.fit import fit_adapter
from ltcache.methods import METHODS, FeatureSpec
from ltcache.runs import open_run
from tests.fakes import FakeCache, long_tail_counts

COUNTS = long_tail_counts(5, 40, 4)
SHORT = {"optimisation.epochs": 2}


@pytest.mark.parametrize(
    ("view", "views", "taken"),
    [
        ("rrc|center", ["center"], "center"),
        ("rrc|center", ["center", "rrc:2", "rrc:16", "rrc:4"], "rrc:16"),
        ("rrc|center", ["center", "rrc:1", "cmo:2"], "center"),  # one crop is no choice of crops
        ("rrc|rrc:2", ["center", "rrc:4"], "rrc:4"),
        ("rrc|rrc:2", ["center"], "rrc:2"),
        ("rrc:2", ["center", "rrc:4"], "rrc:2"),  # a name is that view and no other
        ("center", ["center", "rrc:4"], "center"),
    ],
)
def test_the_first_alternative_that_is_there(view: str, views: list[str], taken: str) -> None:
    assert FeatureSpec(view=view).on_views(views).view == taken


def test_a_run_a_tuning_and_an_ablation_train_on_the_crops_that_are_there(tmp_path: Path) -> None:
    plain, more = FakeCache(COUNTS), FakeCache(COUNTS, views={"rrc:4": 0.3})
    run = fit_adapter(more, "lift-lp", overrides=SHORT)
    assert run.method.feature.view == "rrc:4" and run.method.name.startswith("lift-lp")
    named = fit_adapter(more, "lift-lp", overrides={**SHORT, "feature.view": "rrc:4"})
    assert run.metrics == named.metrics
    center = fit_adapter(more, "lift-lp", overrides={**SHORT, "feature.view": "center"})
    assert center.metrics == fit_adapter(plain, "lift-lp", overrides=SHORT).metrics != run.metrics
    assert tune(more, "lift-lp", trials=1, overrides=SHORT).space["feature.view"][0] == "rrc:4"
    found = ablate(more, ["lift-lp"], tmp_path / "out", seeds=1, overrides=SHORT, workers=1)
    place = tmp_path / "out" / found.comparison["entries"][0]["runs"][0]
    assert open_run(place).method.feature.view == "rrc:4"


@pytest.mark.parametrize("name", ["paco", "gpaco", "mbj"])
def test_what_needs_random_crops_takes_any_and_says_how_to_get_them(name: str) -> None:
    quick = {"optimisation.epochs": 1}
    run = fit_adapter(FakeCache(COUNTS, views={"rrc:3": 0.3}), name, overrides=quick)
    assert run.method.feature.view == "rrc:3"
    with pytest.raises(CacheError, match="no view 'rrc:2'"):
        fit_adapter(FakeCache(COUNTS), name, overrides=quick)
    assert METHODS[name].feature.view == "rrc|rrc:2"
