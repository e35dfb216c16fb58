"""``ltcache methods``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from ltcache.cli.options import general, print_json


@click.command("methods", short_help="List the methods, or explain one.")
@click.argument("name", required=False)
@general
def command(name: str | None, as_json: bool) -> None:
    """List the methods of fit-adapter, or print NAME's reference, fidelity, equations, settings.

    Names of the literature that cached features cannot train are explained as well.

    \b
    ltcache methods
    ltcache methods logit-adjustment
    ltcache methods paco
    """
    from ltcache.methods import METHODS, UNAVAILABLE, known_overrides, method_by_name

    if name is None:
        _list(METHODS, UNAVAILABLE, as_json)
    elif name.lower() in UNAVAILABLE and name not in METHODS:
        entry = UNAVAILABLE[name.lower()]
        if as_json:
            print_json({**asdict(entry), "trainable": False})
            return
        click.echo("\n".join(_unavailable(entry)))
    else:
        method = method_by_name(name)
        settings = known_overrides(method)
        if as_json:
            equations = [_equations(stage) for stage in method.stages]
            print_json({**method.to_dict(), "equations": equations, "settings": settings})
            return
        click.echo("\n".join(_lines(method, settings)))


def _list(methods: Mapping[str, Any], unavailable: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json({method.name: method.title for method in methods.values()})
        return
    width = max(map(len, methods))
    for method in methods.values():
        click.echo(f"{method.name:{width}}  {method.title}")
    if unavailable:
        names = ", ".join(unavailable)
        click.echo(f"known, but not trainable on cached features (ltcache methods NAME): {names}")


def _unavailable(entry: Any) -> list[str]:
    lines = [
        f"{entry.name}: {entry.title}",
        f"reference: {entry.reference}",
        f"not trainable on cached features: {entry.why}",
        f"needed: {entry.needs}",
    ]
    return lines + ([f"nearest here: {', '.join(entry.near)}"] if entry.near else [])


def _lines(method: Any, settings: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{method.name}: {method.title}",
        f"reference: {method.reference}",
        f"fidelity:  {method.fidelity}. {method.differs}",
    ]
    if method.mechanism:
        lines.append(f"mechanism: {method.mechanism}")
    if method.ablation:
        off = " ".join(f"-s {key}={value}" for key, value in method.ablation.items())
        lines.append(f"ablation:  {off} switches it off")
    if method.same_as:
        lines.append(f"same as:   {method.same_as}")
    if method.equation:
        lines.append(f"equation:  {method.equation}")
    feature = method.feature
    lines.append(f"features:  {feature.field}, {feature.transform}, views {feature.view}")
    for number, stage in enumerate(method.stages):
        lines.append(f"stage {number}: {type(stage).__name__}")
        lines += [f"  {part}: {text}" for part, text in _equations(stage).items()]
    lines.append("settings (change them with -s key=value; stages.0.KEY is of the first stage):")
    return lines + [f"  {key} = {value}" for key, value in settings.items()]


def _equations(stage: Any) -> dict[str, str]:
    """Return part of a stage -> its name with its equation, where it has one."""
    from ltcache.methods.overrides import PARTS

    found: dict[str, str] = {}
    for part, about in PARTS.get(type(stage), {}).items():
        value = getattr(stage, part)
        names = value if isinstance(value, tuple) else (value,)
        texts = [_with_equation(name, about.catalogue) for name in names if name is not None]
        if texts:
            found[part] = ", then ".join(texts)
    if hasattr(stage, "init"):
        found["init"] = stage.init
    if hasattr(stage, "statistic"):
        found["statistic"] = stage.statistic
    return found


def _with_equation(name: str, catalogue: Mapping[str, Any]) -> str:
    equation = getattr(catalogue.get(name), "equation", "")
    return f"{name}: {equation}" if equation else name
