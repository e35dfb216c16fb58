"""Several processes of one command on this machine: started, heard, awaited and stopped together.

Nothing is sent to them. Which share of the work a process takes, and that it takes what a dead one
left, are rules of the work itself: each learns from its environment which of how many it is.
"""

from __future__ import annotations

import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_POLL, _GRACE = 0.1, 10.0  # seconds between two looks, and until what was asked to end is killed
_ENDING = ("SIGTERM", "SIGHUP")  # SIGINT raises KeyboardInterrupt by itself


@dataclass(frozen=True)
class EndedProcess:
    """How a process ended.

    Args:
        status: its exit status; negative: the signal that killed it.
        output: what it wrote to stdout.
    """

    status: int
    output: str


class ProcessCrew:
    """Processes of one command.

    Args:
        command: its words.
        environs: the environment of each process.
        heard: called with every line that a process writes to stderr; a line that several write
            is given once.
    """

    def __init__(
        self,
        command: Sequence[str],
        environs: Sequence[Mapping[str, str]],
        heard: Callable[[str], None],
    ) -> None:
        self._command, self._environs, self._heard = command, environs, heard
        self._given: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._muted = False

    def run(self, fine: Sequence[int], waiting: Callable[[], None]) -> list[EndedProcess]:
        """Start all processes and return how they ended.

        The first that ends with a status of its own that is not ``fine`` is an error, for which
        the others are stopped; one that a signal killed is none. Ctrl-C and SIGTERM stop all.

        Args:
            waiting: called again and again until all have ended.

        Returns:
            One of each process; the one with the error alone where there is one.
        """
        members: list[_CrewMember] = []
        try:
            with _raised_when_told_to_end():
                with _interruptible():
                    members += (_CrewMember(self._command, e, self._tell) for e in self._environs)
                while any(member.running for member in members):
                    if failed := [m for m in members if m.failed(fine)]:
                        return [failed[0].ended()]
                    waiting()
                    time.sleep(_POLL)
                failed = [member for member in members if member.failed(fine)]
                return [member.ended() for member in failed[:1] or members]
        finally:
            self._muted = True
            _stop(members)

    def _tell(self, line: str, times: int) -> None:
        """Give a line that a process writes for the n-th time, if none has done so before."""
        with self._lock:
            if not self._muted and times > self._given[line]:
                self._given[line] = times
                self._heard(line)


class _CrewMember:
    """One process: what it writes is read as it comes, so that it never waits for a reader.

    It has a session of its own: Ctrl-C reaches it once, from the process that started it.
    """

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], tell: Callable[[str, int], None]
    ) -> None:
        self._output = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(tell,), daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def failed(self, fine: Sequence[int]) -> bool:
        """Whether it ended with a status that is not fine; a signal gives it none of its own."""
        status = self.process.poll()
        return status is not None and status >= 0 and status not in fine

    def ended(self) -> EndedProcess:
        """Return how it ended, once all that it wrote is read."""
        self._reader.join(_GRACE)
        self._output.seek(0)
        return EndedProcess(self.process.returncode, self._output.read())

    def _read(self, tell: Callable[[str, int], None]) -> None:
        seen: Counter[str] = Counter()
        assert self.process.stderr is not None
        for line in self.process.stderr:
            seen[line] += 1
            tell(line.rstrip("\n"), seen[line])

    def close(self) -> None:
        self._reader.join(_GRACE)
        assert self.process.stderr is not None
        self.process.stderr.close()
        self._output.close()


def _stop(members: Sequence[_CrewMember]) -> None:
    """Interrupt what still runs, and kill what does not end in time."""
    for member in members:
        if member.running:
            member.process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + _GRACE
    for member in members:
        try:
            member.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            member.process.kill()
            member.process.wait()
        member.close()


@contextmanager
def _raised_when_told_to_end() -> Iterator[None]:
    """Let signals that would end this process at once raise SystemExit, so that others end, too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in _ENDING if hasattr(signal, name)]
    before = {number: signal.signal(number, _end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let what is started here be interrupted, also where this process ignores interruptions: a job
    in the background of a script does, and what it starts would inherit that."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
