"""``ltcache report``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ltcache.cli.combinations import excludes, needs, option_rules
from ltcache.cli.options import CachePath, LocalPath, general, print_json, terminal_width


@click.command("report", short_help="A table over runs or ablations.")
@click.argument("runs", nargs=-1, required=True, type=LocalPath())
@click.option("--baseline", help="What differences are taken to: a line or a method.")
@click.option("--split", help="Of the table.  [default: test; or the folds of ablate --folds]")
@click.option("--cache", type=CachePath(), help="Of the runs.  [default: where each run says]")
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
@click.option(
    "--label-errors",
    is_flag=True,
    help="Training images whose label looks wrong; of ablate --folds.",
)
@general
@option_rules(
    excludes(
        "label_errors",
        "baseline",
        "split",
        "as_csv",
        "as_md",
        "as_latex",
        "confusions",
        why="it is another table",
    ),
    excludes("html", "label_errors", why="the page shows them"),
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

    Runs that differ only in the seed are one line. --label-errors lists training images by what
    ablate --folds wrote: predictions of runs that were not fitted on them. Nothing is fitted here;
    the page shows that list, too, where such a folder is among RUNS, and what more images would
    buy where one that more-images wrote is. Of such a folder alone it is the page.

    \b
    ltcache report runs/ce runs/la
    ltcache report ablation --baseline logit-adjustment --latex > table.tex
    ltcache report ablation --confusions
    ltcache report folds --label-errors
    ltcache report ablation folds more --html report.html
    """
    from ltcache.report import WRITERS, comparison_table, report, usual_split

    if html is not None:
        options = {"baseline": baseline, "split": split, "source": source}
        _write_page(runs, cache, html, **options)
        return
    if forms.pop("label_errors"):
        _label_errors(runs, cache, as_json)
        return
    if forms.pop("confusions"):
        _confusions(runs, cache, split or "test", as_json)
        return
    comparison: Mapping[str, Any] = report(runs, baseline, cache=cache)
    shown = split or usual_split(comparison)
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


def _label_errors(runs: tuple[Path, ...], cache: Path | None, as_json: bool) -> None:
    from ltcache.ablate import label_errors
    from ltcache.report import label_errors_table

    if len(runs) > 1:
        raise click.UsageError("--label-errors takes one folder that ltcache ablate --folds wrote")
    found = label_errors(runs[0], cache)
    if as_json:
        print_json(found.to_dict())
    else:
        click.echo(label_errors_table(found, width=terminal_width()))


def _write_page(runs: tuple[Path, ...], cache: Path | None, html: Path, **options: Any) -> None:
    from ltcache.ablate import label_errors, read_folds
    from ltcache.records import result_folder
    from ltcache.report import GROWTH, MoreImages, on_folds, read_runs
    from ltcache.report.html import write_report_page

    folds = [path for path in runs if on_folds(result_folder(path))]
    grown = [path for path in runs if (path / GROWTH).is_file()]
    others = [path for path in runs if path not in (*folds, *grown)]
    if not others and len(folds) != 1:
        raise click.UsageError(
            "--html: a page is of runs that are scored on a split, or of one ablation on folds; "
            "name such beside what more-images wrote"
        )
    written = write_report_page(
        read_runs(others, cache) if others else read_folds(folds[0], cache),
        html,
        label_errors=[label_errors(path, cache) for path in folds],
        more_images=[MoreImages.read(path) for path in grown],
        **options,
    )
    click.echo(f"{written.path}: {written.bytes / 1e6:.1f} MB; open it in a browser", err=True)
