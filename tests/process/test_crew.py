"""Processes that are started, heard and stopped together."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from ltcache.process import EndedProcess, ProcessCrew


def run(script: str, count: int = 3) -> tuple[list[EndedProcess], list[str]]:
    """Run a shell script in several processes, each with its number as $N."""
    heard: list[str] = []
    environs = [dict(os.environ, N=str(number)) for number in range(count)]
    crew = ProcessCrew(["sh", "-c", script], environs, heard.append)
    return crew.run((0, 3), lambda: None), heard


def test_output_and_status_of_each_and_common_lines_once() -> None:
    ended, heard = run(
        "echo out $N; echo same >&2; echo same >&2; echo own $N >&2; exit $((3*N))", 2
    )
    assert ended == [EndedProcess(0, "out 0\n"), EndedProcess(3, "out 1\n")]
    assert sorted(heard) == ["own 0", "own 1", "same", "same"]


def test_an_error_ends_the_others_and_is_all_that_is_heard() -> None:
    ended, heard = run(
        "[ $N = 1 ] && { echo broken >&2; exit 4; }; trap 'echo late >&2; exit 130' INT; "
        "while :; do sleep 0.05; done"
    )
    assert ended == [EndedProcess(4, "")]
    assert heard == ["broken"]


def test_a_killed_process_is_no_error() -> None:
    ended, _ = run("[ $N = 1 ] && kill -9 $$; sleep 0.2; echo $N")
    assert ended == [EndedProcess(0, "0\n"), EndedProcess(-9, ""), EndedProcess(0, "2\n")]


def test_a_process_that_ignores_the_interruption_is_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ltcache.process.crew._GRACE", 0.2)
    ended, _ = run("[ $N = 1 ] && exit 1; trap '' INT; while :; do sleep 0.05; done", 2)
    assert ended == [EndedProcess(1, "")]


def test_a_signal_to_end_stops_all_and_leaves_the_handlers_as_they_were(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(SystemExit) as end:
        run(f"trap 'touch {tmp_path}/$N; exit 0' INT; while :; do sleep 0.05; done", 2)
    assert end.value.code == 128 + signal.SIGTERM
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_processes_are_interrupted_by_one_that_ignores_interruptions_itself(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script
    try:
        ends = f"trap 'touch {tmp_path}/ended; exit 0' INT; while :; do sleep 0.05; done"
        ended, _ = run(f"[ $N = 1 ] && sleep 0.5 && exit 1; {ends}", 2)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == [EndedProcess(1, "")] and (tmp_path / "ended").is_file()
