"""``ltcache bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltcache.cli.combinations import needs, option_rules
from ltcache.cli.options import (
    encoder_choice,
    general,
    label_column_option,
    other_encoder,
    print_json,
)

if TYPE_CHECKING:
    from ltcache.examine.bench import BenchResult

_MILLION = 1_000_000
_HOUR = 3600


@click.command("bench", short_help="Measure how fast a model encodes here.")
@click.argument("source", default="emoji_lt")
@other_encoder("The encoder to measure; the embedded one by default.")
@click.option("--root", type=click.Path(path_type=Path), help="Where the images are.")
@label_column_option
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:0.")
@click.option(
    "--images", type=click.IntRange(1), default=256, show_default=True, help="In the sample."
)
@click.option("--batch-size", help="Comma-separated sizes to try, such as 64,256.")
@click.option("--workers", type=click.IntRange(1), help="Decoding threads.")
@click.option(
    "--decode-processes",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Of the loop, in place of its threads, as of ltcache extract.",
)
@general
@option_rules(
    needs("pretrained", "model"),
    needs("activation", "model"),
)
def command(
    source: str,
    root: Path | None,
    label_column: str | None,
    batch_size: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure decoding and forward passes on a sample of SOURCE, in every precision and some batch
    sizes, then both with writing at once, and say what binds and what to give ltcache extract.

    Another precision than fp32 is recommended only where it is 1.2 times as fast and moves no
    feature far: a least cosine of 0.99.

    \b
    ltcache bench
    ltcache bench photos/ --model ViT-B-16 --pretrained openai
    """
    from ltcache.examine.bench import bench
    from ltcache.manifest import read_manifest

    measured = bench(
        read_manifest(source, root=root, label_column=label_column),
        encoder_choice(options),
        batches=_sizes(batch_size),
        progress=lambda text: click.echo(text, err=True),
        **options,
    )
    if as_json:
        print_json(measured)
    else:
        click.echo("\n".join(bench_lines(measured)))


def bench_lines(measured: BenchResult) -> list[str]:
    """Return what was measured as lines for people."""
    failed = f", {measured.failed} failed" if measured.failed else ""
    result = [
        f"{measured.model} on {measured.device}, {measured.images} images{failed}",
        f"reading and decoding, {measured.workers} threads: {measured.decoding:.0f} images/s",
        "precision  batch  images/s  least cosine to fp32",
    ]
    for speed in measured.speeds:
        memory = "" if speed.gigabytes is None else f"  {speed.gigabytes:.1f} GiB"
        result.append(
            f"{speed.precision:9}  {speed.batch:5}  {speed.images_per_second:8.0f}  "
            f"{speed.least_cosine:.5f}{memory}"
        )
    if measured.transfer is not None:
        result.append(f"copying to the GPU: {measured.transfer:.0f} images/s")
    result += _loop_lines(measured)
    best = measured.best
    return [*result, f"ltcache extract ... --precision {best.precision} --batch-size {best.batch}"]


def _loop_lines(measured: BenchResult) -> list[str]:
    """Return what all stages do at once, what binds and what to change."""
    rate, result = measured.bound, []
    if measured.loop is not None:
        loop = measured.loop
        rate = loop.images_per_second
        waits = f"{loop.decode:.0%} for decoding, {loop.encode:.0%} for encoding"
        result.append(f"all at once waits {waits}, {loop.write:.0%} for writing")
    hours = _MILLION / rate / _HOUR
    result.append(f"{rate:.0f} images/s, {hours:.1f} h for a million; at best {measured.bound:.0f}")
    return [*result, f"{measured.binds} binds; faster with {measured.remedy}"]


def _sizes(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        message = f"{text!r} is not a list of numbers"
        raise click.BadParameter(message, param_hint="--batch-size") from None
