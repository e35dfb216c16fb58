"""The command line: one file per command, each a translation to the library function it names.

Only click is imported here; heavy imports stand inside the commands, so that ``--help`` is quick.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from ltcache import __version__
from ltcache.cli import (
    ablate,
    bench,
    browse,
    copy,
    demo,
    diff,
    doctor,
    ensemble,
    evaluate,
    export,
    extract,
    finetune,
    fit_adapter,
    import_,
    inspect,
    methods,
    more_images,
    predict,
    prompts,
    report,
    retrieve_tail,
    review,
    search,
    split,
    verify,
    zero_shot,
)
from ltcache.cli.install_completion import completion_option
from ltcache.cli.options import OrderedGroup
from ltcache.errors import LtcacheError, UsageError
from ltcache.process import keep_freed_memory, wait_asleep

INTERRUPTED = 130


@click.group(
    cls=OrderedGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "LTCACHE"},
)
@click.option(
    "--import",
    "modules",
    multiple=True,
    envvar="LTCACHE_IMPORT",
    metavar="MODULE",
    help="Import your Python module first: one that adds a loss, a head or a method.",
)
@completion_option
@click.version_option(__version__, prog_name="ltcache")
def cli(modules: tuple[str, ...]) -> None:
    """Encode images once with CLIP, then compare long-tail methods on the cached features.

    \b
    Start here:   ltcache demo
    Your images:  ltcache extract FOLDER --out CACHE --model ViT-B-16 --pretrained openai
                  ltcache zero-shot CACHE
                  ltcache fit-adapter CACHE --method logit-adjustment --out RUN

    Results go to stdout (--json for machines), progress and messages to stderr. Exit status:
    0 done, 1 error, 2 usage, 3 finished with failed rows, 4 identity refused, 130 interrupted.
    """
    for module in modules:
        _import(module)


def _import(module: str) -> None:
    """Import a module of the user's, which may lie in the working directory."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise UsageError(f"--import {module}: {error}") from error
        raise UsageError(
            f"--import {module}: there is no such module; it is looked for in the working "
            "directory and on PYTHONPATH"
        ) from None


for _command in (
    demo.command,
    inspect.command,
    extract.command,
    split.command,
    verify.command,
    diff.command,
    prompts.command,
    zero_shot.command,
    fit_adapter.command,
    ablate.command,
    more_images.command,
    retrieve_tail.command,
    review.command,
    search.command,
    browse.command,
    finetune.command,
    report.command,
    evaluate.command,
    ensemble.command,
    predict.command,
    import_.command,
    export.command,
    copy.command,
    methods.command,
    bench.command,
    doctor.command,
):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status; errors end as one message, not a traceback."""
    wait_asleep()  # before a command imports torch
    keep_freed_memory()  # before there are threads, each with a heap of its own
    try:
        status = cli.main(
            args=None if arguments is None else list(arguments),
            prog_name="ltcache",
            standalone_mode=False,
        )
    except click.exceptions.Abort:
        status = _interrupted()
    except KeyboardInterrupt:
        status = _interrupted()
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except LtcacheError as error:
        click.echo(f"ltcache: {error}", err=True)
        status = error.exit_status
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            status = _reader_gone()
        else:  # a full disk, a missing permission
            click.echo(f"ltcache: {error.filename or 'error'}: {error.strerror or error}", err=True)
            status = 1
    sys.exit(status if isinstance(status, int) else 0)


def _reader_gone() -> int:
    """Whoever read our output has gone, as in ``ltcache ... | head``: end without a word."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _interrupted() -> int:
    click.echo("ltcache: interrupted; the same command goes on where this one stopped", err=True)
    return INTERRUPTED
