"""``ltcache prompts``."""

from __future__ import annotations

from pathlib import Path

import click

from ltcache.cli.combinations import needs, option_rules
from ltcache.cli.options import LocalPath, general, print_json


@click.command("prompts", short_help="Add another set of class prompts to a cache.")
@click.argument("cache", type=LocalPath())
@click.option(
    "--templates",
    required=True,
    help="openai (80 templates), openai-simple (7), or a file: .txt with one template per line "
    "('a photo of a {}.'), .json with a list of templates, or {class: [sentences]}.",
)
@click.option("--name", help="What to call the set; the file's name by default.")
@click.option("--model", help="The encoder, if not the one the cache names.")
@click.option("--pretrained", help="Its tag or checkpoint.")
@general
@option_rules(
    needs("pretrained", "model"),
)
def command(
    cache: Path,
    templates: str,
    name: str | None,
    model: str | None,
    pretrained: str | None,
    as_json: bool,
) -> None:
    """Encode other class prompts with the encoder of CACHE and add them to it.

    \b
    ltcache prompts cache --templates openai
    ltcache zero-shot cache --prompts openai
    """
    from ltcache.encoder import EncoderChoice
    from ltcache.texts import add_class_texts

    added = add_class_texts(cache, templates, name=name, encoder=EncoderChoice(model, pretrained))
    if as_json:
        print_json(
            {"name": added.name, "classes": len(added.texts), "most": int(added.count.max())}
        )
    else:
        click.echo(
            f"{cache}: prompts {added.name!r}, {int(added.count.sum())} sentences of "
            f"{len(added.texts)} classes, such as {added.texts[0][0]!r}"
        )
