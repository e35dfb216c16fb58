"""Actors of a Ray cluster make the cache of one process, also where one of them dies."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from tests.commands import start_ltcache
from tests.conftest import Call
from tests.extract.kill_driver import digests

with_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs Ray: pip install '.[ray]'"
)


@pytest.mark.slow
@with_ray
def test_two_actors_of_which_one_is_killed(
    folder_of_images: Path, tiny_clip: Path, tmp_path: Path, call: Call
) -> None:
    alone, out = tmp_path / "alone", tmp_path / "cache"
    words = ["extract", folder_of_images, "--model", f"local-dir:{tiny_clip}", "--threads", 1]
    words += ["--shard-size", 4, "--batch-size", 2]
    assert call(*words, "--out", alone)[0] == 0
    ended = start_ltcache(
        "--import", "tests.extract.dying", *words, "--out", out, "--engine", "ray", "--actors", 2,
        cwd=Path(__file__).parents[2], environ=os.environ | {"RAY_ADDRESS": "local"},
    ).finish()  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "died").exists()
    assert digests(out) == digests(alone)
    assert "2 processes together" in ended.stdout


def test_without_ray_it_is_said_how_to_have_it(
    few_images: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    status, _, err = call("extract", few_images, "--out", tmp_path / "cache", "--engine", "ray")
    assert status == 2
    assert "--engine ray needs Ray, which is not installed: pip install '.[ray]'" in err
    assert not (tmp_path / "cache").exists()
