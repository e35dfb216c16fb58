"""Ways of doing one thing, timed in turn, and their ratios with the range over rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Ratio:
    """A ratio over rounds: the median, the least and the largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, above: Sequence[float], below: Sequence[float]) -> Ratio:
        """Return that of two ways that ran in turn, round by round."""
        found = [a / b for a, b in zip(above, below, strict=True)]
        return cls(statistics.median(found), min(found), max(found))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def seconds(run: Callable[[], object], clock: str) -> float:
    """Return the time of a call."""
    begin = CLOCKS[clock]()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return CLOCKS[clock]() - begin


def compare(
    runs: Mapping[str, Callable[[], object]], repeats: int, clock: str
) -> dict[str, list[float]]:
    """Return seconds of each of several calls, run in turn after one round of warming up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            spent = seconds(run, clock)
            if repeat:
                times[name].append(spent)
    return times
