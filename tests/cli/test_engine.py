"""``--engine ray`` of commands whose work is done in parts: what one pass gives, also where actors
die; on a cluster that is pretended, and on Ray itself where it is installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltcache.process import RESTARTS
from tests.conftest import Call
from tests.fake_ray import FakeRay, ray_itself, take_for_ray
from tests.process.test_ray_actors import with_ray
from tests.retrieval.conftest import CLASSES, World


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    world = World(tmp_path_factory.mktemp("world"))
    cache = world.labelled()
    return cache.path, world.pool(cache, np.repeat(np.arange(CLASSES), 20)).path


@pytest.fixture(params=["pretended", pytest.param("Ray", marks=[with_ray, pytest.mark.slow])])
def cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster of this machine, for several commands."""
    if request.param == "Ray":
        with ray_itself(monkeypatch):
            yield
    else:
        take_for_ray(FakeRay(), monkeypatch)
        yield


def test_commands_give_what_one_pass_gives(
    cluster: None, call: Call, caches: tuple[Path, Path], tmp_path: Path
) -> None:
    engine = ("--engine", "ray", "--actors", 2)
    asked = ("retrieve-tail", *caches, "--per-class", 5, "--per-source", 2, "--out")
    whole, by_actors = (call(*asked, tmp_path / "one"), call(*asked, tmp_path / "two", *engine))
    assert (by_actors[0], by_actors[1].splitlines()[:-2]) == (0, whole[1].splitlines()[:-2])
    for name in ("retrieved.parquet", "features.npz"):
        both = [tmp_path / out / name for out in ("one", "two")]
        assert both[0].exists() == both[1].exists()
        assert not both[0].exists() or both[0].read_bytes() == both[1].read_bytes()
    assert call("verify", caches[1], "--json") == call("verify", caches[1], "--json", *engine)
    damaged = shutil.copytree(caches[1], tmp_path / "damaged")
    shard = next(damaged.rglob("*.h5"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    told = call("verify", damaged, "--json")
    assert told[0] == 1
    assert call("verify", damaged, "--json", *engine) == told
    assert call("verify", damaged, "--repair", *engine)[0] == 0
    assert not shard.with_suffix(".json").exists()


def test_a_dead_actors_part_is_given_out_again(
    call: Call, caches: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def dies(_: int, given: Any) -> bool:
        calls.append(given[-1])
        return given[-1] == "2/3" and calls.count("2/3") <= times

    take_for_ray(FakeRay(dies=dies), monkeypatch)
    engine = ("--engine", "ray", "--actors", 3)
    times = RESTARTS
    assert call("verify", caches[1], "--json", *engine) == call("verify", caches[1], "--json")
    assert calls.count("2/3") == RESTARTS + 1
    times, calls[:] = RESTARTS + 1, []
    status, _, err = call("verify", caches[1], *engine)
    assert status == 1
    assert f"{caches[1]}: the actor of part 2/3 died" in err
    status, _, err = call("retrieve-tail", *caches, "--out", tmp_path / "r", *engine)
    assert (status, "the actor of part 2/3 died" in err) == (0, False)  # each its own count


def test_what_an_actor_refuses_is_refused(
    call: Call, caches: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_for_ray(FakeRay(), monkeypatch)
    out = ("--out", tmp_path / "r", "--engine", "ray")
    (tmp_path / "other").mkdir()
    world = World(tmp_path / "other", seed=5)
    other = world.pool(world.labelled(), np.arange(CLASSES)).path
    for status, said, words in (
        (4, "the encoder differs", ("retrieve-tail", caches[0], other, *out)),
        (2, "no effect with --engine", ("retrieve-tail", *caches, *out, "--part", "1/2")),
        (2, "no effect with --engine", ("retrieve-tail", *caches, *out, "--index", "flat")),
        (2, "no effect with --engine", ("retrieve-tail", *caches, *out, "--precision", "bf16")),
        (2, "no effect with --engine", ("retrieve-tail", *caches, *out, "--tsne")),
        (2, "--actors 9: the Ray cluster has 4", ("verify", caches[1], *out[2:], "--actors", 9)),
        (2, "no effect with --engine", ("verify", "--merge", caches[1], *out[2:])),
        (1, "not a feature cache", ("verify", tmp_path, *out[2:])),
    ):
        found, _, err = call(*words)
        assert (found, said in err) == (status, True), (words, err)
    assert not (tmp_path / "r").exists()
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    status, _, err = call("verify", caches[1], "--engine", "ray")
    assert status == 2
    assert "--engine ray needs Ray, which is not installed: pip install '.[ray]'" in err
    assert "--part and --merge need nothing else" in err


def test_a_device_that_an_actor_lacks(
    call: Call, caches: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_for_ray(FakeRay(), monkeypatch)
    words = ("retrieve-tail", *caches, "--out", tmp_path / "r", "--engine", "ray", "--device")
    status, _, err = call(*words, "cuda")
    assert (status, "cuda" in err) == (1, True)
    assert call(*words, "auto")[0] == 0
