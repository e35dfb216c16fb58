"""What commands that write a page of images share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ltcache.records import counted

if TYPE_CHECKING:
    from ltcache.pages import PageSummary

image_source = click.option(
    "--root",
    help="Where the images are: what CACHE was extracted from.  [default: where they were]",
)


def tell_page(page: PageSummary, what: str = "") -> None:
    """Say where a page is, and how many images it could not show.

    Args:
        what: else is on the page, such as ``"3 classes, "``.
    """
    size = f"{counted(page.images, 'image')}, {page.bytes / 1e6:.1f} MB"
    click.echo(f"{page.path}: {what}{size}; open it in a browser", err=True)
    for reason, count in sorted(page.missing.items()):
        click.echo(f"warning: {counted(count, 'image')} not shown: {reason}", err=True)
