"""``ltcache methods``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from ltcache.cli import completion
from ltcache.cli.options import general, print_json
from ltcache.records import JsonObject


@click.command("methods", short_help="List the methods, or explain one.")
@click.argument("name", required=False, shell_complete=completion.method_names)
@general
def command(name: str | None, as_json: bool) -> None:
    """List the methods of fit-adapter and of finetune, or print NAME's reference, fidelity,
    equations and settings.

    Where both commands have a NAME, both are told. Names of the literature that neither can train
    are explained as well.

    \b
    ltcache methods
    ltcache methods logit-adjustment
    ltcache methods ballad
    ltcache methods abl
    """
    from ltcache.finetune import TUNINGS
    from ltcache.methods import METHODS, UNAVAILABLE, method_by_name

    if name is None:
        _list(METHODS, TUNINGS, UNAVAILABLE, as_json)
    elif name.lower() in UNAVAILABLE and name not in {**METHODS, **TUNINGS}:
        entry = UNAVAILABLE[name.lower()]
        if as_json:
            print_json({**asdict(entry), "trainable": False})
        else:
            click.echo("\n".join(_unavailable(entry)))
    elif as_json:
        records = [_tuning_record(TUNINGS[name])] if name in TUNINGS else []
        if name in METHODS or not records:
            records.insert(0, _record(method_by_name(name)))
        print_json(records[0] if len(records) == 1 else records)
    else:
        told = [_tuning_lines(TUNINGS[name])] if name in TUNINGS else []
        if name in METHODS or not told:
            told.insert(0, _lines(method_by_name(name)))
        click.echo("\n\n".join("\n".join(lines) for lines in told))


def _list(
    methods: Mapping[str, Any],
    tunings: Mapping[str, Any],
    unavailable: Mapping[str, Any],
    as_json: bool,
) -> None:
    if as_json:
        both = {"fit-adapter": methods, "finetune": tunings}
        print_json({c: {m.name: m.title for m in there.values()} for c, there in both.items()})
        return
    width = max(map(len, [*methods, *tunings]))
    for command_, there in (("fit-adapter", methods), ("finetune", tunings)):
        click.echo(f"ltcache {command_} --method")
        for method in there.values():
            click.echo(f"  {method.name:{width}}  {method.title}")
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


def _record(method: Any) -> JsonObject:
    from ltcache.methods import known_overrides

    equations = [_equations(stage) for stage in method.stages]
    return {**method.to_dict(), "equations": equations, "settings": known_overrides(method)}


def _tuning_record(tuning: Any) -> JsonObject:
    from ltcache.finetune import override_tuning, tuning_settings

    written = override_tuning(tuning, None)
    return {**written.to_dict(), "settings": tuning_settings(written)}


def _head(method: Any, command_: str) -> list[str]:
    lines = [
        f"{method.name}: {method.title} (ltcache {command_})",
        f"reference: {method.reference}",
        f"fidelity:  {method.fidelity}. {method.differs}",
    ]
    return lines + ([f"mechanism: {method.mechanism}"] if method.mechanism else [])


def _tuning_lines(tuning: Any) -> list[str]:
    from ltcache.finetune import override_tuning, tuning_settings

    lines = _head(tuning, "finetune")
    if tuning.equation:
        lines.append(f"equation:  {tuning.equation}")
    settings = tuning_settings(override_tuning(tuning, None))
    lines.append("settings (change them with -s key=value):")
    return lines + [f"  {key} = {value}" for key, value in settings.items()]


def _lines(method: Any) -> list[str]:
    from ltcache.methods import known_overrides

    lines = _head(method, "fit-adapter")
    if method.ablation:
        off = " ".join(f"-s {key}={value}" for key, value in method.ablation.items())
        lines.append(f"ablation:  {off} switches it off")
    if method.same_as:
        lines.append(f"same as:   {method.same_as}")
    if method.equation:
        lines.append(f"equation:  {method.equation}")
    feature = method.feature
    views = feature.view
    if feature.composites != "none":
        views += f" and composites {feature.composites}"
    lines.append(f"features:  {feature.field}, {feature.transform}, views {views}")
    for number, stage in enumerate(method.stages):
        lines.append(f"stage {number}: {type(stage).__name__}")
        lines += [f"  {part}: {text}" for part, text in _equations(stage).items()]
    lines.append("settings (change them with -s key=value; stages.0.KEY is of the first stage):")
    return lines + [f"  {key} = {value}" for key, value in known_overrides(method).items()]


def _equations(stage: Any) -> dict[str, str]:
    """Return part of a stage -> its name with its equation, where it has one."""
    found: dict[str, str] = {}
    for part, about in stage.PARTS.items():
        value = getattr(stage, part)
        names = value if isinstance(value, tuple) else (value,)
        texts = [_with_equation(name, about.catalogue) for name in names if name is not None]
        if texts:
            found[part] = ", then ".join(texts)
    others = {k: v for k, v in vars(stage).items() if isinstance(v, str) and k not in found}
    return found | others


def _with_equation(name: str, catalogue: Mapping[str, Any]) -> str:
    equation = getattr(catalogue.get(name), "equation", "")
    return f"{name}: {equation}" if equation else name
