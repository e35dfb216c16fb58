"""``ltcache search``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ltcache.cli.combinations import needs, option_rules
from ltcache.cli.options import (
    CachePath,
    LocalPath,
    encoder_choice,
    general,
    print_json,
    terminal_width,
)
from ltcache.cli.pages import image_source, tell_page


@click.command("search", short_help="Find images of a cache by a text or by an image.")
@click.argument("cache", type=CachePath())
@click.option("--text", "texts", multiple=True, help="A sentence to search with. May be repeated.")
@click.option(
    "--image",
    "images",
    multiple=True,
    type=LocalPath(),
    help="An image to search with. May be repeated.",
)
@click.option(
    "--top", type=click.IntRange(1), default=10, show_default=True, help="Images for each of them."
)
@click.option(
    "--index",
    type=LocalPath(),
    help="Search in this FAISS index of CACHE, which retrieve-tail --save-index has written; by "
    "default in all of the cache.",
)
@click.option(
    "--html", type=LocalPath(), help="Write a page of thumbnails, which opens from disk, here."
)
@image_source
@click.option("--model", help="The encoder, if not the one that CACHE names.")
@click.option("--pretrained", help="Its tag or checkpoint.")
@click.option(
    "--device", default="cpu", show_default=True, help="Of the encoder: cpu, cuda or auto."
)
@general
@option_rules(
    needs("pretrained", "model"), needs("root", "html", why="only the page looks at images")
)
def command(
    cache: Path,
    index: Path | None,
    html: Path | None,
    root: str | None,
    as_json: bool,
    **query: Any,
) -> None:
    """Find the images of CACHE, labelled or a pool, that are nearest to a text or an image.

    What is given is encoded by the encoder that made CACHE, a sentence as it is (write "a photo of
    a fox" rather than "fox"), and compared with every image by cosine. For each sentence and each
    image the nearest are listed, best first.

    \b
    ltcache search pool --text "a drawing of a red fox" --top 20
    ltcache search cache --image photos/fox/001.jpg
    ltcache search cache --text "a fox in snow" --top 50 --html found.html
    """
    from ltcache.cache import open_cache
    from ltcache.retrieval import CachedPool, open_index, search_pool, write_search_page
    from ltcache.tables import markdown_table

    opened = open_cache(cache)
    saved = open_index(index, CachedPool(opened)) if index is not None else None
    encoder = encoder_choice(query)
    hits = search_pool(opened, index=saved, encoder=encoder, **query)
    if html is not None:
        tell_page(write_search_page(opened, hits, html, root))
    if as_json:
        print_json(hits)
        return
    rows = [[hit.query, str(hit.rank), f"{hit.cosine:.4f}", hit.key] for hit in hits]
    click.echo(markdown_table(["query", "rank", "cosine", "image"], rows, terminal_width()))
