"""A command with all processes that belong to it: their time and their memory together."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_MARK = "LTCACHE_BENCHMARK_RUN"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measured:
    """A run: its status, seconds of the clock and of processors, most PSS in MB, last words."""

    status: int
    wall: float
    cpu: float
    peak: float
    said: str


def measured(
    command: Sequence[str],
    settings: Mapping[str, str],
    kill_when: Callable[[], bool] | None = None,
    period: float = 1.0,
) -> Measured:
    """Run a command; kill all its processes once ``kill_when`` says so.

    Args:
        settings: more of its environment. period: seconds between two looks at its memory.
    """
    mark, begun = uuid.uuid4().hex, time.perf_counter()
    with tempfile.TemporaryFile("w+", errors="replace") as text:
        process = subprocess.Popen(
            command, env={**os.environ, **settings, _MARK: mark}, stdout=text,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        seconds: dict[int, float] = {}
        peak = 0.0
        while process.poll() is None:
            seen = {pid: _look(pid) for pid in _of_run(mark)}
            seconds |= {pid: cpu for pid, (cpu, _) in seen.items() if cpu}
            peak = max(peak, sum(pss for _, pss in seen.values()))
            if kill_when is not None and kill_when():
                for pid in _of_run(mark):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(period)
        wall = time.perf_counter() - begun
        for pid in _of_run(mark):  # Ray's, which end a little later
            os.kill(pid, signal.SIGTERM)
        text.seek(0)
        said = [line for line in text.read().splitlines() if line.strip()]
    return Measured(process.returncode, wall, sum(seconds.values()), peak, "\n".join(said[-3:]))


def _of_run(mark: str) -> Iterator[int]:
    """Yield the processes that belong to a run, whoever their parent is now."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if f"{_MARK}={mark}".encode() in (entry / "environ").read_bytes():
                    yield int(entry.name)
            except OSError:
                continue


def _look(pid: int) -> tuple[float, float]:
    """Return processor seconds and PSS in MB of a process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    pss = next((int(line.split()[1]) for line in rollup if line.startswith("Pss:")), 0)
    return (int(fields[11]) + int(fields[12])) / _TICKS, pss / 1024
