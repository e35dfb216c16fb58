"""``ltcache more-images``."""

from __future__ import annotations

from pathlib import Path

import click

from ltcache.cli import completion
from ltcache.cli.options import (
    LocalPath,
    cache_argument,
    general,
    parse_settings,
    print_json,
    settings_option,
    terminal_width,
)


@click.command("more-images", short_help="What more training images would buy, by group.")
@cache_argument
@click.option(
    "--method",
    required=True,
    shell_complete=completion.method_names,
    metavar="NAME",
    help="See ltcache methods.",
)
@click.option("--out", required=True, type=LocalPath(), help="Runs and more-images.json.")
@click.option(
    "--rows",
    "shares",
    default="0.25,0.35,0.5,0.7,1",
    show_default=True,
    metavar="A,B,...",
    help="Shares of the training images of each class that are fitted on.",
)
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="0, 1, ...")
@click.option("--split", type=click.Choice(["test", "val"]), default="test", show_default=True)
@settings_option("Change a setting of the method.")
@general
def command(
    cache: Path,
    method: str,
    out: Path,
    shares: str,
    seeds: int,
    split: str,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Fit a method on nested parts of CACHE's training images and continue its error by group.

    One fit for each share and seed. The error is continued by a power law to four times the images
    at most, with an interval over seeds. Killed, the same command goes on. A page shows it as well:
    name OUT beside the runs of ltcache report --html.

    \b
    ltcache more-images cache --method ce --out more
    ltcache report runs/ce runs/la more --html report.html
    """
    from ltcache.ablate import more_images
    from ltcache.cli.progress import AblationBar
    from ltcache.report import more_images_table

    try:
        parts = [float(share) for share in shares.split(",")]
    except ValueError:
        raise click.UsageError(f"--rows {shares}: write shares such as 0.25,0.5,1") from None
    with AblationBar() as bar:
        found = more_images(
            cache,
            method,
            out,
            shares=parts,
            seeds=seeds,
            split=split,
            overrides=parse_settings(settings),
            progress=bar,
        )
    if as_json:
        print_json(found.to_dict())
    else:
        click.echo(more_images_table(found, width=terminal_width()))
