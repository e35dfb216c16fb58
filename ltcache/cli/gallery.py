"""What ``ltcache retrieve-tail`` does with a result for people: gallery, picture, decisions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltcache.cli.combinations import refuse_given
from ltcache.cli.options import print_json
from ltcache.cli.progress import ProgressBar
from ltcache.errors import UsageError

if TYPE_CHECKING:
    from ltcache.cache import Cache
    from ltcache.images import ImageStore
    from ltcache.retrieval import RetrievalResult

Stores = tuple["ImageStore | None", "ImageStore | None"]


def apply_to(there: Path, cache: Path | None, as_json: bool, options: dict[str, Any]) -> None:
    """Put decisions into force in a result that is there, and write its pictures again."""
    from ltcache.cache import open_cache
    from ltcache.retrieval import apply_decisions, open_retrieved, read_decisions

    drawn = bool(options["gallery"] or options["tsne"])
    if not drawn and not options["decisions"]:
        raise UsageError("--apply needs something to do: give --decisions, --gallery or --tsne")
    if not drawn:
        refuse_given(("cache",), "only --gallery and --tsne look at training images")
    if not options["gallery"]:
        refuse_given(("source", "pool_source"), "images are for --gallery")
    if drawn and cache is None:
        raise UsageError("a gallery needs training images: give CACHE too")
    result = open_retrieved(there)
    opened = open_cache(cache) if cache is not None else None
    stores = check_pictures(result.record["cache"], result.record["pool"], options)
    if options["decisions"]:
        from ltcache.retrieval import GALLERY

        before = result.counts()
        result = apply_decisions(result, read_decisions(options["decisions"]))
        # the gallery shows what the guards said, so it stays true; the picture does not
        result.save(there, overwrite=True, keep=[GALLERY])
        if not as_json:
            click.echo(_told(there, before, result))
    if opened is not None:
        pictures(result, opened, stores, options)
    if as_json:
        print_json(result.record | {"path": str(there)})


def _told(there: Path, before: dict[int, int], result: RetrievalResult) -> str:
    entries = result.record.get("decisions", [])
    after = result.counts()
    changed = sum(before[label] != after[label] for label in after)
    found = {name: sum(e["decision"] == name for e in entries) for name in ("accept", "reject")}
    return (
        f"{there}: {found['accept']} accepted and {found['reject']} rejected by hand; "
        f"{sum(before.values())} images before, {sum(after.values())} now; {changed} of "
        f"{len(after)} classes have another number"
    )


def check_pictures(cache: str, pool: str, options: dict[str, Any]) -> Stores:
    """Return where images can be read, before any long work.

    Args:
        cache, pool: names of the manifests.

    Raises:
        UsageError: a gallery is asked for and nothing says where the pool's images are.
    """
    if options["gallery"] is False:
        return None, None
    from ltcache.retrieval import find_store

    found = find_store(options["source"], cache), find_store(options["pool_source"], pool)
    if options["gallery"] and found[1] is None:
        raise UsageError("a gallery shows the pool's images: say where they are, --pool-source")
    if options["source"] is not None and found[1] is None:
        refuse_given(("source",), "no gallery is written without the pool's images: --pool-source")
    return found


def pictures(
    result: RetrievalResult, cache: Cache, stores: Stores, options: dict[str, Any]
) -> None:
    """Write what was asked for into the result's directory, and say so."""
    wanted = options["gallery"]
    if wanted or (wanted is None and options["there"] is None and stores[1] is not None):
        from ltcache.retrieval import write_gallery

        with GalleryBar() as bar:
            report = write_gallery(
                result, cache, images=stores[0], pool_images=stores[1], progress=bar
            )
        click.echo(
            f"{report.path}: {report.classes} classes, {report.images} images, "
            f"{report.bytes / 1e6:.1f} MB; open it in a browser",
            err=True,
        )
        for reason, count in sorted(report.missing.items()):
            click.echo(f"warning: {count} images are not shown: {reason}", err=True)
    if options["tsne"]:
        from ltcache.retrieval import write_tsne

        click.echo(f"{write_tsne(result, cache)}: t-SNE of embeddings", err=True)


class GalleryBar(ProgressBar):
    """Called with classes done and classes in all."""

    doing, did = "making thumbnails", "made thumbnails of"

    def __call__(self, done: int, total: int) -> None:
        """Show one state; a page that is done at once needs no line."""
        if done < total:
            self.show(done, total, "classes")
