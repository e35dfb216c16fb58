"""Showing how far a long piece of work is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from ltcache.records import cut

if TYPE_CHECKING:
    from typing_extensions import Self

    from ltcache.ablate import AblationProgress as AblationProgress
    from ltcache.extract import ExtractionProgress

_SECONDS = 5.0
_LEAST = 20  # columns of a terminal: a short bar, a slash, the time that is left and gaps


class ProgressBar:
    """A context manager that shows ``done`` of ``total``.

    Args:
        quiet: show nothing.

    Attributes:
        doing, did: the verb on a terminal and in a log.
    """

    doing, did = "working", "done"

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and not self._quiet:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Rich
            from rich.table import Column

            self._bar = Rich(  # in a narrow terminal the bar is what becomes shorter
                TextColumn(self.doing),
                BarColumn(),
                MofNCompleteColumn(table_column=Column(no_wrap=True)),
                TimeRemainingColumn(table_column=Column(no_wrap=True)),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=None, note="")
            self._bar.start()
        return self

    def show(self, done: int, total: int, note: str) -> None:
        """Show one state: at once on a terminal, every few seconds and at the end in a log."""
        if self._bar is not None:
            others = len(self.doing) + 2 * len(str(total)) + _LEAST
            note = cut(note, max(self._bar.console.width - others, _LEAST))
            self._bar.update(self._task, completed=done, total=total, note=note)
        elif not self._quiet and self._due(done, total):
            click.echo(f"{self.did} {done}/{total}, {note}", err=True)

    def say(self, line: str) -> None:
        """Write a line of its own to stderr."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            click.echo(line, err=True)

    def _due(self, done: int, total: int) -> bool:
        now = time.monotonic()
        if now - self._last < _SECONDS and done < total:
            return False
        self._last = now
        return True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            if self._bar.tasks[0].total is None:  # it ended before there was anything to show
                self._bar.live.transient = True
            self._bar.stop()


class ExtractionBar(ProgressBar):
    """Called with every :class:`ltcache.extract.ExtractionProgress`."""

    doing, did = "encoding", "encoded"

    def __call__(self, progress: ExtractionProgress) -> None:
        """Show one state."""
        note = f"{progress.rate:.0f} images/s, {progress.binding}"
        if progress.failed:
            note += f", {progress.failed} failed"
        self.show(progress.done, progress.total, note)


class TuningBar(ProgressBar):
    """Called with the records of :func:`ltcache.finetune.finetune`."""

    doing, did = "tuning", "tuned epochs"

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Show one state: whole epochs, and where the present one is."""
        note = f"loss {record['loss']:.3f}, {record['images_per_second']:.0f} images/s"
        if "step" in record:
            where = f"step {record['step']} of {record['steps']}"
            left = f"{record['eta_seconds']:.0f} s left"
            self.show(record["epoch"] - 1, record["epochs"], f"{where}, {left}, {note}")
            return
        if "val_mean_per_class" in record:
            note += f", val mean/class {100 * record['val_mean_per_class']:.1f} %"
        self._last = -math.inf  # the end of an epoch is always told
        self.show(record["epoch"], record["epochs"], note)


class AblationBar(ProgressBar):
    """Called with every :class:`ltcache.ablate.AblationProgress`."""

    doing, did = "fitting", "finished"

    def __call__(self, progress: AblationProgress) -> None:
        """Show one state."""
        note = f"{progress.stage}: {progress.name}"
        if progress.failed:
            note += f", {progress.failed} failed"
        self.show(progress.done, progress.total, note)


class CopyBar(ProgressBar):
    """Called with files done and files in all of :func:`ltcache.cache.copy_cache`."""

    doing, did = "copying", "copied files"

    def __call__(self, done: int, total: int) -> None:
        """Show one state."""
        self.show(done, total, "digests compared")
