"""``ltcache ensemble``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltcache.cli.options import LocalPath, allow_stale, general, print_json, terminal_width
from ltcache.cli.progress import ProgressBar
from ltcache.errors import UsageError

if TYPE_CHECKING:
    from ltcache.ensemble import Ensemble, RowsRecord


@click.command("ensemble", short_help="Mix runs and zero-shot, also of different encoders.")
@click.argument("members", nargs=-1, required=True, metavar="RUN RUN|zero-shot...")
@click.option("--out", required=True, type=LocalPath(), help="The result to write.")
@click.option(
    "--cache",
    "caches",
    multiple=True,
    type=LocalPath(),
    help="If not the ones the runs were fitted on: one for all runs, or one for each in order.",
)
@click.option("--split", default="test", show_default=True)
@click.option(
    "--space",
    type=click.Choice(["probabilities", "logits"]),
    default="probabilities",
    show_default=True,
    help="What is averaged.",
)
@click.option(
    "--weights",
    metavar="W,W...",
    help="One for each member, scaled to sum 1; by default chosen on the validation split.",
)
@click.option("--prompts", help="A set of class texts for zero-shot.  [default: default]")
@click.option("--overwrite", is_flag=True, help="Replace another ensemble in --out.")
@allow_stale
@general
def command(
    members: tuple[str, ...], out: Path, weights: str | None, as_json: bool, **options: Any
) -> None:
    """Average the scores of members: RUNs, and zero-shot (or zero-shot:CACHE) by class prompts.

    Runs may be of different encoders: rows are matched by their key, and those that a cache lacks
    are left out and counted. Other classes are refused with status 4. Weights are chosen on
    validation data by mean accuracy per class (ties: lower NLL).

    \b
    ltcache ensemble runs/lift-lp zero-shot --out runs/with-zero-shot
    ltcache ensemble runs/resnet runs/clip --space logits --out runs/both
    ltcache ensemble runs/resnet zero-shot:clip-cache --weights 0.5,0.5 --out runs/half
    """
    from ltcache.ensemble import ensemble

    given = None if weights is None else _numbers(weights)
    with ProgressBar(quiet=as_json) as bar:
        found = ensemble(
            members,
            out,
            weights=given,
            progress=lambda done, total: bar.show(done, total, "weights tried on val"),
            **options,
        )
    if as_json:
        print_json({**found.record.to_dict(), "metrics": found.metrics_record()})
    else:
        _show(found)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--weights {text!r}: expected numbers such as 0.7,0.3") from None


def _show(found: Ensemble) -> None:
    from ltcache.report import details, footnote, results_table

    split = found.record.split
    own = {name: metrics[split] for name, metrics in found.member_metrics.items()}
    click.echo(results_table({**own, "ensemble": found.metrics[split]}, width=terminal_width()))
    click.echo(details(found.metrics[split]))
    click.echo(_weights(found, split))
    click.echo(_difference(found))
    for name, rows in found.record.rows.items():
        for line in _left_out(name, rows):
            click.echo(line)
    if found.record.encoders > 1:
        click.echo(found.record.encoders_note)
    click.echo(footnote(found.metrics[split], split))


def _weights(found: Ensemble, split: str) -> str:
    shown = ", ".join(f"{weight:.4g} {name}" for name, weight in found.weights.items())
    how = "given"
    if found.record.tuned_on:
        points = len(found.record.tried)
        how = f"chosen on val by mean accuracy per class, of {points}"
        how += "; these are the rows that chose" if split == "val" else ""
    return f"weights of {found.record.space}: {shown} ({how})"


def _difference(found: Ensemble) -> str:
    paired = found.differences[found.best_member]
    return (
        f"ensemble - best member ({found.best_member}): {100 * paired.difference:+.1f} mean/class, "
        f"95 % {100 * paired.low:+.1f} to {100 * paired.high:+.1f}, p {paired.p:.3g} (paired "
        f"bootstrap over {paired.units} units)"
    )


def _left_out(split: str, rows: RowsRecord) -> list[str]:
    return [
        f"{split}: {name} lacks {missing.rows} rows that others have "
        f"({missing.in_another_split} of them in another split of its cache), left out: "
        f"{', '.join(missing.first)}{'...' if missing.rows > len(missing.first) else ''}"
        for name, missing in rows.missing.items()
    ]
