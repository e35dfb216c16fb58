"""``ltcache methods``."""

from __future__ import annotations

from typing import Any

import click

from ltcache.cli.options import general, print_json


@click.command("methods", short_help="List the methods, or explain one.")
@click.argument("name", required=False)
@general
def command(name: str | None, as_json: bool) -> None:
    """List the methods of fit-adapter, or print NAME's reference, fidelity and settings.

    \b
    ltcache methods
    ltcache methods logit-adjustment
    """
    from ltcache.methods import METHODS, known_overrides, method_by_name

    if name is None:
        if as_json:
            print_json({method.name: method.title for method in METHODS.values()})
            return
        width = max(map(len, METHODS))
        for method in METHODS.values():
            click.echo(f"{method.name:{width}}  {method.title}")
        return
    method = method_by_name(name)
    settings = known_overrides(method)
    if as_json:
        print_json({**method.to_dict(), "settings": settings})
        return
    click.echo("\n".join(_lines(method, settings)))


def _lines(method: Any, settings: dict[str, Any]) -> list[str]:
    return [
        f"{method.name}: {method.title}",
        f"reference: {method.reference}",
        f"fidelity:  {method.fidelity}. {method.differs}",
        "settings (change them with -s key=value):",
        *(f"  {key} = {value}" for key, value in settings.items()),
    ]
