"""``ltcache evaluate``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ltcache.cli import completion
from ltcache.cli.combinations import excludes, needs, option_rules, refuse_given
from ltcache.cli.options import (
    CachePath,
    LocalPath,
    allow_stale,
    general,
    print_json,
    terminal_width,
)
from ltcache.errors import UsageError
from ltcache.records import PlaceKind, counted, kind_of


@click.command("evaluate", short_help="Score a run on a split of a cache.")
@click.argument("run", type=LocalPath())
@click.option("--cache", type=CachePath(), help="If not the one it was fitted on.")
@click.option("--split", default="test", show_default=True, shell_complete=completion.split_names)
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
@click.option("--per-class", is_flag=True, help="Each class: its score, what it is taken for.")
@click.option(
    "--predictions",
    type=LocalPath(),
    metavar="OUT.parquet",
    help="Also write key, label and the five most probable classes of each row.",
)
@allow_stale
@general
@option_rules(
    needs("seed", "shift"),
    excludes("per_class", "test_prior", "shift", why="classes are told of logits as fitted"),
    excludes("predictions", "test_prior", "shift", why="predictions are as fitted"),
)
def command(run: Path, as_json: bool, **options: Any) -> None:
    """Score RUN: accuracy by group, calibration, intervals over units.

    RUN may be a folder of seeds, whose mean and spread are printed, or an ensemble. Features of
    another encoder, other classes or an older checkpoint are refused with status 4.

    \b
    ltcache evaluate runs/la --split val
    ltcache evaluate runs/la --per-class --predictions la.parquet
    ltcache evaluate runs/la --cache other-cache --json
    ltcache evaluate runs/la --shift backward-50 --test-prior estimate
    """
    kind = kind_of(run)
    if kind is PlaceKind.SEEDS:
        refuse_given(("per_class",), f"{run} is a folder of seeds; name one of its runs")
        _seeds(run, options, as_json)
    elif kind in (PlaceKind.RUNS, PlaceKind.ABLATION):
        raise UsageError(f"{run} is {kind.value}: ltcache report {run} compares them")
    else:
        score = _ensemble if kind is PlaceKind.ENSEMBLE else _run
        _show(run.name, *score(run, **options), options["split"], as_json)


def _run(
    run: Path, *, per_class: bool, predictions: Path | None, **options: Any
) -> tuple[Any, list[Any] | None]:
    from ltcache.evaluate import class_scores, evaluate

    metrics, rows = evaluate(run, **options), _which_rows(options)
    _write_predictions([run], predictions, rows)
    return metrics, class_scores(run, **rows) if per_class else None


def _which_rows(options: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: options[name] for name in ("cache", "split", "allow_stale")}


def _write_predictions(runs: list[Path], out: Path | None, which: Mapping[str, Any]) -> None:
    from ltcache.evaluate import split_predictions, write_predictions

    if out is not None:
        write_predictions([split_predictions(run, **which) for run in runs], out)


def _ensemble(
    path: Path, *, split: str, cache: Path | None, **options: Any
) -> tuple[Any, list[Any] | None]:
    from ltcache.ensemble import evaluate_ensemble

    stale = options.pop("allow_stale")
    if given := [name for name, value in options.items() if value]:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{path} is an ensemble, which is scored without {named}")
    return evaluate_ensemble(path, split, cache, stale), None


def _show(name: str, metrics: Any, classes: list[Any] | None, split: str, as_json: bool) -> None:
    from ltcache.report import classes_table, details, footnote, results_table

    if as_json:
        print_json(metrics if classes is None else {**metrics.to_dict(), "classes": classes})
        return
    click.echo(results_table({name: metrics}, width=terminal_width()))
    click.echo(details(metrics))
    click.echo(footnote(metrics, split))
    if classes is not None:
        click.echo(classes_table(classes, width=terminal_width()))


def _seeds(folder: Path, options: Mapping[str, Any], as_json: bool) -> None:
    from ltcache.evaluate import evaluate_seeds
    from ltcache.fit import summarise_seeds
    from ltcache.report import seeds_table

    rest = {name: v for name, v in options.items() if name not in ("per_class", "predictions")}
    split, scores = options["split"], evaluate_seeds(folder, **rest)
    _write_predictions(
        [folder / name for name in scores], options["predictions"], _which_rows(rest)
    )
    summary = {split: summarise_seeds(list(scores.values()))}
    if as_json:
        print_json(summary)
        return
    first = next(iter(scores.values()))
    prior = f"; test prior: {first.test_prior}" if first.test_prior else ""
    click.echo(f"{folder}: {counted(len(scores), 'seed')} ({', '.join(scores)}), mean ± sd in %")
    click.echo(seeds_table(summary, width=terminal_width()))
    click.echo(f"{split} split, {first.num_rows} images; groups {first.group_scheme}{prior}")
    for name, metrics in scores.items():
        for adaptation in metrics.adaptations:
            click.echo(f"{name}: {adaptation.words()}")
