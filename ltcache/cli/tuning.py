"""Options of the commands that tune: what is tried, and what joins the training images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ltcache.cli.options import LocalPath
from ltcache.errors import UsageError
from ltcache.extras import how_to_install

if TYPE_CHECKING:
    from ltcache.fit import ExtraRows

F = TypeVar("F", bound=Callable[..., Any])


def tuning_options(grid_help: str) -> Callable[[F], F]:
    """Add ``--tune``, ``--tuner``, ``--trials``, ``--tune-folds`` and ``--grid``."""

    def add(function: F) -> F:
        for option in (
            click.option(
                "--grid", multiple=True, metavar="KEY=V1,V2,...", help=f"Repeatable. {grid_help}"
            ),
            click.option(
                "--tune-folds", type=click.IntRange(2), metavar="K",
                help="Choose by K folds of the training images in place of validation data.",
            ),
            click.option(
                "--trials", type=click.IntRange(1), default=9, show_default=True,
                help="Settings that --tune tries per method; a larger grid is drawn from.",
            ),
            click.option(
                "--tuner", type=click.Choice(["grid", "optuna"]), default="grid",
                show_default=True, help=f"optuna needs {how_to_install('tune')}.",
            ),
            click.option(
                "--tune", is_flag=True,
                help="Choose hyper-parameters, and views where the cache has several, on "
                "validation data, never on test.",
            ),
        ):  # fmt: skip
            function = option(function)
        return function

    return add


def extra_options(function: F) -> F:
    """Add ``--extra`` and ``--extra-weight``, which :func:`read_extra` reads."""
    function = click.option(
        "--extra-weight",
        default="1",
        show_default=True,
        metavar="W|p",
        help="Of an image of --extra in the loss and the class prior; p: its p_k, and 1 for what a "
        "person accepted.",
    )(function)
    return click.option(
        "--extra",
        type=LocalPath(),
        metavar="RETRIEVED",
        help="Train on the images, too, that ltcache retrieve-tail accepted.",
    )(function)


def read_extra(extra: Path | None, extra_weight: str) -> ExtraRows | None:
    """Return the rows of ``--extra``, or None where it is not given."""
    if extra is None:
        return None
    from ltcache.retrieval import extra_rows

    return extra_rows(extra, extra_weight)


def parse_grid(grid: tuple[str, ...]) -> dict[str, list[str]]:
    """Return key -> values of ``key=v1,v2`` texts."""
    found: dict[str, list[str]] = {}
    for text in grid:
        key, equals, values = text.partition("=")
        named = [value.strip() for value in values.split(",") if value.strip()]
        if not equals or not key or not named:
            raise UsageError(f"--grid {text}: write it as key=v1,v2, such as loss.tau=0.5,1,2")
        if key in found:
            raise UsageError(f"--grid {key} is given twice: list all values at once")
        found[key] = named
    return found
