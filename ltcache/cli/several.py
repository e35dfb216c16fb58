"""``ltcache extract --gpus``, ``--processes`` and ``--engine``: one command, several processes."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltcache.cli.combinations import is_given
from ltcache.cli.engine import modules_of
from ltcache.cli.options import encoder_choice
from ltcache.errors import CacheError, EncoderError, UsageError

if TYPE_CHECKING:
    from ltcache.cli.progress import ExtractionBar
    from ltcache.extract import ExtractReport
    from ltcache.manifest import Manifest
    from ltcache.process import EndedProcess

ALL = "all"
_OWN = ("gpus", "processes", "engine", "actors", "part", "device", "as_json", "config")
"""Options that the processes do not get, neither typed nor from the environment."""
_FINE = (0, 3)


def count_gpus(gpus: str) -> int:
    """Return how many GPUs ``all`` or a number of them are.

    Raises:
        UsageError: not a number, or there are fewer. EncoderError: torch can use none.
    """
    import torch

    from ltcache.encoder import choose_device

    if gpus != ALL and not (gpus.isdecimal() and int(gpus)):
        raise UsageError(f"--gpus {gpus} is not {ALL} or a number from 1")
    try:
        choose_device("cuda")
    except EncoderError as error:
        raise EncoderError(f"--gpus {gpus}: {error}, without --gpus") from None
    there = torch.cuda.device_count()
    if gpus != ALL and int(gpus) > there:
        raise UsageError(f"--gpus {gpus}: torch sees {there} on this machine; --gpus {ALL}")
    return there if gpus == ALL else int(gpus)


def extract_by_several(
    context: click.Context, out: Path, count: int, device: str
) -> ExtractReport | int:
    """Run the command of a context in ``count`` processes, each on its own part of the images.

    Args:
        out: the cache. device: ``cpu``, or ``cuda``, of which each process takes one in turn.

    Returns:
        The report of all, or the exit status of the process that ended with an error, which has
        told it.

    Raises:
        CacheError: signals killed all processes.
    """
    from ltcache.cli.progress import ExtractionBar
    from ltcache.extract import joined_report
    from ltcache.process import ProcessCrew

    started = time.perf_counter()
    words = ["--json", "--quiet", f"--device={device}", *words_given(context, _OWN)]
    with ExtractionBar() as bar:
        shown = _CommittedImages(out, bar, f"{count} processes")
        crew = ProcessCrew(_command(context, words), _environments(context, count), bar.say)
        ended = crew.run(_FINE, shown.show)
    if ended[0].status not in _FINE and ended[0].status > 0:
        return ended[0].status
    return joined_report(_reports(ended, out), started)


def extract_in_actors(
    manifest: Manifest, out: Path, actors: int | None, options: MutableMapping[str, Any]
) -> ExtractReport:
    """Let actors of a Ray cluster carry out the running command; its options are used up."""
    from ltcache.cli.progress import ExtractionBar
    from ltcache.extract import extract_on_ray

    options.pop("part")
    with ExtractionBar() as bar:
        return extract_on_ray(
            manifest,
            out,
            choice=encoder_choice(options),
            actors=actors,
            modules=modules_of(click.get_current_context()),
            waiting=_CommittedImages(out, bar, "Ray's actors").show,
            **options,
        )


def words_given(context: click.Context, without: tuple[str, ...]) -> list[str]:
    """Return what a user gave a command, from wherever, as a command line without some options."""
    options: list[str] = []
    arguments: list[str] = []
    for param in context.command.params:
        name = param.name or ""
        if name in without or name not in context.params or not is_given(context, name):
            continue
        value = context.params[name]
        values = value if isinstance(value, tuple) else (value,)
        if isinstance(param, click.Argument):
            arguments += map(str, values)
        elif isinstance(param, click.Option) and param.is_flag:
            options.append(param.opts[-1])
        else:
            options += [f"{param.opts[-1]}={one}" for one in values]
    return [*options, "--", *arguments]


def _command(context: click.Context, words: list[str]) -> list[str]:
    """Return the command line of each process, with what the group in front of it was given."""
    before = [f"--import={module}" for module in modules_of(context)]
    if logging.getLogger("ltcache").level == logging.DEBUG:
        words = ["-v", *words]
    return [sys.executable, "-m", "ltcache", *before, str(context.command.name), *words]


def _environments(context: click.Context, count: int) -> list[dict[str, str]]:
    """Return the environment of each process: which one it is, and its share of the processors."""
    from ltcache.process import environment_of_share, part_of_work, usable_processors

    whole = part_of_work(context.params["part"])
    unset = [param.envvar for param in context.command.params if param.name in _OWN]
    result = []
    for number in range(count):
        environ = environment_of_share(whole, number, count)
        environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_processors() // count)))
        result.append({name: text for name, text in environ.items() if name not in unset})
    return result


def _reports(ended: list[EndedProcess], out: Path) -> list[ExtractReport]:
    """Return the reports of those that finished; those that were killed are told.

    Raises:
        CacheError: none finished.
    """
    from ltcache.extract import ExtractReport
    from ltcache.records import read_record

    killed = sorted({-process.status for process in ended if process.status < 0})
    signals = f"signal {', '.join(map(str, killed))}"
    done = [process.output for process in ended if process.status >= 0]
    if not done:
        raise CacheError(
            f"{out}: all {len(ended)} processes were killed ({signals}; 9 is often too little "
            "memory). The same command goes on where they stopped"
        )
    if len(done) < len(ended):
        click.echo(
            f"warning: {len(ended) - len(done)} of {len(ended)} processes were killed ({signals}); "
            "the others did their part",
            err=True,
        )
    return [read_record(ExtractReport, json.loads(text), name="a report") for text in done]


class _CommittedImages:
    """Shows how far all processes are together: what is committed, which they share anyway."""

    def __init__(self, out: Path, bar: ExtractionBar, by: str) -> None:
        self.out, self.bar, self.by = Path(out), bar, by  # of an address nothing is shown
        self._began: tuple[float, int] | None = None
        self._last, self._shown = time.monotonic(), 0

    def show(self) -> None:
        """Look at the cache, at most once a second, and show what is new there."""
        from ltcache.cache import count_committed
        from ltcache.extract import ExtractionProgress

        now = time.monotonic()
        if now - self._last < 1:
            return
        self._last = now
        done, total = count_committed(self.out)
        if self._began is None and total:
            self._began, self._shown = (now, done), done
        elif self._began is not None and done > self._shown:
            seconds, first = now - self._began[0], self._began[1]
            self._shown = done
            rate = (done - first) / seconds
            self.bar(ExtractionProgress(done, total, failed=0, rate=rate, binding=self.by))
