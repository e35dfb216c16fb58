"""``ltcache zero-shot``."""

from __future__ import annotations

from pathlib import Path

import click

from ltcache.cli import completion
from ltcache.cli.options import cache_argument, general, print_json, terminal_width


@click.command("zero-shot", short_help="Classify by the class prompts alone.")
@cache_argument
@click.option("--split", default="test", show_default=True, shell_complete=completion.split_names)
@click.option(
    "--prompts",
    shell_complete=completion.prompt_names,
    help="A set of class texts of the cache; 'default' by default.",
)
@general
def command(cache: Path, split: str, prompts: str | None, as_json: bool) -> None:
    """Score CLIP zero-shot classification on the features of CACHE.

    \b
    ltcache zero-shot cache --split val
    """
    from ltcache.cache import open_cache
    from ltcache.report import footnote, results_table
    from ltcache.zero_shot import zero_shot

    metrics = zero_shot(open_cache(cache), split, prompts).metrics
    if as_json:
        print_json(metrics)
        return
    click.echo(
        results_table(
            {f"zero-shot, {prompts or 'default'} prompts": metrics}, width=terminal_width()
        )
    )
    click.echo(footnote(metrics, split))
