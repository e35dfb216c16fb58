"""Showing how far a long piece of work is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ltcache.extract import Progress

_SECONDS = 5.0


class ExtractionBar:
    """A context manager that is called with every :class:`ltcache.extract.Progress`."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._last = time.monotonic()

    def __enter__(self) -> ExtractionBar:
        if sys.stderr.isatty() and not self._quiet:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("encoding"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=None, note="")
            self._bar.start()
        return self

    def __call__(self, progress: Progress) -> None:
        """Show one state."""
        note = f"{progress.rate:.0f} images/s, {progress.binding}"
        if progress.failed:
            note += f", {progress.failed} failed"
        if self._bar is not None:
            self._bar.update(self._task, completed=progress.done, total=progress.total, note=note)
        elif not self._quiet and self._due(progress):
            click.echo(f"encoded {progress.done}/{progress.total}, {note}", err=True)

    def _due(self, progress: Progress) -> bool:
        now = time.monotonic()
        if now - self._last < _SECONDS and progress.done < progress.total:
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
            self._bar.stop()
