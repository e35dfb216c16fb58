"""``ltcache demo``."""

from __future__ import annotations

from pathlib import Path

import click

from ltcache.cli.options import LocalPath, general, print_json, terminal_width


@click.command("demo", short_help="Run the whole pipeline on real images, offline.")
@click.option(
    "--out",
    type=LocalPath(),
    default=Path("ltcache-demo"),
    show_default=True,
    help="Where the cache and the runs go.",
)
@general
def command(out: Path, as_json: bool) -> None:
    """Encode Emoji-LT with the embedded encoder, fit three heads, print the table.

    Emoji-LT is a long-tailed set of emoji drawings that comes with ltcache, and so does a small
    encoder that never saw them; both need no network. A second run reuses the cache at once.
    The numbers demonstrate the pipeline; they are not those of CLIP.
    """
    from ltcache.cli.progress import ExtractionBar
    from ltcache.demo import demo
    from ltcache.report import footnote, results_table

    with ExtractionBar() as bar:
        result = demo(out, progress=bar, say=lambda text: click.echo(text, err=True))
    if as_json:
        print_json(result.metrics)
        return
    click.echo(results_table(result.metrics, width=terminal_width()))
    some = next(iter(result.metrics.values()))
    click.echo(footnote(some, "test"))
    click.echo(f"chance is {100 / result.num_classes:.1f} %; epochs were chosen on validation data")
    click.echo(f"cache: {result.cache}\nruns:  {result.runs}\ntook {result.seconds:.0f} s")
