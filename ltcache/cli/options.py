"""What several commands share: options, configuration files, ways to print."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import warnings
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ltcache.cli import completion
from ltcache.errors import UsageError, did_you_mean
from ltcache.records import address_of, plain_json, result_folder

if TYPE_CHECKING:
    from ltcache.encoder import EncoderChoice
    from ltcache.manifest import SplitRecipe

F = TypeVar("F", bound=Callable[..., Any])
EMBEDDED = "embedded"


class LocalPath(click.Path):
    """A file or folder of this machine; an address such as ``s3://bucket/run`` is refused."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, after the text as it was given has been looked at."""
        return super().convert(result_folder(value), param, ctx)


class CacheTarget(LocalPath):
    """A cache to be made: a folder, or an address, which stays as it is given."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path or the address."""
        return address_of(value) or super().convert(value, param, ctx)


class CachePath(LocalPath):
    """A cache that is only read: its folder, or the local mirror of one at an address."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the folder."""
        if address_of(value):
            from ltcache.cache import local_folder

            value = local_folder(value)
        return super().convert(value, param, ctx)


class OrderedGroup(click.Group):
    """A group that lists its commands in the order of use and suggests near names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands as they were added."""
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse an empty argument: as a path it would mean the working directory."""
        if "" in args:
            before = next((args[at - 1] for at, text in enumerate(args) if at and not text), "")
            raise click.UsageError(
                f"the argument {f'after {before} ' if before else ''}is empty; is a shell variable "
                "not set?"
            )
        return super().parse_args(ctx, args)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command; the environment names its options as they are typed:
        ``LTCACHE_FIT_ADAPTER_SET`` is ``ltcache fit-adapter --set``."""
        super().add_command(cmd, name)
        prefix = f"LTCACHE_{name or cmd.name}"
        for param in cmd.params:
            if isinstance(param, click.Option) and param.envvar is None:
                typed = f"{prefix}_{param.opts[-1].lstrip('-')}"
                param.envvar = typed.replace("-", "_").upper()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a command; an unknown one names the nearest."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            hint = did_you_mean(args[0], self.commands, lead="; ")
            raise click.UsageError(f"no such command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)


def _read_config(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Take option values from a YAML or JSON file; flags and environment come before it."""
    if path is None:
        return
    from ltcache.cli.config import OF_CONFIG, read_config

    given = read_config(path, ctx.command, ctx)
    ctx.meta[OF_CONFIG] = given
    ctx.default_map = {**(ctx.default_map or {}), **given}


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
    # not by click, which writes past what a bar of progress has put in place of stderr
    print(f"warning: {message}", file=sys.stderr, flush=True)


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
            help="YAML or JSON file with values for these options (flags win).",
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


def split_options(*, required: bool = False) -> Callable[[F], F]:
    """Return what adds the options that say how images are divided, for :func:`split_recipe`."""

    def add(function: F) -> F:
        for option in (
            click.option(
                "--split-by",
                multiple=True,
                metavar="COLUMN",
                help="Rows with one value in this column of the list stay in one split, as those "
                "of one unit do. Several times: by each.",
            ),
            click.option("--split-seed", type=int, default=0, show_default=True),
            click.option(
                "--split",
                "shares",
                required=required,
                metavar="NAME=SHARE,...",
                help="Divide the training images: test=0.2,val=0.1 of each class; the rest trains.",
            ),
        ):
            function = option(function)
        return function

    return add


def split_recipe(options: MutableMapping[str, Any]) -> SplitRecipe | None:
    """Take what says how images are divided out of a command's options; None where nothing does."""
    from ltcache.manifest import SplitRecipe, parse_shares

    shares, seed, by = (options.pop(name) for name in ("shares", "split_seed", "split_by"))
    return None if shares is None else SplitRecipe(parse_shares(shares), seed, tuple(by))


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
            type=click.Choice(["fp32", "tf32", "bf16", "fp16"]),
            help="As the cache has it, else fp32; tf32, bf16 and fp16 are faster where the "
            "hardware has them, and move features.",
        ),
        click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:0."),
        click.option(
            "--pretrained",
            help="Tag or checkpoint path for --model; 'random:0' gives random weights.",
        ),
        click.option(
            "--model",
            default=EMBEDDED,
            show_default=True,
            help="open_clip name (ViT-B-16), 'ViT-B-16,openai', hf-hub:ORG/NAME, local-dir:PATH, "
            "timm:NAME.TAG (images only), or the small embedded encoder.",
        ),
    ):
        function = option(function)
    return function


def encoder_choice(options: MutableMapping[str, Any]) -> EncoderChoice:
    """Take what says which encoder is meant out of a command's options."""
    from ltcache.encoder import EncoderChoice

    named = ("model", "pretrained", "activation", "device", "precision")
    return EncoderChoice(**{name: options.pop(name) for name in named if name in options})


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
        "-s",
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        callback=_with_those_of_config,
        shell_complete=completion.setting_names,
        help=help_text,
    )


def _with_those_of_config(
    ctx: click.Context, param: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    """Return settings with those of ``--config`` whose keys were not given otherwise."""
    from ltcache.cli.config import OF_CONFIG

    there = ctx.meta.get(OF_CONFIG, {}).get(param.name, ())
    given = {text.partition("=")[0] for text in value}
    return (*(text for text in there if text.partition("=")[0] not in given), *value)


def parse_settings(settings: tuple[str, ...]) -> dict[str, str]:
    """Return key -> value of ``key=value`` texts."""
    found: dict[str, str] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"-s {key}: write it as key=value, such as -s loss.tau=0.5")
        if found.setdefault(key, value) != value:
            raise UsageError(f"-s {key} is given twice, as {found[key]} and as {value}")
    return found


def say_embedded(model: str, doing: str) -> None:
    """Say on stderr that the small embedded encoder is none for real work, where it is taken."""
    if model == EMBEDDED:
        click.echo(
            f"{doing} with the small embedded encoder, a demonstration; for real work name a "
            "model: --model ViT-B-16 --pretrained openai",
            err=True,
        )


cache_argument = click.argument("cache", type=CachePath())
allow_stale = click.option(
    "--allow-stale",
    multiple=True,
    metavar="FIELD",
    help="Let an identity (encoder, classes, prompts, rows) or one of its fields differ; marks "
    "results.",
)


def terminal_width() -> int | None:
    """Return the columns of the terminal that stdout is; None where it is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_json(value: Any) -> None:
    """Print a value, or records, as indented JSON on stdout."""
    click.echo(json.dumps(plain_json(value), indent=1, ensure_ascii=False, default=str))
