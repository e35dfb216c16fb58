"""``ltcache fit-adapter``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ltcache.cli.options import allow_stale, cache_argument, general, print_json
from ltcache.errors import UsageError


@click.command("fit-adapter", short_help="Fit a long-tail method on cached features.")
@cache_argument
@click.option(
    "--method", default="logit-adjustment", show_default=True, help="See ltcache methods."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The run to write.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="0, 1, ...")
@click.option("--prompts", help="Class texts for heads that start from them.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or auto.")
@click.option("--overwrite", is_flag=True, help="Replace a run of other content.")
@click.option("--allow-double-correction", is_flag=True, help="Correct a prior a second time.")
@click.option(
    "-s",
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of the method: loss.tau=0.5, head=cosine, init=class_mean, "
    "optimisation.epochs=20. `ltcache methods NAME` lists them.",
)
@allow_stale
@general
def command(
    cache: Path, method: str, out: Path, seeds: int, settings: tuple[str, ...], **options: Any
) -> None:
    """Fit a head on the training split of CACHE, choose its epoch on validation data, score it.

    \b
    ltcache fit-adapter cache --method logit-adjustment --out runs/la --seeds 3
    ltcache fit-adapter cache --method ce -s head=cosine -s init=class_mean --out runs/ce-cosine
    """
    from ltcache.fit import fit_adapter, fit_seeds

    as_json = options.pop("as_json")
    options["overrides"] = parse_settings(settings)
    if seeds > 1:
        found = fit_seeds(cache, method, out, seeds=range(seeds), **options)
        _show_seeds(found, out, as_json)
        return
    run = fit_adapter(cache, method, out, **options)
    if as_json:
        print_json(run.metrics_record())
        return
    _show(run)


def parse_settings(settings: tuple[str, ...]) -> dict[str, str]:
    """Return key -> value of ``key=value`` texts."""
    pairs = [text.partition("=") for text in settings]
    for key, equals, _ in pairs:
        if not equals or not key:
            raise UsageError(f"-s {key}: write it as key=value, such as -s loss.tau=0.5")
    return {key: value for key, _, value in pairs}


def _show(run: Any) -> None:
    from ltcache.report import footnote, results_table

    click.echo(f"{run.path}: {run.method.name}, {run.method.title}")
    if run.metrics:
        named = {f"{run.method.name}, {split}": values for split, values in run.metrics.items()}
        click.echo(results_table(named))
        last = list(run.metrics)[-1]
        click.echo(footnote(run.metrics[last], last))
    tuned = run.record["tuned_on"]
    seconds = run.record["cost"]["head_seconds"]
    click.echo(f"{', '.join(tuned)} chosen on {next(iter(tuned.values()))}; {seconds:.1f} s")


def _show_seeds(found: Any, out: Path, as_json: bool) -> None:
    from ltcache.report import seeds_table

    if as_json:
        print_json(found.summary)
        return
    click.echo(f"{out}: {found.runs[0].method.name}, {len(found.runs)} seeds, mean ± sd in %")
    click.echo(seeds_table(found.summary))
