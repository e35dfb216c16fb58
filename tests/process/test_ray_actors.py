"""What actors share, where their errors end up, and that a dead one's part is given out again."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ltcache.errors import CacheError, UsageError
from ltcache.process import RESTARTS, ActorShare, DeadActor, ray_cluster
from ltcache.process.ray_actors import _share
from tests.fake_ray import FakeRay, TaskError, ray_itself, take_for_ray

with_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs Ray: pip install '.[ray]'"
)


@pytest.mark.parametrize(
    ("resources", "machines", "actors", "expected"),
    [
        ({"CPU": 64.0, "GPU": 8.0}, 2, None, ActorShare(8, 8, 1)),
        ({"CPU": 64.0, "GPU": 8.0}, 2, 4, ActorShare(4, 16, 1)),
        ({"CPU": 4.0, "GPU": 8.0}, 1, None, ActorShare(8, 1, 1)),
        ({"CPU": 64.0}, 2, None, ActorShare(2, 32, 0)),
        ({"CPU": 2.0}, 1, 2, ActorShare(2, 1, 0)),
    ],
)
def test_actors_divide_the_cluster(
    resources: dict[str, float], machines: int, actors: int | None, expected: ActorShare
) -> None:
    assert _share(resources, machines, actors) == expected


def test_work_that_needs_no_gpu_takes_none() -> None:
    cluster = {"CPU": 64.0, "GPU": 8.0}
    assert _share(cluster, 2, None, gpus=False) == ActorShare(2, 32, 0)
    assert _share(cluster, 2, None, gpus=False, each_processor=True) == ActorShare(64, 1, 0)
    assert _share(cluster, 2, 5, gpus=False, each_processor=True) == ActorShare(5, 1, 0)
    assert _share(cluster, 2, None, each_processor=True) == ActorShare(8, 8, 1)


@pytest.mark.parametrize(("gpus", "told"), [(2.0, "has 2 GPUs"), (0.0, "has 4 processors")])
def test_a_cluster_that_is_too_small(gpus: float, told: str) -> None:
    with pytest.raises(UsageError, match=f"--actors 5: the Ray cluster {told}"):
        _share({"CPU": 4.0, "GPU": gpus}, 1, 5)


def squares(power: int) -> Callable[[list[int], str], list[int]]:
    """Return what computes the powers of every N-th of some numbers."""

    def of_part(numbers: list[int], part: str) -> list[int]:
        first, count = map(int, part.split("/"))
        return [number**power for number in numbers[first - 1 :: count]]

    return of_part


def refuse(error: Exception) -> Callable[..., None]:
    """Return what raises."""

    def raise_it(*_: Any) -> None:
        raise error

    return raise_it


def test_each_actor_does_its_part_and_a_dead_one_again(monkeypatch: pytest.MonkeyPatch) -> None:
    deaths: list[int] = []

    def dies(actor: int, _: Sequence[Any]) -> bool:
        deaths.append(actor)
        return actor == 2 and deaths.count(2) <= RESTARTS

    ray, looks = take_for_ray(FakeRay(dies=dies), monkeypatch), []
    with ray_cluster("no Ray") as cluster:
        share = cluster.share(3)
        found = cluster.parts(
            partial(squares, 2), share, [1, 2, 3, 4], waiting=lambda: looks.append(1)
        )
    assert found == [[1, 16], [4], [9]]
    assert deaths.count(2) == RESTARTS + 1
    assert looks
    assert not ray.running


def test_one_that_dies_always_leaves_its_part_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    take_for_ray(FakeRay(dies=lambda actor, _: actor == 1), monkeypatch)
    with ray_cluster("no Ray") as cluster:
        dead, alive = cluster.parts(partial(squares, 1), cluster.share(2), [1, 2])
    assert isinstance(dead, DeadActor)
    assert "died unexpectedly" in dead.reason
    assert alive == [2]


def test_errors_come_as_they_were_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = take_for_ray(FakeRay(), monkeypatch)
    with ray_cluster("no Ray") as cluster:
        for error in (CacheError("it is damaged"), OSError("the disk is full")):
            with pytest.raises(type(error), match=str(error)):
                cluster.parts(partial(refuse, error), cluster.share(2))
        with pytest.raises(TaskError, match="no such number"):  # a fault of ours keeps its trace
            cluster.parts(partial(refuse, KeyError("no such number")), cluster.share(2))
    assert not ray.running


def test_a_cluster_that_was_there_is_left_running(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = take_for_ray(FakeRay(), monkeypatch)
    ray.running = True
    with ray_cluster("no Ray"):
        pass
    assert ray.running


def die_once(mark: Path) -> Callable[[str], int]:
    """Return what kills its process in the second part, the first time."""

    def work(part: str) -> int:
        if part.startswith("2/") and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return int(part[0])

    return work


@pytest.mark.slow
@with_ray
def test_ray_itself_gives_a_dead_actors_part_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ray_itself(monkeypatch) as cluster:
        found = cluster.parts(partial(die_once, tmp_path / "died"), cluster.share(2))
        assert (tmp_path / "died").exists()
        assert found == [1, 2]
        with pytest.raises(CacheError, match="it is damaged"):
            cluster.parts(partial(refuse, CacheError("it is damaged")), cluster.share(1))
