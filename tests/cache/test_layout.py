"""A file of a cache is there whole, or it is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ltcache.cache import layout
from ltcache.cache.layout import committed, create_whole, remove_leftovers, write_whole


def temporaries(root: Path) -> list[str]:
    return [path.name for path in root.rglob(".*.tmp-*")]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    write_whole(path, b"old")

    def fail() -> None:
        with committed(path) as temporary:
            temporary.write_bytes(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    assert temporaries(tmp_path) == []


def test_only_one_creates(tmp_path: Path) -> None:
    assert create_whole(tmp_path / "plan.json", b"first")
    assert not create_whole(tmp_path / "plan.json", b"second")
    assert (tmp_path / "plan.json").read_bytes() == b"first"
    assert temporaries(tmp_path) == []


def test_only_one_creates_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(layout.os, "link", refuse)
    assert create_whole(tmp_path / "plan.json", b"first")
    assert not create_whole(tmp_path / "plan.json", b"second")
    assert (tmp_path / "plan.json").read_bytes() == b"first"


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = layout._host()
    (tmp_path / "views").mkdir()
    gone = tmp_path / "views" / f".00001.h5.tmp-{host}-{dead.pid}-0123abcd"
    kept = [
        tmp_path / f".cache.json.tmp-{host}-{os.getpid()}-0123abcd",
        tmp_path / f".cache.json.tmp-elsewhere-{dead.pid}-0123abcd",
        tmp_path / "views" / ".my.tmp-file",
    ]
    for path in (gone, *kept):
        path.touch()
    remove_leftovers(tmp_path)
    assert not gone.exists()
    assert all(path.exists() for path in kept)
