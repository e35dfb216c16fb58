"""``ltcache export``."""

from __future__ import annotations

from pathlib import Path

import click

from ltcache.cli.options import general, print_json


@click.command("export", short_help="Write a cache or a run as plain files.")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder.")
@click.option("--model", help="Of a run: its encoder, if not the one the run names.")
@click.option("--pretrained", help="Its tag or checkpoint.")
@click.option(
    "--activation", type=click.Choice(["gelu", "quick_gelu"]), help="For a bare weights file."
)
@general
def command(
    source: Path,
    out: Path,
    model: str | None,
    pretrained: str | None,
    activation: str | None,
    as_json: bool,
) -> None:
    """Write SOURCE as files that need nothing of ltcache.

    A cache becomes a folder of numpy arrays with its rows in parquet. A run becomes image tower
    and head in one safetensors file with a script that needs torch and open_clip alone.

    \b
    ltcache export cache --out plain
    ltcache export runs/la --out bundle
    """
    from ltcache.transfer import export_bundle, export_cache

    if (source / "run.json").is_file():
        export_bundle(source, out, model=model, pretrained=pretrained, activation=activation)
        files = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    else:
        files = export_cache(source, out).files
    if as_json:
        print_json({"path": str(out), "files": files})
        return
    for name, size in files.items():
        click.echo(f"{out / name}  {size / 1e6:.1f} MB")
