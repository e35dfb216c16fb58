"""What ``ltcache retrieve-tail`` did before ``search`` and ``review`` were commands.

The options work as they did, with a note that says what to type now. They are for one release: to
end them, delete this file and what of it :mod:`ltcache.cli.retrieve_tail` names.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ltcache.cli import review, search
from ltcache.cli.combinations import excludes, is_given, needs, spelt
from ltcache.cli.options import LocalPath

if TYPE_CHECKING:
    from ltcache.cache import Cache

F = TypeVar("F", bound=Callable[..., Any])
_SHOWN = ("gallery", "source", "pool_sources")
_REVIEW = ("decisions", "tsne", *_SHOWN)

former_rules = (
    *(needs(name, "texts", "images") for name in ("top", "model", "pretrained")),
    excludes("gallery=False", "source", "pool_sources", why="images are for the gallery"),
)


def former_options(function: F) -> F:
    """Add the options, which no help shows."""
    of_search, of_review = "See ltcache search.", "See ltcache review."
    for option in (
        click.option("--text", "texts", multiple=True, hidden=True, help=of_search),
        click.option(
            "--image", "images", multiple=True, type=LocalPath(), hidden=True, help=of_search
        ),
        click.option("--top", type=click.IntRange(1), hidden=True, help=of_search),
        click.option("--model", hidden=True, help=of_search),
        click.option("--pretrained", hidden=True, help=of_search),
        click.option("--apply", "there", type=LocalPath(), hidden=True, help=of_review),
        click.option("--decisions", type=LocalPath(), hidden=True, help=of_review),
        click.option("--gallery/--no-gallery", default=None, hidden=True, help=of_review),
        click.option("--tsne", is_flag=True, hidden=True, help=of_review),
        click.option("--source", hidden=True, help=of_review),
        click.option("--pool-source", "pool_sources", multiple=True, hidden=True, help=of_review),
    ):
        function = option(function)
    return function


def run_what_it_is_now() -> bool:
    """Run the command that the words of a search or a review mean now; False: they are neither."""
    context = click.get_current_context()
    for named in ("there", "texts", "images"):
        if is_given(context, named):
            break
    else:
        return False
    command = review.command if named == "there" else search.command
    places = ("there", "cache", "pools") if named == "there" else ("cache", "pools")
    words = list(_words(context, places))
    _tell(context, named, [str(command.name), *words])
    with command.make_context(command.name, words, parent=context.parent) as anew:
        command.invoke(anew)
    return True


def plan_review(
    cache: Cache, pools: Sequence[Cache], out: Path, options: Mapping[str, Any]
) -> tuple[review.Stores | None, bool]:
    """Return what of a review follows on a retrieval into ``out``, and say how to type it now.

    Args:
        cache, pools: of the retrieval. options: of the running command.

    Returns:
        Where the images of a gallery are, or None without one; whether t-SNE is drawn.

    Raises:
        UsageError: nothing says where the pool's images are.
    """
    context = click.get_current_context()
    given = [name for name in _REVIEW if is_given(context, name)]
    if options["gallery"] is False:
        click.echo("note: --no-gallery is not needed: retrieve-tail writes none", err=True)
    if not given:
        return None, False
    shown = options["gallery"] is not False and not set(given).isdisjoint(_SHOWN)
    drawn = [str(cache.path)] if shown or options["tsne"] else []
    words = ["--gallery"] if shown and "gallery" not in given else []
    words += [word for name in given for word in _typed(context, name)]
    _tell(context, given[0], ["review", str(out), *drawn, *words])
    images, *of_pools = ((one.path, one.manifest.name) for one in (cache, *pools))
    places = options["source"], options["pool_sources"]
    return review.find_images(images, of_pools, *places) if shown else None, options["tsne"]


def _tell(context: click.Context, named: str, words: list[str]) -> None:
    click.echo(
        f"note: retrieve-tail {spelt(context, named)} will go with the next release; type: "
        f"ltcache {shlex.join(words)}",
        err=True,
    )


def _words(context: click.Context, places: tuple[str, ...]) -> Iterator[str]:
    """Yield what the user gave: ``places`` as arguments, then everything else as options."""
    for name in places:
        if is_given(context, name):
            value = context.params[name]
            yield from map(str, value if isinstance(value, tuple) else (value,))
    for param in context.command.params:
        name = str(param.name)
        if name in context.params and name not in places and is_given(context, name):
            yield from _typed(context, name)
    if context.get_parameter_source("verbose") is not click.core.ParameterSource.DEFAULT:
        yield "-v"


def _typed(context: click.Context, name: str) -> list[str]:
    """Return an option with its values, as it is typed."""
    value, option = context.params[name], spelt(context, name)
    if value is True:
        return [option]
    values = value if isinstance(value, tuple) else (value,)
    return [word for one in values for word in (option, str(one))]
