"""``--part`` and ``--merge`` of commands whose work is done in parts, and what follows a part."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ltcache.cli.combinations import OptionRule, excludes
from ltcache.cli.options import print_json

F = TypeVar("F", bound=Callable[..., Any])


def part_options(does: str, into: str, places: str, gives: str) -> Callable[[F], F]:
    """Return what adds the two options.

    Args:
        does: what is done with which parts, a sentence without its end. into: what holds a part.
        places: the arguments in whose place parts are given. gives: what merging them makes.
    """

    def add(function: F) -> F:
        for option in (
            click.option(
                "--merge",
                is_flag=True,
                help=f"Merge parts, given in place of {places} as files or folders{gives}.",
            ),
            click.option(
                "--part",
                metavar="I/N|auto",
                help=f"{does} alone, into the folder {into}, for --merge; auto: as torchrun, srun, "
                "mpirun, a job array or an indexed Job numbers this process.",
            ),
        ):
            function = option(function)
        return function

    return add


def merge_rule(*of_parts: str) -> OptionRule:
    """Return the rule that what was said with each part has no effect when they are merged."""
    return excludes("merge", "part", *of_parts, why="the parts were made with their own")


def tell_part(path: Path, command: str, beside: str, as_json: bool) -> None:
    """Say where a part is and what to type when all are there.

    Args:
        command: that merges it, with what else it takes.
    """
    if as_json:
        print_json({"path": str(path)})
        return
    parts = shlex.quote(str(path.parent))
    click.echo(f"{path}: when all parts are there: ltcache {command} --merge {parts}{beside}")
