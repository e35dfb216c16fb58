"""``ltcache review``: a result of a retrieval for people, and what they decide about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ltcache.cli.combinations import refuse_given
from ltcache.cli.options import CachePath, LocalPath, general, print_json
from ltcache.cli.pages import tell_page
from ltcache.cli.progress import ProgressBar
from ltcache.errors import UsageError
from ltcache.records import counted

if TYPE_CHECKING:
    from ltcache.cache import Cache
    from ltcache.images import ImageStore
    from ltcache.retrieval import RetrievalResult

Stores = tuple["ImageStore | None", "list[ImageStore]"]
"""Where the images of the labelled cache and of each pool are."""


@click.command("review", short_help="Look at a retrieval, accept and reject its images.")
@click.argument("retrieved", type=LocalPath())
@click.argument("cache", required=False, type=CachePath())
@click.option(
    "--decisions",
    type=LocalPath(),
    help="Accept and reject as this file says, which the gallery exports, in place of what was "
    "decided before.",
)
@click.option(
    "--gallery",
    is_flag=True,
    help="Write gallery.html.  [default: where neither --decisions nor --tsne is given]",
)
@click.option("--tsne", is_flag=True, help="Draw training, retrieved and prompt embeddings.")
@click.option(
    "--source",
    help="What CACHE was extracted from: its images, for the gallery.  [default: where they were]",
)
@click.option(
    "--pool-source",
    "pool_sources",
    multiple=True,
    help="What the pool was extracted from: its images, too. Once for each of several pools.",
)
@general
def command(
    retrieved: Path,
    cache: Path | None,
    decisions: Path | None,
    gallery: bool,
    tsne: bool,
    source: str | None,
    pool_sources: tuple[str, ...],
    as_json: bool,
) -> None:
    """Look at RETRIEVED, a result of ltcache retrieve-tail, and decide about its images.

    The gallery is one page, RETRIEVED/gallery.html, to be opened in a browser: every class of
    CACHE with what was taken, what nearly was and why not. A person accepts and rejects with a key
    and exports the decisions as a file; --decisions puts it into force.

    The page shows images from disk: --source and --pool-source say where they are (sources that
    come with ltcache are found without). RETRIEVED/tsne.png is a picture of all embeddings.

    \b
    ltcache review retrieved cache
    ltcache review retrieved cache --source photos/ --pool-source web/
    ltcache review retrieved --decisions decisions.json
    ltcache review retrieved cache --tsne
    """
    from ltcache.cache import open_cache
    from ltcache.retrieval import open_retrieved, pool_folders

    gallery = gallery or not (decisions or tsne)
    if not gallery:
        refuse_given(("source", "pool_sources"), "images are for --gallery")
        if not tsne:
            refuse_given(("cache",), "only --gallery and --tsne look at training images")
    if (gallery or tsne) and cache is None:
        raise UsageError("a gallery needs training images: give CACHE too")
    result = open_retrieved(retrieved)
    opened = open_cache(cache) if cache is not None else None
    stores = None
    if gallery and opened is not None:
        record = result.record
        names = record.pools or (record.pool,)
        pools = list(zip(pool_folders(retrieved, record.pools), names, strict=True))
        stores = find_images((opened.path, record.cache), pools, source, pool_sources)
    if decisions is not None:
        result = _decided(result, retrieved, decisions, quiet=as_json)
    if opened is not None:
        write_for_review(result, opened, stores, tsne)
    if as_json:
        print_json(result.record.to_dict() | {"path": str(retrieved)})


def _decided(
    before: RetrievalResult, retrieved: Path, decisions: Path, quiet: bool
) -> RetrievalResult:
    """Put decisions into force in a result, write it, and say what changed."""
    from ltcache.manifest import ROOT_FILE
    from ltcache.retrieval import GALLERY, apply_decisions, pool_folders, read_decisions

    after = apply_decisions(before, read_decisions(decisions))
    roots = [str(folder / ROOT_FILE) for folder in pool_folders(Path(), before.record.pools)]
    # the gallery shows what the guards said, so it stays true; the picture does not
    after.save(retrieved, overwrite=True, keep=[GALLERY, *roots])
    if not quiet:
        click.echo(_told(retrieved, before.counts(), after))
    return after


def _told(retrieved: Path, before: dict[int, int], result: RetrievalResult) -> str:
    applied = [one.decision for one in result.record.decisions]
    after = result.counts()
    changed = sum(before[label] != after[label] for label in after)

    return (
        f"{retrieved}: {applied.count('accept')} accepted and {applied.count('reject')} rejected "
        "by hand; "
        f"{sum(before.values())} images before, {sum(after.values())} now; {changed} of "
        f"{len(after)} classes have another number"
    )


def find_images(
    images: tuple[Path, str],
    pools: Sequence[tuple[Path, str]],
    source: str | None,
    pool_sources: Sequence[str],
) -> Stores:
    """Return where the images of a gallery can be read, before any long work.

    Args:
        images, pools: folder that may say where the images of the cache and of each pool are,
            and name of the manifest. source, pool_sources: as the user gave them.

    Raises:
        UsageError: nothing says where the images of a pool are, or not for each.
    """
    from ltcache.pages import find_store

    if pool_sources and len(pool_sources) != len(pools):
        names = ", ".join(name for _, name in pools)
        raise UsageError(
            f"--pool-source is given {len(pool_sources)} times, for {len(pools)} pools ({names}): "
            "give it once for each, in this order"
        )
    given: Sequence[str | None] = pool_sources or [None] * len(pools)
    found = [find_store(named, *pool) for named, pool in zip(given, pools, strict=True)]
    stores = [store for store in found if store is not None]
    if len(stores) < len(pools):
        raise UsageError("a gallery shows the pool's images: say where they are, --pool-source")
    return find_store(source, *images), stores


def write_for_review(
    result: RetrievalResult, cache: Cache, stores: Stores | None, tsne: bool
) -> None:
    """Write the gallery, where ``stores`` are given, and the picture, and say so."""
    from ltcache.retrieval import write_gallery, write_tsne

    if stores is not None:
        with GalleryBar() as bar:
            report = write_gallery(
                result, cache, images=stores[0], pool_images=stores[1], progress=bar
            )
        tell_page(report, f"{counted(len(result.classes), 'class')}, ")
    if tsne:
        click.echo(f"{write_tsne(result, cache)}: t-SNE of embeddings", err=True)


class GalleryBar(ProgressBar):
    """Called with classes done and classes in all."""

    doing, did = "making thumbnails", "made thumbnails of"

    def __call__(self, done: int, total: int) -> None:
        """Show one state; a page that is done at once needs no line."""
        if done < total:
            self.show(done, total, "classes")
