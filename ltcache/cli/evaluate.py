"""``ltcache evaluate``."""

from __future__ import annotations

from pathlib import Path

import click

from ltcache.cli.combinations import needs, option_rules
from ltcache.cli.options import LocalPath, allow_stale, general, print_json


@click.command("evaluate", short_help="Score a run on a split of a cache.")
@click.argument("run", type=LocalPath())
@click.option("--cache", type=LocalPath(), help="If not the one it was fitted on.")
@click.option("--split", default="test", show_default=True)
@click.option(
    "--test-prior",
    metavar="PRIOR",
    help="Class prior to move the logits and weight the rows to: uniform, train, forward-50, "
    "backward-10..., a csv with label,prior; or estimate: by EM on the unlabelled rows "
    "(transductive).",
)
@click.option(
    "--shift",
    metavar="SHIFT",
    help="Score a long-tailed subset of a balanced split: forward-50, backward-10...",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the rows of --shift.")
@click.option("--write", is_flag=True, help="Also write metrics-SPLIT.json into the run.")
@allow_stale
@general
@option_rules(
    needs("seed", "shift"),
)
def command(
    run: Path,
    cache: Path | None,
    split: str,
    write: bool,
    test_prior: str | None,
    shift: str | None,
    seed: int,
    allow_stale: tuple[str, ...],
    as_json: bool,
) -> None:
    """Score RUN: accuracy by group, calibration, intervals over units.

    Features of another encoder, other classes or an older checkpoint are refused with status 4.

    \b
    ltcache evaluate runs/la --split val
    ltcache evaluate runs/la --cache other-cache --json
    ltcache evaluate runs/la --shift backward-50 --test-prior estimate
    """
    from ltcache.evaluate import evaluate
    from ltcache.report import details, footnote, results_table

    metrics = evaluate(
        run, cache, split, allow_stale, write=write, test_prior=test_prior, shift=shift, seed=seed
    )
    if as_json:
        print_json(metrics.to_dict())
        return
    click.echo(results_table({run.name: metrics}))
    click.echo(details(metrics))
    click.echo(footnote(metrics, split))
