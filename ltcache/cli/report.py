"""``ltcache report``."""

from __future__ import annotations

from pathlib import Path

import click

from ltcache.cli.options import general


@click.command("report", short_help="A table over runs or ablations.")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--baseline", help="What differences are taken to: a line or a method.")
@click.option("--split", default="test", show_default=True)
@click.option("--csv", "ending", flag_value="csv", help="Every split as CSV.")
@click.option("--md", "ending", flag_value="md", help="Markdown.")
@click.option("--latex", "ending", flag_value="tex", help="A booktabs tabular.")
@general
def command(
    runs: tuple[Path, ...], baseline: str | None, split: str, ending: str | None, as_json: bool
) -> None:
    """Compare RUNS: runs, directories of runs, or what ablate wrote.

    Runs that differ only in the seed are one line.

    \b
    ltcache report runs/ce runs/la
    ltcache report ablation --baseline logit-adjustment --latex > table.tex
    """
    from ltcache.report import WRITERS, comparison_table, report

    comparison = report(runs, baseline)
    write = WRITERS.get("json" if as_json else ending or "")
    if write is None:
        click.echo(comparison_table(comparison, split))
    else:
        click.echo(write(comparison, split), nl=False)
