"""``ltcache copy``."""

from __future__ import annotations

import click

from ltcache.cli.options import general, print_json


@click.command("copy", short_help="Copy a cache to another folder, to s3:// or from there.")
@click.argument("source")
@click.argument("target")
@general
def command(source: str, target: str, as_json: bool) -> None:
    """Copy the finished cache SOURCE to TARGET, and compare every file with its digest.

    SOURCE is a folder, or an address such as s3://bucket/cache or https://host/cache; TARGET is a
    folder or an s3:// address. Nothing that is there is replaced. A copy that is interrupted is no
    cache until the same command, which goes on where it stopped, has finished it.

    \b
    ltcache copy cache s3://bucket/imagenet-lt
    ltcache copy https://host/imagenet-lt cache
    """
    from ltcache.cache import copy_cache
    from ltcache.cli.progress import CopyBar

    with CopyBar() as bar:
        report = copy_cache(source, target, progress=bar)
    if as_json:
        print_json(report)
        return
    there = report.files - report.copied
    found = f", {there} were there already" if there else ""
    click.echo(f"{report.target}: {report.files} files, {report.bytes / 1e6:.1f} MB{found}")
