"""``ltcache import``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ltcache.cli.combinations import excludes, option_rules, refuse_given
from ltcache.cli.options import LocalPath, general, print_json

_OF_ARRAYS = (
    "name", "feature_field", "labels", "classes", "text", "splits", "split", "manifest",
    "logit_scale",
)  # fmt: skip


@click.command("import", short_help="Make a cache of features that were computed elsewhere.")
@click.argument("source", type=LocalPath())
@click.option("--out", required=True, type=LocalPath(), help="The cache to make.")
@click.option(
    "--layout",
    type=click.Choice(["auto", "arrays", "clip-retrieval", "tip-adapter", "ltcache"]),
    default="auto",
    show_default=True,
)
@click.option("--name", help="What to call the encoder; the source's name.")
@click.option(
    "--field",
    "feature_field",
    type=click.Choice(["embedding", "pooled"]),
    default="embedding",
    show_default=True,
    help="Features in the space of the class texts, or before the projection into it.",
)
@click.option("--labels", type=LocalPath(), help="One a row: numbers or names.")
@click.option("--classes", type=LocalPath(), help="Class names in label order.")
@click.option("--text", type=LocalPath(), help="Class embeddings (C, D).")
@click.option(
    "--splits",
    type=LocalPath(),
    help="One a row: train, val, test, or a name or number of its own.",
)
@click.option(
    "--split", default="train", show_default=True, help="Of rows for which nothing says it."
)
@click.option("--manifest", help="A list of the rows in the same order, in place of these four.")
@click.option(
    "--encoder-of",
    type=LocalPath(),
    metavar="CACHE",
    help="The features come from the encoder of this cache: take its identity, on your word.",
)
@click.option("--logit-scale", type=float, help="Of zero-shot logits; 100 for CLIP.")
@click.option("--shard-size", type=click.IntRange(1), default=1024, show_default=True)
@general
@option_rules(
    excludes("manifest", "labels", "splits", "split", "classes", why="the list says it"),
    excludes("splits", "split", why="each row has its own split"),
    excludes("encoder_of", "name", "logit_scale", why="the encoder of that cache is taken"),
)
def command(source: Path, out: Path, as_json: bool, **options: Any) -> int:
    """Make a cache of SOURCE, features in .npy, .npz, .safetensors or .pt (tensors only).

    SOURCE is a file or a folder whose arrays are named by what they are (features, labels,
    text_features, classes; train_features, test_labels, val.npy...), an output of clip-retrieval,
    a cache_dir of Tip-Adapter, or an export of ltcache, which gets its encoder's identity back.

    \b
    ltcache import features.npz --out cache --classes names.txt
    ltcache import train.npy --labels labels.npy --text text.npy --logit-scale 100 --out cache
    ltcache import tip_adapter_caches/imagenet --out cache
    """
    from ltcache.transfer import guess_layout, import_features

    layout = guess_layout(source) if options["layout"] == "auto" else options["layout"]
    if layout == "ltcache":
        refuse_given(_OF_ARRAYS, f"{source} is an export of ltcache, which says all of this itself")

    report = import_features(source, out, **options)
    if as_json:
        print_json(report)
    else:
        rows = ", ".join(f"{split} {count}" for split, count in report.rows.items())
        dims = ", ".join(f"{field} {dim}" for field, dim in report.fields.items())
        texts = f"; class texts {', '.join(report.prompts)}" if report.prompts else ""
        click.echo(f"{out}: {rows} rows of {report.classes} classes, {dims}{texts}")
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    if report.failed:
        click.echo(f"{report.failed} rows failed: not finite, or zero throughout", err=True)
    return report.exit_status
