"""What several commands share: options, configuration files, ways to print."""

from __future__ import annotations

import difflib
import json
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from ltcache.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])


class OrderedGroup(click.Group):
    """A group that lists its commands in the order of use and suggests near names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands as they were added."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a command; an unknown one names the nearest."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self.commands, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


def _read_config(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Take option values from a YAML or JSON file; flags and environment come before it."""
    if path is None:
        return
    import yaml

    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(values, Mapping):
        raise UsageError(f"{path}: expected option: value lines")
    known = [param.name or "" for param in ctx.command.params if isinstance(param, click.Option)]
    given = {str(key).replace("-", "_"): value for key, value in values.items()}
    for key in given:
        check_known(key, known, f"{path}: option")
    ctx.default_map = {**(ctx.default_map or {}), **given}


def check_known(name: str, known: list[str], what: str) -> None:
    """Refuse an unknown name and suggest the nearest known one."""
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(known))}"
        raise UsageError(f"{what} {name!r} is unknown{hint}")


def _set_log(_ctx: click.Context, _param: click.Parameter, verbose: int) -> None:
    """Send messages to stderr; other libraries are heard only with ``-v``."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.ERROR,
        format="%(name)s: %(message)s",
        force=True,
    )
    logging.getLogger("ltcache").setLevel(logging.DEBUG if verbose else logging.WARNING)
    if not verbose:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", module="ltcache")
        warnings.showwarning = _show_warning  # type: ignore[assignment]


def _show_warning(message: Warning | str, *_: Any) -> None:
    click.echo(f"warning: {message}", err=True)


def general(function: F) -> F:
    """Add the options that every command has: ``--json``, ``--config`` and ``-v``."""
    for option in (
        click.option("-v", "--verbose", count=True, expose_value=False, callback=_set_log),
        click.option(
            "--config",
            type=click.Path(dir_okay=False, path_type=Path),
            is_eager=True,
            expose_value=False,
            callback=_read_config,
            help="YAML file with values for these options (flags win).",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON for machines."),
    ):
        function = option(function)
    return function


def label_column_option(function: F) -> F:
    """Add the option that says which column of a source holds the labels."""
    return click.option(
        "--label-column",
        help="Of tables and saved data sets: where the labels are; label, class, target, or the "
        "only ClassLabel.",
    )(function)


def echo_warnings(manifest: Any) -> None:
    """Print to stderr what the reader of a source noticed."""
    for warning in manifest.warnings:
        click.echo(f"warning: {warning}", err=True)


def encoder_options(function: F) -> F:
    """Add the options that say which encoder to load."""
    for option in (
        click.option(
            "--activation",
            type=click.Choice(["gelu", "quick_gelu"]),
            help="For a bare weights file, which does not say it.",
        ),
        click.option(
            "--precision",
            type=click.Choice(["fp32", "bf16", "fp16"]),
            default="fp32",
            show_default=True,
            help="bf16 and fp16 are faster where the hardware has them, and move features.",
        ),
        click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:0."),
        click.option(
            "--pretrained",
            help="Tag or checkpoint path for --model; 'random:0' gives random weights.",
        ),
        click.option(
            "--model",
            default="embedded",
            show_default=True,
            help="open_clip name (ViT-B-16), 'ViT-B-16,openai', hf-hub:ORG/NAME, local-dir:PATH, "
            "timm:NAME.TAG (images only), or the small embedded encoder.",
        ),
    ):
        function = option(function)
    return function


def other_encoder(help_text: str) -> Callable[[F], F]:
    """Return what adds the options that name an encoder where there is one already."""

    def add(function: F) -> F:
        for option in (
            click.option(
                "--activation",
                type=click.Choice(["gelu", "quick_gelu"]),
                help="For a bare weights file.",
            ),
            click.option("--pretrained", help="Its tag or checkpoint."),
            click.option("--model", help=help_text),
        ):
            function = option(function)
        return function

    return add


def settings_option(help_text: str) -> Callable[[F], F]:
    """Return what adds ``-s KEY=VALUE``, for :func:`parse_settings`."""
    return click.option(
        "-s", "--set", "settings", multiple=True, metavar="KEY=VALUE", help=help_text
    )


def parse_settings(settings: tuple[str, ...]) -> dict[str, str]:
    """Return key -> value of ``key=value`` texts."""
    pairs = [text.partition("=") for text in settings]
    for key, equals, _ in pairs:
        if not equals or not key:
            raise UsageError(f"-s {key}: write it as key=value, such as -s loss.tau=0.5")
    return {key: value for key, _, value in pairs}


cache_argument = click.argument("cache", type=click.Path(path_type=Path))
allow_stale = click.option(
    "--allow-stale",
    multiple=True,
    metavar="FIELD",
    help="Let an identity (encoder, classes, prompts) or one of its fields differ; marks results.",
)


def print_json(value: Any) -> None:
    """Print a value as indented JSON on stdout."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False, default=str))
