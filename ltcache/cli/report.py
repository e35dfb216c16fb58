"""``ltcache report``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltcache.cli.combinations import excludes, needs, option_rules
from ltcache.cli.options import LocalPath, general, print_json, terminal_width

if TYPE_CHECKING:
    from ltcache.report import ReportedRuns


@click.command("report", short_help="A table over runs or ablations.")
@click.argument("runs", nargs=-1, required=True, type=LocalPath())
@click.option("--baseline", help="What differences are taken to: a line or a method.")
@click.option("--split", help="Of the table.  [default: test; or the folds of ablate --folds]")
@click.option("--cache", type=LocalPath(), help="Of the runs.  [default: where each run says]")
@click.option("--html", type=LocalPath(), help="Write one page that opens from disk to this file.")
@click.option(
    "--source",
    help="Of the page: what the cache was extracted from, where its images are.  [default: where "
    "the cache says]",
)
@click.option("--csv", "as_csv", is_flag=True, help="Every split as CSV.")
@click.option("--md", "as_md", is_flag=True, help="Markdown.")
@click.option("--latex", "as_latex", is_flag=True, help="A booktabs tabular.")
@click.option(
    "--confusions", is_flag=True, help="Which classes are taken for which, over all runs."
)
@general
@option_rules(
    needs("source", "html", why="images are for the page"),
    excludes("confusions", "baseline", "as_csv", "as_md", "as_latex", why="it is another table"),
    excludes("html", "confusions", why="the page shows them"),
    excludes("html", "as_json", "as_csv", "as_md", "as_latex", why="one form at a time"),
    excludes("as_json", "as_csv", "as_md", "as_latex", why="one form at a time"),
    excludes("as_csv", "as_md", "as_latex", why="one form at a time"),
    excludes("as_md", "as_latex", why="one form at a time"),
    excludes("as_csv", "split", why="CSV holds every split"),
)
def command(
    runs: tuple[Path, ...],
    baseline: str | None,
    split: str | None,
    cache: Path | None,
    html: Path | None,
    source: str | None,
    as_json: bool,
    **forms: bool,
) -> None:
    """Compare RUNS: runs, directories of runs, or what ablate wrote.

    Runs that differ only in the seed are one line.

    \b
    ltcache report runs/ce runs/la
    ltcache report ablation --baseline logit-adjustment --latex > table.tex
    ltcache report ablation --confusions
    ltcache report ablation --html report.html
    """
    from ltcache.report import WRITERS, comparison_table, report

    if html is not None:
        from ltcache.report import read_runs

        options = {"baseline": baseline, "split": split or "test", "source": source}
        _write_page(read_runs(runs, cache), html, **options)
        return
    if forms.pop("confusions"):
        _confusions(runs, cache, split or "test", as_json)
        return
    comparison: Mapping[str, Any] = report(runs, baseline, cache=cache)
    shown = split or next(iter(comparison["splits"] if "folds" in comparison else ["test"]))
    wanted = {
        "json": as_json,
        "csv": forms["as_csv"],
        "md": forms["as_md"],
        "tex": forms["as_latex"],
    }
    write = next((WRITERS[ending] for ending, is_wanted in wanted.items() if is_wanted), None)
    if write is None:
        click.echo(comparison_table(comparison, shown, width=terminal_width()))
    else:
        click.echo(write(comparison, shown), nl=False)


def _confusions(runs: tuple[Path, ...], cache: Path | None, split: str, as_json: bool) -> None:
    from ltcache.report import confusions, confusions_table

    found = confusions(runs, split, cache)
    if as_json:
        print_json(found)
    else:
        click.echo(confusions_table(found, split, width=terminal_width()))


def _write_page(reading: ReportedRuns, html: Path, **options: Any) -> None:
    from ltcache.report.html import write_report_page

    written = write_report_page(reading, html, **options)
    click.echo(f"{written.path}: {written.bytes / 1e6:.1f} MB; open it in a browser", err=True)
