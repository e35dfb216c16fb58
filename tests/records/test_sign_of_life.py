"""Who sees another process at work waits for it, as long as it lives."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from ltcache.records import (
    at_work,
    remove_leftovers,
    seen_at_work,
    sign_of_life,
    wait_for_others,
)
from ltcache.records.files import temporary_path
from tests.conftest import PATIENCE


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_of_life, "_BEAT", 0.01)
    monkeypatch.setattr(sign_of_life, "_LOOK", 0.01)


def test_nobody_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "index"
    assert not wait_for_others(file, file.exists)
    file.touch()
    assert wait_for_others(file, file.exists)


def test_one_at_work_is_waited_for(tmp_path: Path) -> None:
    file, waiting = tmp_path / "folder" / "index", threading.Event()

    def done() -> bool:
        waiting.set()
        return file.exists()

    def work() -> None:
        assert waiting.wait(PATIENCE)
        file.touch()

    with at_work(file):
        thread = threading.Thread(target=work)
        thread.start()
        assert wait_for_others(file, done)
        thread.join()
    assert [path.name for path in file.parent.iterdir()] == ["index"]


def test_one_that_failed_is_not(tmp_path: Path) -> None:
    file = tmp_path / "index"
    with pytest.raises(ZeroDivisionError), at_work(file):
        raise ZeroDivisionError
    assert not wait_for_others(file, file.exists) and not list(tmp_path.iterdir())


def test_one_that_is_silent_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_of_life, "_SILENCE", 0.05)
    file = tmp_path / "index"
    temporary_path(file).touch()
    assert not wait_for_others(file, file.exists)
    remove_leftovers(tmp_path)  # this process lives
    assert len(list(tmp_path.iterdir())) == 1


def test_who_is_at_work_is_seen_and_the_dead_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "folder [1]"
    assert not seen_at_work(file)
    with at_work(file):
        assert seen_at_work(file)
    assert not seen_at_work(file)
    monkeypatch.setattr(sign_of_life, "_SILENCE", 60.0)
    ended = subprocess.Popen(["true"])
    ended.wait()
    sign = temporary_path(file)
    left = sign.with_name(sign.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-"))
    left.touch()
    assert not seen_at_work(file)  # at once: it is known to be dead
    assert not left.exists()
    monkeypatch.setattr(sign_of_life, "_SILENCE", 0.05)
    elsewhere = file.with_name(f".{file.name}.tmp-another.machine-1-abcd")
    elsewhere.touch()
    assert not seen_at_work(file)
    assert elsewhere.exists()
