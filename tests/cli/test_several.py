"""One command, several processes on this machine: the cache of one process, whatever happens."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import click
import pytest

from ltcache.cache import count_committed
from ltcache.cli import cli
from ltcache.cli.several import words_given
from tests.commands import StartedCommand, start_ltcache
from tests.conftest import PATIENCE, Call
from tests.extract.kill_driver import digests


def words(images: Path, model: Path, out: Path) -> list[object]:
    """Return a command that encodes 120 images in 30 shards."""
    return [
        "extract", images, "--out", out, "--model", f"local-dir:{model}",
        "--threads", 1, "--shard-size", 4, "--batch-size", 2,
    ]  # fmt: skip


def started(*arguments: object, **environ: str) -> StartedCommand:
    """Start a command whose second process dies after its second shard."""
    place = os.environ | {"LTCACHE_IMPORT": "tests.extract.dying"} | environ
    return start_ltcache(*arguments, environ=place)


@pytest.mark.slow
def test_the_others_finish_what_a_killed_process_left(
    folder_of_images: Path, tiny_clip: Path, tmp_path: Path, call: Call
) -> None:
    alone, out = tmp_path / "alone", tmp_path / "cache"
    assert call(*words(folder_of_images, tiny_clip, alone))[0] == 0
    ended = started(*words(folder_of_images, tiny_clip, out), "--processes", 3).finish()
    assert ended.returncode == 0, ended.stderr
    assert digests(out) == digests(alone)
    assert "1 of 3 processes were killed (signal 9); the others did their part" in ended.stderr
    assert "120 rows, 120 images; encoded" in ended.stdout
    assert "2 processes together" in ended.stdout
    assert (tmp_path / "died").exists()
    assert count_committed(out) == (120, 120)


@pytest.mark.slow
def test_an_interruption_ends_all_processes(
    folder_of_images: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    command = started(
        *words(folder_of_images, tiny_clip, out), "--processes", 2, SECOND_PROCESS="stays"
    )
    deadline = time.monotonic() + PATIENCE
    while count_committed(out)[0] < 8:  # of the second process; the first one waits
        assert command.running
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = command.children
    assert len(children) == 2
    command.send_signal(signal.SIGINT)
    ended = command.finish()
    assert ended.returncode == 130
    assert ended.stderr.count("interrupted; the same command goes on") == 1
    assert "Traceback" not in ended.stderr
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_an_error_of_the_processes_is_told_once_with_its_status(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = ["sh", "-c", "echo 'ltcache: no such image' >&2; exit 4"]
    monkeypatch.setattr("ltcache.cli.several._command", lambda *_: fails)
    found = call("extract", tmp_path, "--out", tmp_path / "cache", "--processes", 3)
    assert found == (4, "", "ltcache: no such image\n")


def test_that_all_processes_were_killed_is_an_error(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltcache.cli.several._command", lambda *_: ["sh", "-c", "kill -9 $$"])
    status, out, err = call("extract", tmp_path, "--out", tmp_path / "c", "--processes", 2)
    assert (status, out) == (1, "")
    assert "all 2 processes were killed (signal 9" in err


def test_a_command_line_is_given_on_as_it_was_meant(tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("gpus: all\nviews: flip\nmax-failures: 0.5\n")
    command = cli.commands["extract"]
    typed = ["-odd source", "--out", "a b", "--split", "test=0.2", "--split-by", "site"]
    typed += ["--split-by", "day", "--view-seed=-1", "--rehash", "--part", "1/2"]
    typed = [*typed[1:], "--config", str(settings), "--", typed[0]]
    before = command.make_context("extract", list(typed))
    given = words_given(before, ("gpus", "part"))
    after = command.make_context("extract", list(given))
    assert after.params == before.params | {"gpus": None, "part": None}
    assert not [word for word in given if "part" in word or "gpus" in word or "config" in word]


@pytest.mark.parametrize("gpus", ["none", "0", "-1"])
def test_a_number_of_gpus_that_cannot_be_meant(call: Call, tmp_path: Path, gpus: str) -> None:
    status, _, err = call("extract", "emoji_lt", "--out", tmp_path / "c", f"--gpus={gpus}")
    assert status == 2
    assert f"--gpus {gpus} is not all or a number from 1" in err


def test_more_gpus_than_there_are(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ["extract", "emoji_lt", "--out", tmp_path / "cache"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    status, _, err = call(*place, "--gpus", "all")
    assert status == 1
    assert "--gpus all: device 'cuda': " in err
    assert err.rstrip().endswith("use device 'cpu' or 'auto', without --gpus")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    status, _, err = call(*place, "--gpus", 3)
    assert status == 2
    assert "--gpus 3: torch sees 2 on this machine; --gpus all" in err


def test_processes_of_a_launcher_start_no_others(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in zip(
        ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"), "0202", strict=True
    ):
        monkeypatch.setenv(name, text)
    status, _, err = call("extract", "emoji_lt", "--out", tmp_path / "cache", "--processes", 2)
    assert status == 2
    assert "torchrun has started several processes on this machine" in err


def test_options_from_the_environment_reach_no_process_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ltcache.cli.several import _environments

    for name in ("PROCESSES", "GPUS", "PART", "CONFIG", "DEVICE", "VIEWS"):
        monkeypatch.setenv(f"LTCACHE_EXTRACT_{name}", "x")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    context = click.Context(cli.commands["extract"])
    context.params = {"part": "2/3"}
    first, second = _environments(context, 2)
    left = [name for name in second if name.startswith("LTCACHE_EXTRACT_")]
    assert left == ["LTCACHE_EXTRACT_VIEWS"]
    assert (first["RANK"], second["RANK"], second["WORLD_SIZE"]) == ("2", "3", "6")
    assert (second["LOCAL_RANK"], second["LOCAL_WORLD_SIZE"]) == ("1", "2")
    assert second["OMP_NUM_THREADS"] == "3"
