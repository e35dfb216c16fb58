"""``ltcache export``."""

from __future__ import annotations

from pathlib import Path

import click

from ltcache.cli.combinations import refuse_given
from ltcache.cli.options import LocalPath, general, other_encoder, print_json
from ltcache.errors import UsageError
from ltcache.records import OF_RUNS, PlaceKind, kind_of, not_what_is_asked

FORMATS = {PlaceKind.RUN: ("bundle", "onnx"), PlaceKind.CACHE: ("plain", "hf")}


@click.command("export", short_help="Write a cache or a run for use without ltcache.")
@click.argument("source", type=LocalPath())
@click.option("--out", required=True, type=LocalPath(), help="A new folder.")
@click.option(
    "--format",
    "form",
    type=click.Choice([form for forms in FORMATS.values() for form in forms]),
    help="Of a run: bundle (default) or onnx. Of a cache: plain (default) or hf.",
)
@other_encoder("Of a run: its encoder, if not the one the run names.")
@general
def command(
    source: Path,
    out: Path,
    form: str | None,
    model: str | None,
    pretrained: str | None,
    activation: str | None,
    as_json: bool,
) -> None:
    """Write SOURCE as files that need nothing of ltcache.

    A run becomes image tower and head in one safetensors file with a script that needs torch and
    open_clip alone, and, where its head folds, a matrix for open_clip's zero-shot classification
    (bundle); or one ONNX file from pixels to probabilities (onnx). A cache becomes a folder of
    numpy arrays with its rows in parquet (plain), or a dataset for load_from_disk of Hugging Face's
    datasets (hf).

    \b
    ltcache export runs/la --out bundle
    ltcache export runs/la --format onnx --out onnx
    ltcache export cache --out plain
    ltcache export cache --format hf --out dataset
    """
    from ltcache.encoder import EncoderChoice
    from ltcache.transfer import export_bundle, export_cache, export_dataset, export_onnx

    kind = _kind_to_export(source)
    form = form or FORMATS[kind][0]
    if form not in FORMATS[kind]:
        known = " or ".join(FORMATS[kind])
        raise UsageError(f"{source} is {kind.value}: it is exported as {known}, not {form}")
    if kind is PlaceKind.CACHE:
        refuse_given(
            ("model", "pretrained", "activation"),
            f"{source} is a cache, and features are written without an encoder",
        )
    if kind is PlaceKind.RUN:
        write = export_onnx if form == "onnx" else export_bundle
        write(source, out, encoder=EncoderChoice(model, pretrained, activation))
    else:
        (export_dataset if form == "hf" else export_cache)(source, out)
    files = {
        path.relative_to(out).as_posix(): path.stat().st_size
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }
    if as_json:
        print_json({"path": str(out), "format": form, "files": files})
        return
    for name, size in files.items():
        click.echo(f"{out / name}  {size / 1e6:.1f} MB")


def _kind_to_export(source: Path) -> PlaceKind:
    """Return whether a place is a run or a cache; refuse any other."""
    kind = kind_of(source)
    if kind is None or kind not in FORMATS:
        wanted = PlaceKind.RUN if kind in OF_RUNS else PlaceKind.CACHE
        raise UsageError(
            f"a run or a cache is exported, neither is here: {not_what_is_asked(source, wanted)}"
        )
    return kind
