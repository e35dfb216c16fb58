"""``ltcache ablate``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltcache.cli import completion
from ltcache.cli.combinations import excludes, needs, option_rules
from ltcache.cli.engine import engine_options, engine_rules, modules_of
from ltcache.cli.options import (
    LocalPath,
    allow_stale,
    cache_argument,
    general,
    parse_settings,
    settings_option,
    terminal_width,
)
from ltcache.cli.tuning import extra_options, parse_grid, read_extra, tuning_options
from ltcache.records import counted

if TYPE_CHECKING:
    from ltcache.ablate import Ablation

FAILED = 3


@click.command("ablate", short_help="Compare many methods on cached features.")
@cache_argument
@click.option(
    "--methods",
    required=True,
    shell_complete=completion.method_names,
    metavar="A,B,...",
    help="See ltcache methods; or all.",
)
@click.option("--out", required=True, type=LocalPath(), help="Runs and tables.")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="0, 1, ...")
@click.option(
    "--fusion",
    default="none",
    show_default=True,
    metavar="none,h2t,...",
    help="none: the method itself; h2t or h2t-third: METHOD+h2t or METHOD+h2t-third, of methods "
    "that end in a training.",
)
@click.option("--baseline", help="What differences are taken to; ce where it is there.")
@click.option(
    "--split",
    type=click.Choice(["test", "val"]),
    default="test",
    show_default=True,
    help="Of the tables and the plot; results.json and .csv hold both.",
)
@click.option(
    "--folds",
    type=click.IntRange(2),
    metavar="K",
    help="Without --split: divide train into K folds, score each with runs fitted on the others; "
    "test is not read.",
)
@click.option(
    "--prompts", shell_complete=completion.prompt_names, help="Class texts for heads that use them."
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or auto.")
@click.option("--workers", type=click.IntRange(1), help="Processes; one per core by default.")
@engine_options("one for each processor of the cluster, or for each GPU with --device cuda,")
@click.option(
    "--together/--one-by-one",
    default=None,
    help="Train runs of one architecture as one problem, equal up to rounding; default on a GPU.",
)
@click.option("--allow-double-correction", is_flag=True, help="Correct a prior a second time.")
@settings_option("Change a setting of every method that has it.")
@extra_options
@tuning_options("A line of the table for each value; with --tune the values that it tries instead.")
@allow_stale
@general
@option_rules(
    *engine_rules("workers"),
    needs("trials", "tune"),
    needs("tune_folds", "tune"),
    needs("tuner", "tune"),
    needs("extra_weight", "extra"),
    excludes("as_json", "split", why="JSON holds every split"),
    excludes("folds", "split", why="folds compare on train alone"),
    excludes("folds", "extra", why="extra images were chosen by those of the fold left out, too"),
)
@click.pass_context
def command(
    context: click.Context,
    cache: Path,
    methods: str,
    out: Path,
    seeds: int,
    fusion: str,
    settings: tuple[str, ...],
    grid: tuple[str, ...],
    **options: Any,
) -> None:
    """Fit methods x settings x seeds on CACHE and compare them: mean, spread, ranks, intervals.

    Killed or extended, the same command goes on: runs that are there are taken. OUT gets
    results.json, .csv, .md, .tex and a plot of accuracy against class frequency. Status 3: some
    runs failed and are listed with their reason.

    \b
    ltcache ablate cache --methods ce,crt,logit-adjustment --seeds 5 --out ablation
    ltcache ablate cache --methods logit-adjustment --grid loss.tau=0.5,1,2 --out tau
    ltcache ablate cache --methods all --engine ray --out all    # runs by a Ray cluster
    ltcache ablate cache --methods ce,crt,gda --folds 5 --out folds
    ltcache ablate cache --methods dr,ride,gcl --fusion none,h2t --tune --out h2t
    """
    from ltcache.ablate import ablate, ablate_on_ray
    from ltcache.cli.progress import AblationBar
    from ltcache.methods import METHODS
    from ltcache.report import WRITERS, comparison_table

    as_json = options.pop("as_json")
    options["extra"] = read_extra(options.pop("extra"), options.pop("extra_weight"))
    names = list(METHODS) if methods == "all" else _split(methods)
    engine, actors = options.pop("engine"), options.pop("actors")
    run: Callable[..., Ablation] = ablate
    if engine:
        del options["workers"]
        run = partial(ablate_on_ray, actors=actors, modules=modules_of(context))
    with AblationBar() as bar:
        found = run(
            cache,
            names,
            out,
            seeds=seeds,
            fusion=_split(fusion),
            grid=parse_grid(grid) if grid else None,
            overrides=parse_settings(settings),
            progress=bar,
            **options,
        )
    if as_json:
        click.echo(WRITERS["json"](found.comparison, found.split), nl=False)
    else:
        click.echo(comparison_table(found.comparison, found.split, width=terminal_width()))
        click.echo(f"{out}: results.json, .csv, .md, .tex, accuracy_by_frequency.png, .svg")
    if found.failures:
        click.echo(f"{counted(len(found.failures), 'run')} failed; see above", err=True)
        context.exit(FAILED)


def _split(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
