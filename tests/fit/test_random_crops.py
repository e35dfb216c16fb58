"""Random crops of a cache that nobody trains on are told of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ltcache import cache as caches
from ltcache.ablate import ablate
from ltcache.fit import unused_random_crops
from ltcache.methods import METHODS, override
from tests.conftest import Call
from tests.fakes import FakeCache, long_tail_counts

SAID = "crt: trained on view center; the cache has random crops, too: -s feature.view=rrc:4"
QUICK = {"optimisation.epochs": 1}


@pytest.mark.parametrize(
    ("views", "name", "settings", "said"),
    [
        (("center", "rrc:4"), "crt", {}, SAID),
        (("center", "five"), "crt", {}, None),
        (("center", "rrc:4"), "crt", {"feature.view": "rrc:4"}, None),
        (("center", "rrc:4"), "gda", {}, None),
    ],
)
def test_a_method_that_could_train_on_random_crops_is_named(
    views: tuple[str, ...], name: str, settings: dict[str, Any], said: str | None
) -> None:
    assert unused_random_crops(views, [override(METHODS[name], settings)]) == said


def test_a_comparison_says_so_once_for_all_methods(tmp_path: Path) -> None:
    cache: Any = FakeCache(long_tail_counts(4, 30, 5), views={"rrc:4": 0.1})
    methods = ["crt", "ce", "gda"]
    options: dict[str, Any] = {"seeds": 1, "workers": 1, "overrides": QUICK}
    notes = ablate(cache, methods, tmp_path / "a", **options).comparison["notes"]
    assert [note for note in notes if "random crops" in note] == [SAID.replace(":", ", ce:", 1)]
    used = {**QUICK, "feature.view": "rrc:4"}
    notes = ablate(cache, ["crt"], tmp_path / "b", **{**options, "overrides": used})
    assert not any("random crops" in note for note in notes.comparison["notes"])


def test_a_fit_says_so(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake: Any = FakeCache(long_tail_counts(4, 30, 5), views={"rrc:4": 0.1})
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(caches, "open_cache", lambda path: fake)
    monkeypatch.setattr("ltcache.fit.adapter.open_cache", lambda path: fake)
    fit = ("fit-adapter", tmp_path / "cache", "--method", "crt")
    epochs = ("-s", "optimisation.epochs=1")
    status, _, err = call(*fit, *epochs, "--out", tmp_path / "a")
    assert status == 0, err
    assert f"note: {SAID}" in err
    used = ("-s", "feature.view=rrc:4")
    status, _, err = call(*fit, *epochs, *used, "--out", tmp_path / "b")
    assert status == 0 and "random crops" not in err
