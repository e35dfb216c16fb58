"""Runs in actors are those of processes; an actor that dies costs the runs that it had."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ltcache.ablate import ablate, ablate_on_ray
from ltcache.ablate.on_ray import ActorGroups
from ltcache.ablate.parallel import LostItem, run_groups
from ltcache.process import ActorShare, ray_cluster
from tests.ablate.test_ablate import SHORT, _cache, _entry
from tests.ablate.test_folds import HashedCache
from tests.conftest import Call
from tests.fake_ray import FakeRay, ray_itself, take_for_ray
from tests.process.test_ray_actors import with_ray

METHODS = ["ce", "crt", "ncm", "posthoc-la"]


class Letters:
    """Work whose memo tells which items it was asked for; one item may end its process."""

    def __init__(self, deadly: str = "") -> None:
        self.deadly = deadly

    def begin(self, group: Sequence[str]) -> dict[str, Any]:
        return {"of": "".join(group), "done": ""}

    def __call__(self, item: str, memo: dict[str, Any]) -> str:
        if item == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        memo["done"] += item
        return f"{memo['done']}/{memo['of']}"


GROUPS = [["a"], ["b", "c", "d"], ["e", "f"], ["g"]]
DONE = {"a/a", "b/bcd", "e/ef", "ef/ef", "g/g"}  # where the process ends at "c"


def test_the_items_of_a_group_share_a_memo_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    take_for_ray(FakeRay(), monkeypatch)
    with ray_cluster("no Ray") as cluster:
        found = list(ActorGroups(cluster, ActorShare(2, 1, 0))(GROUPS, Letters()))
        assert sorted(found) == sorted(run_groups(GROUPS, Letters(), 1))
        assert list(ActorGroups(cluster, ActorShare(2, 1, 0))([], Letters())) == []


def test_an_actor_that_dies_costs_only_what_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = take_for_ray(FakeRay(dies=lambda _, given: given[-1] == "c"), monkeypatch)
    with ray_cluster("no Ray") as cluster:
        found = list(ActorGroups(cluster, ActorShare(1, 1, 0))(GROUPS, Letters()))
    lost = [result for result in found if isinstance(result, LostItem)]
    assert sorted(result.item for result in lost) == ["c", "d"]
    assert "its actor died (The actor died unexpectedly" in lost[0].reason
    assert "Try fewer --actors" in lost[0].reason
    assert {result for result in found if isinstance(result, str)} == DONE
    assert len(ray.crew) == 2  # another one in its place


def test_no_more_actors_than_groups_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = take_for_ray(FakeRay(), monkeypatch)
    with ray_cluster("no Ray") as cluster:
        list(ActorGroups(cluster, ActorShare(64, 1, 0))(GROUPS[:2], Letters()))
    assert len(ray.crew) == 2


@pytest.mark.parametrize("folds", [None, 3])
def test_an_ablation_in_actors_is_that_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folds: int | None
) -> None:
    cache, seen = HashedCache() if folds else _cache(), []
    options = {"seeds": 2, "overrides": SHORT, "folds": folds, "progress": seen.append}
    one = ablate(cache, METHODS, tmp_path / "one", workers=1, **options)
    alone, seen[:] = [*seen], []
    take_for_ray(FakeRay(), monkeypatch)
    two = ablate_on_ray(cache, METHODS, tmp_path / "two", **options)
    for name in METHODS:
        for what in ("scores", "difference"):
            assert _entry(one, name)[what] == _entry(two, name)[what]
    assert [(p.stage, p.done, p.total) for p in seen] == [(p.stage, p.done, p.total) for p in alone]


def test_a_dead_actors_runs_are_failed_ones_and_are_made_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(_: int, given: Sequence[Any]) -> bool:
        return bool(given[-1].setting.name == "ncm" and given[-1].seed == 1)

    cache, options = _cache(), {"seeds": 2, "overrides": SHORT}
    take_for_ray(FakeRay(dies=dies), monkeypatch)
    found = ablate_on_ray(cache, ["ce", "ncm"], tmp_path, **options)
    (failure,) = found.failures
    assert (failure["name"], failure["seed"]) == ("ncm", 1)
    assert "its actor died" in failure["reason"]
    made = {run: run.stat().st_mtime_ns for run in tmp_path.rglob("run.json")}
    assert len(made) == 3
    take_for_ray(FakeRay(), monkeypatch)
    assert not ablate_on_ray(cache, ["ce", "ncm"], tmp_path, **options).failures
    again = {run: run.stat().st_mtime_ns for run in tmp_path.rglob("run.json")}
    assert len(again) == 4
    assert made.items() <= again.items()


def test_options_that_say_nothing_beside_the_engine(call: Call, tmp_path: Path) -> None:
    words = ["ablate", tmp_path, "--methods", "ce", "--out", tmp_path / "out"]
    status, _, err = call(*words, "--engine", "ray", "--workers", 2)
    assert (status, "--workers has no effect with --engine" in err) == (2, True)
    status, _, err = call(*words, "--actors", 2)
    assert (status, "--actors has no effect without --engine" in err) == (2, True)


@pytest.mark.slow
@with_ray
def test_actors_of_ray_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, options = _cache(), {"seeds": 2, "overrides": SHORT}
    one = ablate(cache, METHODS, tmp_path / "one", workers=1, **options)
    with ray_itself(monkeypatch) as cluster:
        two = ablate_on_ray(cache, METHODS, tmp_path / "two", actors=2, **options)
        for name in METHODS:
            assert _entry(one, name)["scores"] == _entry(two, name)["scores"]
        groups = ActorGroups(cluster, ActorShare(1, 1, 0))
        found = list(groups(GROUPS, Letters(deadly="c")))
    lost = [result for result in found if isinstance(result, LostItem)]
    assert sorted(result.item for result in lost) == ["c", "d"]
    assert "its actor died" in lost[0].reason
    assert len(lost[0].reason) < 1000
    assert {result for result in found if isinstance(result, str)} == DONE
