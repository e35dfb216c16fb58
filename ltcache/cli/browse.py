"""``ltcache browse``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ltcache.cli.options import CachePath, LocalPath, general, print_json
from ltcache.cli.pages import image_source, tell_page


@click.command("browse", short_help="A page of a cache's images, by class, split and prediction.")
@click.argument("cache", type=CachePath())
@click.option(
    "--html",
    type=LocalPath(),
    default=Path("browse.html"),
    show_default=True,
    help="The page, one file that opens from disk.",
)
@click.option("--run", type=LocalPath(), help="Show what this run predicts, too.")
@click.option("--split", help="Only images of this split.")
@click.option("--class", "classes", multiple=True, help="Only of this class. May be repeated.")
@click.option(
    "--most",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Images on the page: of more, a random choice that takes of each class alike.",
)
@click.option("--seed", default=0, show_default=True, help="Of the choice and of the map.")
@image_source
@general
def command(
    cache: Path, html: Path, run: Path | None, root: str | None, as_json: bool, **wanted: Any
) -> None:
    """Write a page of the images of CACHE to sort, filter and look at in a browser.

    Each image is there with its class, its split and, with --run, what a run predicts for it. A map
    (t-SNE of the features, of 1000 images at most) leads from a point to its image.

    \b
    ltcache browse cache
    ltcache browse cache --run runs/la --split test --html mistakes.html
    ltcache browse cache --class "red fox" --class moth --root photos/
    """
    from ltcache.browse import browse_cache
    from ltcache.cache import open_cache
    from ltcache.runs import open_run

    opened = open_cache(cache)
    of = open_run(run) if run is not None else None
    page = browse_cache(opened, html, run=of, source=root, **wanted)
    tell_page(page)
    if as_json:
        print_json(page)
