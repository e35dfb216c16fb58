"""``ltcache split``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ltcache.cli.options import (
    LocalPath,
    general,
    print_json,
    split_options,
    split_recipe,
)


@click.command("split", short_help="Divide the images of a cache into training, val and test.")
@click.argument("cache", type=LocalPath())
@split_options(required=True)
@click.option(
    "--replace",
    "replace_splits",
    is_flag=True,
    help="Put the images of these splits, and of those made before, back into train first.",
)
@general
def command(cache: Path, replace_splits: bool, as_json: bool, **options: Any) -> None:
    """Divide the labelled training images of CACHE; nothing is encoded again.

    Each class is divided alike. What belongs together stays in one split: images of one unit (the
    column unit, and those of --split-by), of equal bytes, or of nearly equal features. Every class
    keeps an image to train on, and what could not be had is said class by class. The same seed
    gives the same splits, whatever the order of the images. The cache keeps how they were made:
    ltcache inspect shows it, and images that ltcache extract adds later are assigned likewise,
    while the others stay where they are.

    \b
    ltcache split cache --split test=0.2,val=0.1
    ltcache split cache --split test=0.2 --split-by camera --split-seed 1 --replace
    """
    from ltcache.extract import split_cache

    recipe = split_recipe(options)
    assert recipe is not None
    report = split_cache(cache, recipe, replace_splits=replace_splits)
    if as_json:
        print_json(report)
    else:
        click.echo("\n".join(f"{cache}: {line}" for line in report.lines()))
