"""``--engine ray`` and ``--actors``: the work of a command by actors of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ltcache.cli.combinations import OptionRule, excludes, needs

if TYPE_CHECKING:
    from ltcache.process import ActorRequest

F = TypeVar("F", bound=Callable[..., Any])


def engine_options(usual: str) -> Callable[[F], F]:
    """Return what adds the two options.

    Args:
        usual: how many actors there are by default, a clause.
    """

    def add(function: F) -> F:
        for option in (
            click.option(
                "--actors", type=click.IntRange(1), help=f"Of --engine ray: {usual} by default."
            ),
            click.option(
                "--engine",
                type=click.Choice(["ray"]),
                help="What starts the processes: actors of a Ray cluster, or of this machine where "
                "there is none.",
            ),
        ):
            function = option(function)
        return function

    return add


def engine_rules(*instead: str) -> tuple[OptionRule, ...]:
    """Return the rules of the options.

    Args:
        instead: parameters that say which processes there are, too.
    """
    return (
        needs("actors", "engine"),
        excludes("engine", *instead, why="Ray starts as many as --actors says"),
    )


def actor_request(options: MutableMapping[str, Any]) -> ActorRequest | None:
    """Take the two options out of a command's; None: no engine is asked for."""
    from ltcache.process import ActorRequest

    engine, actors = options.pop("engine"), options.pop("actors")
    return ActorRequest(actors, modules_of(click.get_current_context())) if engine else None


def modules_of(context: click.Context) -> tuple[str, ...]:
    """Return the modules of the user that processes of a command import, too."""
    return () if context.parent is None else context.parent.params["modules"]
