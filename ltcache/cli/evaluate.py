"""``ltcache evaluate``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ltcache.cli.combinations import needs, option_rules
from ltcache.cli.options import LocalPath, allow_stale, general, print_json, terminal_width
from ltcache.errors import UsageError
from ltcache.records import PlaceKind, kind_of


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
def command(run: Path, as_json: bool, **options: Any) -> None:
    """Score RUN: accuracy by group, calibration, intervals over units.

    RUN may be a folder of seeds, whose mean and spread are printed, or an ensemble. Features of
    another encoder, other classes or an older checkpoint are refused with status 4.

    \b
    ltcache evaluate runs/la --split val
    ltcache evaluate runs/la --cache other-cache --json
    ltcache evaluate runs/la --shift backward-50 --test-prior estimate
    """
    kind = kind_of(run)
    if kind is PlaceKind.SEEDS:
        _seeds(run, options, as_json)
    elif kind in (PlaceKind.RUNS, PlaceKind.ABLATION):
        raise UsageError(f"{run} is {kind.value}: ltcache report {run} compares them")
    else:
        score = _ensemble if kind is PlaceKind.ENSEMBLE else _run
        _show(run.name, score(run, **options), options["split"], as_json)


def _run(run: Path, **options: Any) -> Any:
    from ltcache.evaluate import evaluate

    return evaluate(run, **options)


def _ensemble(path: Path, *, split: str, cache: Path | None, **options: Any) -> Any:
    from ltcache.ensemble import evaluate_ensemble

    stale = options.pop("allow_stale")
    if given := [name for name, value in options.items() if value]:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{path} is an ensemble, which is scored without {named}")
    return evaluate_ensemble(path, split, cache, stale)


def _show(name: str, metrics: Any, split: str, as_json: bool) -> None:
    from ltcache.report import details, footnote, results_table

    if as_json:
        print_json(metrics)
        return
    click.echo(results_table({name: metrics}, width=terminal_width()))
    click.echo(details(metrics))
    click.echo(footnote(metrics, split))


def _seeds(folder: Path, options: Mapping[str, Any], as_json: bool) -> None:
    from ltcache.evaluate import evaluate_seeds
    from ltcache.fit import summarise_seeds
    from ltcache.report import seeds_table

    split, scores = options["split"], evaluate_seeds(folder, **options)
    summary = {split: summarise_seeds(list(scores.values()))}
    if as_json:
        print_json(summary)
        return
    first = next(iter(scores.values()))
    prior = f"; test prior: {first.test_prior}" if first.test_prior else ""
    click.echo(f"{folder}: {len(scores)} seeds ({', '.join(scores)}), mean ± sd in %")
    click.echo(seeds_table(summary, width=terminal_width()))
    click.echo(f"{split} split, {first.num_rows} images; groups {first.group_scheme}{prior}")
    for name, metrics in scores.items():
        for adaptation in metrics.adaptations:
            click.echo(f"{name}: {adaptation.words()}")
