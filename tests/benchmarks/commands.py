"""Commands of ltcache as a user runs them, measured as whole processes, one beside the other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median

from tests.class_folders import write_images

CLASSES = {"fox": 8, "jay": 4, "moth": 2, "newt": 1}
"""Class -> its share of the training images."""


@dataclass(frozen=True)
class Usage:
    """What a process took: seconds of the clock, of processors, of the kernel's part of those;
    minor page faults; most resident memory in MB."""

    wall: float
    cpu: float
    system: float
    faults: int
    peak: float


def run(command: Sequence[str], settings: Mapping[str, str]) -> Usage:
    """Run a command to its end, with more in its environment.

    Raises:
        RuntimeError: it failed.
    """
    begin = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: status {process.returncode}")
    return Usage(
        time.perf_counter() - begin,
        used.ru_utime + used.ru_stime,
        used.ru_stime,
        used.ru_minflt,
        used.ru_maxrss / 1024,
    )


@contextmanager
def busy(burners: int) -> Iterator[None]:
    """Let so many other processes use all the processor time they get."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(burners)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


class Newcomer:
    """A folder of images with a cache, and the commands that are measured on them.

    Args:
        work: folder for all of it. images: of the training split. size: of an image in pixels.
        model: of every command.
    """

    def __init__(self, work: Path, images: int, size: int, model: str) -> None:
        self.work = work
        self.program = [sys.executable, "-m", "ltcache"]
        for split, number in (("train", images), ("val", 4), ("test", 4)):
            share = number / sum(CLASSES.values())
            counts = {name: max(1, round(share * part)) for name, part in CLASSES.items()}
            write_images(work / "images" / split, counts, size)
        self.model = ["--model", model]
        self.cache = work / "cache"
        run([*self.program, *self._extract(self.cache)], {})

    def _extract(self, out: Path) -> list[str]:
        return ["extract", str(self.work / "images"), "--out", str(out), *self.model]

    def command(self, name: str) -> list[str]:
        """Return a command that writes a new folder: ``extract``, ``fit`` or ``finetune``."""
        out = self.work / "out"
        shutil.rmtree(out, ignore_errors=True)
        arguments = {
            "extract": self._extract(out),
            "fit": ["fit-adapter", str(self.cache), "--out", str(out)],
            "finetune": ["finetune", str(self.work / "images"), "--method", "lift", "--out",
                         str(out), "-s", "optimisation.epochs=1", *self.model],
        }  # fmt: skip
        return [*self.program, *arguments[name]]

    def pairs(
        self, name: str, one: Mapping[str, str], other: Mapping[str, str], repeats: int
    ) -> list[tuple[Usage, Usage]]:
        """Return what a command takes with one environment and the other, run in turn."""
        return [(run(self.command(name), one), run(self.command(name), other))
                for _ in range(repeats)]  # fmt: skip


WORK = ("extract", "fit", "finetune")


def compared(pairs: Sequence[tuple[Usage, Usage]]) -> str:
    """Return medians of both sides, and the medians over pairs of their ratios."""
    cells = []
    for field in fields(Usage):
        one, other = (
            [getattr(usage, field.name) for usage in side] for side in zip(*pairs, strict=True)
        )
        ratio = median(b / a if a else float("nan") for a, b in zip(one, other, strict=True))
        cells.append(f"{field.name} {median(one):.4g} -> {median(other):.4g} (x {ratio:.2f})")
    return ", ".join(cells)
