"""Commands of ltcache in processes of their own that start at once.

A process is forked from a server that has imported everything heavy (see ``tests/warmed.py``), and
is otherwise as one that a shell started: arguments, environment and working directory of its own,
output to files, signals, a status. One server serves all tests of a pytest process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.conftest import PATIENCE

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.warmed"])


class StartedCommand:
    """A function that runs as a process.

    Args:
        task, arguments: what is called there, a function at the top of a module.
        cwd, environ: of the process; by default those of this one.
    """

    def __init__(
        self,
        task: Callable[..., None],
        *arguments: Any,
        cwd: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._texts = [tempfile.NamedTemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
        places = [file.name for file in self._texts]
        place = cwd or Path.cwd()
        inherited = dict(os.environ) if environ is None else dict(environ)
        self._process = _SERVER.Process(
            target=_run, args=(task, arguments, places, place, inherited)
        )
        self._process.start()

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.is_alive()

    @property
    def children(self) -> list[int]:
        """The numbers of the processes that it has started (on Linux)."""
        place = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(number) for number in place.read_text().split()]

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def finish(self) -> subprocess.CompletedProcess[str]:
        """Wait for the end; return the status and what was written."""
        self._process.join(PATIENCE)
        assert self._process.exitcode is not None, "it hangs"
        out, err = (file.read() for file in self._texts)
        for file in self._texts:
            file.close()
        return subprocess.CompletedProcess([], self._process.exitcode, out, err)


def start_ltcache(
    *arguments: object, cwd: Path | None = None, environ: Mapping[str, str] | None = None
) -> StartedCommand:
    """Start a command of ltcache, as typed."""
    return StartedCommand(ltcache, *map(str, arguments), cwd=cwd, environ=environ)


def ltcache(*arguments: str) -> None:
    """Run a command of ltcache in this process, and end it."""
    from ltcache.cli import main

    main(arguments)


def _run(
    task: Callable[..., None],
    arguments: Sequence[Any],
    places: Sequence[str],
    cwd: Path,
    environ: Mapping[str, str],
) -> None:
    """Become the process that was asked for: its streams, environment and folder; then the task."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by tests in the background
    for descriptor, place in zip((1, 2), places, strict=True):
        file = os.open(place, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(cwd)
    try:
        task(*arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
