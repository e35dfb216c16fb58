"""``ltcache predict``."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltcache.cli.combinations import excludes, option_rules
from ltcache.cli.options import LocalPath, allow_stale, encoder_choice, general, other_encoder
from ltcache.errors import LtcacheError

if TYPE_CHECKING:
    from ltcache.evaluate import Prediction

FAILED = 3


@click.command("predict", short_help="Classify new images with a run.")
@click.argument("run", type=LocalPath())
@click.argument("images", nargs=-1, required=True)
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Classes shown.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "jsonl"]),
    default="table",
    show_default=True,
    help="csv: one line per image, one column per answer. --json is jsonl.",
)
@other_encoder("The encoder, if not the one the run names.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:0.")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@click.option("--workers", type=click.IntRange(1), help="Decoding threads.")
@click.option("--strict", is_flag=True, help="Refuse other numerics instead of warning of them.")
@allow_stale
@general
@option_rules(
    excludes("as_json", "form=table", "form=csv", why="JSON is one answer a line"),
)
def command(
    run: Path, images: tuple[str, ...], form: str, top: int, as_json: bool, **options: Any
) -> int:
    """Classify IMAGES with RUN: files, folders, .zip and .tar archives, or - for paths on stdin.

    The encoder is the one that the run names, and it must be the one that the run was fitted on
    (status 4). An image that cannot be read becomes a row with an error; the status is then 3.

    \b
    ltcache predict runs/la photo.jpg holiday/
    find . -name '*.jpg' | ltcache predict runs/la - --format csv > predictions.csv
    ltcache predict runs/la archive.zip --model local-dir:/models/mine --top 1 --format jsonl
    """
    from ltcache.evaluate import predict
    from ltcache.runs import open_run

    choice = encoder_choice(options)
    opened = open_run(run)
    found = predict(opened, images, top=top, encoder=choice, lines=_lines(), **options)
    tally = _PredictionCounter(found)
    shown = min(top, len(opened.record.class_counts))
    for line in _WRITERS["jsonl" if as_json else form](tally, shown):
        click.echo(line, color=True)  # else it drops parts of names that look like colours
    if not tally.done and "-" not in images:
        raise LtcacheError(f"no images in {', '.join(images)}")
    if tally.failed:
        click.echo(f"{tally.failed} of {tally.done} images could not be used", err=True)
    return FAILED if tally.failed else 0


def _lines() -> Iterator[str]:
    """Yield the lines of standard input; file names need not be Unicode."""
    binary = getattr(sys.stdin, "buffer", None)
    return iter(sys.stdin) if binary is None else map(os.fsdecode, binary)


class _PredictionCounter:
    """Passes predictions on and counts them."""

    def __init__(self, predictions: Iterable[Prediction]) -> None:
        self._predictions = predictions
        self.done = self.failed = 0

    def __iter__(self) -> Iterator[Prediction]:
        for prediction in self._predictions:
            self.done += 1
            self.failed += prediction.error is not None
            yield prediction


def _table(predictions: Iterable[Prediction], top: int) -> Iterator[str]:
    from ltcache.cli.prediction_table import prediction_table

    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return prediction_table(predictions, room)


def _csv(predictions: Iterable[Prediction], top: int) -> Iterator[str]:
    from ltcache.manifest import uri_of

    numbered = [f"{what}_{n}" for n in range(1, top + 1) for what in ("label", "name", "prob")]
    yield _csv_line(["image", *numbered, "error"])
    for found in predictions:
        answers = zip(found.labels, found.names, found.probabilities, strict=True)
        cells = [c for label, name, share in answers for c in (label, name, f"{share:.6g}")]
        cells += [""] * (3 * top - len(cells))
        yield _csv_line([uri_of(found.image), *cells, found.error or ""])


def _jsonl(predictions: Iterable[Prediction], top: int) -> Iterator[str]:
    from ltcache.manifest import uri_of

    for found in predictions:
        plain = found.to_dict() | {"image": uri_of(found.image)}
        yield json.dumps(plain, ensure_ascii=False)


_WRITERS = {"table": _table, "csv": _csv, "jsonl": _jsonl}


def _csv_line(cells: list[Any]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)  # quotes what its line end consists of: \r and \n
    return line.getvalue().removesuffix("\r\n")
