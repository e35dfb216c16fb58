"""``ltcache extract``."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltcache.cli import completion
from ltcache.cli.combinations import excludes, needs, option_rules, refuse_given
from ltcache.cli.engine import engine_options, engine_rules
from ltcache.cli.options import (
    CacheTarget,
    echo_warnings,
    encoder_options,
    general,
    label_column_option,
    print_json,
    say_embedded,
    split_options,
    split_recipe,
)
from ltcache.records import counted

if TYPE_CHECKING:
    from ltcache.extract import ExtractReport
    from ltcache.manifest import Manifest


@click.command("extract", short_help="Encode images and class prompts into a cache.")
@click.argument("source")
@click.option(
    "--out", required=True, type=CacheTarget(), help="The cache to make: a folder, or s3://..."
)
@click.option("--root", type=click.Path(path_type=Path), help="Where the images are.")
@click.option("--classes", type=click.Path(path_type=Path), help="Class names, in label order.")
@label_column_option
@click.option("--unlabelled", is_flag=True, help="Take SOURCE as a pool without labels.")
@split_options()
@encoder_options
@click.option(
    "--templates",
    help="Class prompts in place of the source's: openai (80), openai-simple (7), or a file.",
)
@click.option(
    "--views",
    shell_complete=completion.view_names,
    help="Comma-separated, besides center: flip, five, rrc:K (K random crops), cmo:K (K composites "
    "of each training image with another one). Added to a cache that has others.",
)
@click.option("--view-seed", type=int, help="Of random crops and composites; 0 for a new view.")
@click.option(
    "--fields",
    help="Comma-separated: embedding,pooled. All that the tower has; may be added later.",
)
@click.option("--batch-size", type=int, help="Images in one pass: 16 on a CPU, 256 on a GPU.")
@click.option("--shard-size", type=int, help="Images in one file: what a kill can cost at most.")
@click.option("--workers", type=int, help="Decoding threads; the number of processors.")
@click.option(
    "--decode-processes",
    type=click.IntRange(0),
    metavar="N",
    help="Decode in N processes, not in threads: where a GPU waits for decoding. The default for a "
    "GPU and 10,000 images; 0: threads.",
)
@click.option(
    "--decoder",
    type=click.Choice(["pillow", "torchvision", "nvjpeg"]),
    help="Of JPEG files; part of the cache's record. pillow; nvjpeg needs a GPU.",
)
@click.option(
    "--threads",
    type=int,
    help="Compute threads of a batch on a CPU, 1 by default; several batches are encoded at once. "
    "Part of the cache's record.",
)
@click.option(
    "--max-failures",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Share of failed images to put up with, judged from 1,000 images on.",
)
@click.option("--retry-failed", is_flag=True, help="Try images again that failed before.")
@click.option("--rehash", is_flag=True, help="Look for images that changed under their names.")
@click.option(
    "--part",
    metavar="I/N",
    help="This process is the I-th, from 1, of N that extract into one cache. Not needed under "
    "torchrun, srun and mpirun and in Slurm's job arrays.",
)
@click.option(
    "--gpus",
    metavar="all|N",
    help="Encode on all GPUs of this machine, or on N: one process each, as with --part.",
)
@click.option(
    "--processes",
    type=click.IntRange(1),
    help="The same on the CPU: so many processes, which divide its processors.",
)
@engine_options("one for each GPU of the cluster, or for each machine")
@click.option(
    "--finalise",
    "finish_only",
    is_flag=True,
    help="Encode no image: finish a cache of which every part has been encoded, or say what lacks.",
)
@click.option("--quiet", is_flag=True, hidden=True, help="No progress: another process shows it.")
@click.option("--limit", type=click.IntRange(1), help="Take only the first rows: for a trial.")
@general
@option_rules(
    needs("view_seed", "views", why="it is the seed of random crops and composites"),
    needs("split_seed", "shares"),
    needs("split_by", "shares"),
    excludes("unlabelled", "shares", why="a pool is divided into nothing"),
    excludes("gpus", "processes", "device", why="each GPU of this machine gets a process"),
    *engine_rules("gpus", "processes", "part"),
    excludes("decode_processes", "workers", why="a process decodes in one thread"),
    excludes(
        "finish_only",
        "part",
        "gpus",
        "processes",
        "engine",
        "retry_failed",
        "rehash",
        why="no image is encoded",
    ),
    excludes("processes", "device", why="these processes run on the CPU; --gpus takes GPUs"),
)
def command(
    out: Path,
    source: str,
    as_json: bool,
    limit: int | None,
    templates: str | None,
    gpus: str | None,
    processes: int | None,
    **options: Any,
) -> int:
    """Encode every image of SOURCE and every class prompt, once.

    SOURCE is a folder of class folders, a 'path label' text list, a csv, jsonl or parquet file, tar
    shards (train-{00000..00009}.tar), a saved Hugging Face dataset, an fsspec address (s3://...), a
    manifest directory or packaged name (emoji_lt), or a folder of unlabelled images. DIR/NAME
    takes all splits of lists and tables: DIR/NAME_train.txt, DIR/NAME_val.txt...

    An interrupted extraction goes on where it stopped when the same command runs again. A finished
    cache is reused at once, and where SOURCE has changed only new content is encoded: new labels,
    splits and deletions change the manifest alone. Exit status 3: some rows failed, with a reason.

    --split divides images that lie in no splits, as ltcache split does. Several processes may make
    one cache at an s3:// address, without a disk in common; once it is finished it is only read.

    \b
    ltcache extract photos/ --out cache --model ViT-B-16,openai --split test=0.2,val=0.1
    ltcache extract photos/ --out cache --views rrc:4,five
    ltcache extract photos/ --out cache --model ViT-L-14,openai --gpus all
    ltcache extract lists/ImageNet_LT --root /data/imagenet --out cache --model ViT-B-32,openai
    """
    if gpus or processes:
        return _together(out, as_json, gpus, processes)
    from ltcache.cli.progress import ExtractionBar
    from ltcache.cli.several import extract_in_actors
    from ltcache.extract import extract

    engine, actors, quiet = (options.pop(name) for name in ("engine", "actors", "quiet"))
    options["splitting"] = split_recipe(options)
    say_embedded(options["model"], "encoding")
    for name in ("views", "fields"):
        options[name] = options[name].split(",") if options[name] else None
    if not any(view.strip().startswith(("rrc", "cmo")) for view in options["views"] or ()):
        refuse_given(("view_seed",), "none of --views is random (rrc:K, cmo:K)")
    manifest = _asked_for(source, limit, templates, options)
    if engine:
        return _tell(extract_in_actors(manifest, out, actors, options), as_json)
    with ExtractionBar(quiet) as bar:
        report = extract(manifest, out, progress=bar, **options)
    return _tell(report, as_json, quiet)


def _asked_for(
    source: str, limit: int | None, templates: str | None, options: MutableMapping[str, Any]
) -> Manifest:
    """Return the images to encode, and take what says which they are out of the options."""
    from ltcache.encoder import family_of
    from ltcache.extract import ListReading, read_once
    from ltcache.process import part_of_work

    reading = ListReading(
        root=options.pop("root"),
        classes=options.pop("classes"),
        labelled=False if options.pop("unlabelled") else None,
        label_column=options.pop("label_column"),
    )
    manifest = read_once(source, part_of_work(options["part"]), reading)
    echo_warnings(manifest)
    if limit:
        manifest = manifest.head(limit)
    if not len(manifest.classes):
        refuse_given(("templates",), f"{source} has no classes to make texts of")
    if not family_of(options["model"]).has_texts:
        refuse_given(("templates",), f"{options['model']} has no text tower")
    if not templates:
        return manifest
    from ltcache.texts import template_set

    return replace(manifest, templates=template_set(templates))


def _together(out: Path, as_json: bool, gpus: str | None, processes: int | None) -> int:
    """Let several processes carry out the running command."""
    from ltcache.cli.several import count_gpus, extract_by_several

    count, device = (count_gpus(gpus), "cuda") if gpus else (processes or 1, "cpu")
    ended = extract_by_several(click.get_current_context(), out, count, device)
    return ended if isinstance(ended, int) else _tell(ended, as_json)


_TURNED = (
    "{} of those encoded now have a rotation in their EXIF. It is not applied, as in open_clip: "
    "the encoder saw them on their side or upside down. To have them upright, turn the files "
    "(mogrify -auto-orient, on a copy) and run the same command with --rehash"
)


def _tell(report: ExtractReport, as_json: bool, quiet: bool = False) -> int:
    if report.shared and not quiet:
        from ltcache.cache import shared_warning

        click.echo(f"warning: {shared_warning(report.shared, report.path)}", err=True)
    if report.turned and not quiet:
        click.echo(f"warning: {_TURNED.format(counted(report.turned, 'image'))}", err=True)
    if as_json:
        print_json(report)
    else:
        _print(report)
    return report.exit_status


def _print(report: ExtractReport) -> None:
    made = f"encoded {counted(report.encoded, 'image')}" if report.encoded else "nothing to encode"
    click.echo(
        f"{report.path}: {counted(report.rows, 'row')}, {counted(report.items, 'image')}; {made} "
        f"in {report.seconds:.1f} s ({report.binding})"
    )
    for line in report.split.lines() if report.split else ():
        click.echo(f"{report.path}: {line}")
    if report.failed:
        click.echo(f"{report.failed} rows failed, for example:", err=True)
        from ltcache.manifest import printable

        for key, reason in report.failures:
            click.echo(f"  {printable(key)}: {printable(reason)}", err=True)
