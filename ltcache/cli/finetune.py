"""``ltcache finetune``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ltcache.cli import completion
from ltcache.cli.combinations import excludes, needs, option_rules
from ltcache.cli.options import (
    EMBEDDED,
    LocalPath,
    echo_warnings,
    general,
    label_column_option,
    other_encoder,
    parse_settings,
    print_json,
    say_embedded,
    settings_option,
    terminal_width,
)
from ltcache.errors import UsageError
from ltcache.process import launched_process
from ltcache.records import counted

_PRECISIONS = ["fp32", "bf16", "fp16"]
_PRECISION = "optimisation.precision"


@click.command("finetune", short_help="Tune the encoder itself, then extract again.")
@click.argument("source")
@click.option(
    "--method",
    default="lift",
    shell_complete=completion.fine_tuning_names,
    show_default=True,
    help="See ltcache methods.",
)
@click.option("--out", required=True, type=LocalPath(), help="The checkpoint.")
@click.option(
    "--cache",
    type=LocalPath(),
    help="A cache of SOURCE: its encoder is tuned, and all that it holds is encoded again.",
)
@click.option("--new-cache", type=LocalPath(), help="Where to; OUT/cache by default.")
@click.option("--no-extract", is_flag=True, help="Stop at the checkpoint.")
@click.option("--root", type=click.Path(path_type=Path), help="Where the images are.")
@label_column_option
@other_encoder("As of ltcache extract; the encoder of --cache, else embedded.")
@settings_option(
    "Change a setting: optimisation.epochs=5, loss.tau=0.5, adapters=none, average=auto. "
    "`ltcache methods NAME` lists them."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all that is random.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:0.")
@click.option(
    "--precision",
    type=click.Choice(_PRECISIONS),
    help="Of the towers in training; weights and loss stay in float32.",
)
@click.option("--workers", type=click.IntRange(0), help="Loading processes.")
@click.option("--micro-batch", type=click.IntRange(1), help="Most images in the tower at once.")
@click.option("--checkpointing", is_flag=True, help="Less memory: compute activations twice.")
@click.option("--compile", "compiled", is_flag=True, help="torch.compile the image tower.")
@click.option("--track", type=LocalPath(), help="Folder for TensorBoard.")
@click.option("--save-every", type=click.IntRange(1), help="Steps between savings; 5 minutes.")
@click.option("--restart", is_flag=True, help="Throw an unfinished training away.")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace a finished checkpoint of other settings, with the cache and run in it.",
)
@click.option("--allow-double-correction", is_flag=True, help="Correct a prior a second time.")
@general
@option_rules(
    excludes("no_extract", "new_cache"),
    needs("new_cache", "cache", why="it is made of what --cache holds"),
    needs("no_extract", "cache", why="only a --cache is encoded again"),
    needs("pretrained", "model"),
    needs("activation", "model", "cache"),
)
def command(
    source: str,
    method: str,
    out: Path,
    cache: Path | None,
    new_cache: Path | None,
    no_extract: bool,
    settings: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> int | None:
    """Tune the encoder on the training split of SOURCE; validation images choose the epoch.

    With --cache, everything in that cache is then encoded again, into a new one: heads of the old
    cache refuse the new features, and the tuned classifier lies in OUT/run. A training that was
    interrupted goes on when the same command runs again, with the same result. The checkpoint is
    named local-dir:OUT wherever a --model is asked for; where no adapters are left in it, plain
    open_clip loads it too, or timm: timm.create_model("local-dir:OUT", pretrained=True). Encoders
    of timm have no texts: their heads start from class means, and methods that train on texts are
    refused.

    \b
    ltcache finetune photos/ --method lift --cache cache --out lift
    ltcache diff cache lift/cache
    ltcache fit-adapter lift/cache --method ballad --out runs/ballad
    ltcache finetune photos/ --method ballad --model ViT-B-16,openai --precision bf16 --out ballad
    ltcache finetune photos/ --method bias --model timm:efficientnet_lite0.ra_in1k --out bias
    torchrun --nproc-per-node 8 -m ltcache finetune photos/ --method full --cache cache --out full
    """
    from ltcache.cli.progress import ExtractionBar, TuningBar
    from ltcache.finetune import TunedCache, finetune, finetune_cache
    from ltcache.manifest import read_manifest

    encodes = cache is not None and not no_extract
    overrides = _overrides(settings, options.pop("precision"), encodes)
    options |= {"overrides": overrides, "resume": not options.pop("restart")}
    first, renewed = launched_process().first, None
    root, label_column = options.pop("root"), options.pop("label_column")
    manifest = read_manifest(source, root=root, label_column=label_column)
    if first:
        echo_warnings(manifest)
    if cache is None:
        options["model"] = EMBEDDED if options["model"] is None else options["model"]
        if first:
            say_embedded(options["model"], "tuning")
        with TuningBar(quiet=not first) as bar:
            renewed = TunedCache(finetune(manifest, method, out, progress=bar, **options))
    else:
        with TuningBar(quiet=not first) as bar, ExtractionBar(quiet=not first) as encoding:
            renewed = finetune_cache(
                manifest, method, out, cache, new_cache=new_cache, extraction=not no_extract,
                progress=bar, encoding=encoding, **options,
            )  # fmt: skip
    if renewed is None or not first:  # another process of the same torchrun tells
        return None
    if as_json:
        print_json(_record(renewed))
    else:
        _show(renewed, cache)
    return renewed.report.exit_status if renewed.report else 0


def _overrides(
    settings: tuple[str, ...], precision: str | None, encodes: bool
) -> Mapping[str, Any]:
    """Return the settings, refusing a view to judge by where no run is made, which alone is judged
    by it."""
    overrides = dict(parse_settings(settings))
    if precision is not None and overrides.setdefault(_PRECISION, precision) != precision:
        raise UsageError(
            f"--precision {precision} and --set {_PRECISION}={overrides[_PRECISION]} say the same "
            "thing twice and differently: leave one out"
        )
    if not encodes and "eval_view" in overrides:
        raise UsageError(
            f"--set eval_view={overrides['eval_view']} has no effect without a --cache that is "
            "encoded again: only the run on the new cache is judged by it"
        )
    return overrides


def _record(renewed: Any) -> Mapping[str, Any]:
    tuned, report, run = renewed.tuned, renewed.report, renewed.run
    return {
        **tuned.record.to_dict(),
        "checkpoint": str(tuned.path),
        "cache": str(report.path) if report else None,
        "run": str(run.path) if run else None,
        "splits": run.metrics if run else {},
    }


def _show(renewed: Any, parent: Path | None) -> None:
    from ltcache.manifest import unscored
    from ltcache.report import footnote, results_table

    tuned, report, run = renewed.tuned, renewed.report, renewed.run
    record, method = tuned.record, tuned.record.method.name
    epoch = f"epoch {record.epoch} of {len(tuned.history)}"
    chosen = "the last; there is no val split" if record.val is None else "chosen on val"
    mixed = "" if record.average is None else f", {record.average:g} of the way from its start"
    click.echo(
        f"{tuned.path}: {method}, {epoch} ({chosen}){mixed}, {record.cost.finetune_seconds:.0f} s; "
        f"name it --model local-dir:{tuned.path}"
    )
    named = {} if record.start is None else {"before tuning, val": record.start}
    if run is not None and run.metrics:
        named |= {f"{method}, {split}": values for split, values in run.metrics.items()}
        click.echo(results_table(named, width=terminal_width()))
        last = list(run.metrics)[-1]
        click.echo(footnote(run.metrics[last], last))
    elif run is not None:
        click.echo(unscored(run.record.splits))
    elif record.val is not None:
        named[f"{method}, val"] = record.val
        click.echo(results_table(named, width=terminal_width()))
    if report is not None:
        click.echo(
            f"{report.path}: {counted(report.encoded, 'image')} encoded anew; the tuned "
            f"classifier is the run {run.path}; how far features moved: "
            f"ltcache diff {parent} {report.path}"
        )
