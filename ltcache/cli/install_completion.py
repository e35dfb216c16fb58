"""``ltcache --install-completion``: a shell completes names in every session from then on."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from ltcache.errors import UsageError
from ltcache.records import write_whole

_PROGRAM = "ltcache"
_VARIABLE = "_LTCACHE_COMPLETE"


@dataclass(frozen=True)
class ShellPlaces:
    """Where a shell looks for completions.

    Args:
        script: returns the file of the completion. starts: returns the file that every session of
            the shell reads, or None where the shell finds the script by itself.
        before: lines that must stand in ``starts`` before the script is read.
    """

    script: Callable[[], Path]
    starts: Callable[[], Path] | None = None
    before: tuple[str, ...] = ()


def _of_user(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / default)


SHELLS = {
    "bash": ShellPlaces(
        lambda: _of_user("XDG_DATA_HOME", ".local/share") / "ltcache" / "complete.bash",
        lambda: Path.home() / ".bashrc",
    ),
    "zsh": ShellPlaces(
        lambda: _of_user("XDG_DATA_HOME", ".local/share") / "ltcache" / "complete.zsh",
        lambda: _of_user("ZDOTDIR", "") / ".zshrc",
        ("(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }",),
    ),
    "fish": ShellPlaces(
        lambda: _of_user("XDG_CONFIG_HOME", ".config") / "fish" / "completions" / "ltcache.fish"
    ),
}
"""Name of a shell -> where it looks."""


def install_completion(group: click.Command, shell: str) -> list[Path]:
    """Write a shell's completion of a command, and let every session read it; return what was
    written. What is there already is not written again.

    Raises:
        UsageError: the shell is none of :data:`SHELLS`.
    """
    if shell not in SHELLS:
        raise UsageError(f"completion is there for {', '.join(SHELLS)}, not for {shell or 'none'}")
    places, written = SHELLS[shell], []
    kind = get_completion_class(shell)
    assert kind is not None  # click has all three
    script, text = places.script(), kind(group, {}, _PROGRAM, _VARIABLE).source()
    if _text_of(script) != text:
        script.parent.mkdir(parents=True, exist_ok=True)
        write_whole(script, text.encode())
        written.append(script)
    if places.starts is not None:
        starts = places.starts()
        line = f"source {shlex.quote(str(script))}"
        if line not in _text_of(starts).splitlines():
            with starts.open("a", encoding="utf-8") as stream:  # a link stays a link
                stream.write("".join(f"{text}\n" for text in ("", *places.before, line)))
            written.append(starts)
    return written


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _install(context: click.Context, parameter: click.Parameter, asked: bool) -> None:
    if not asked:
        return
    shell = Path(os.environ.get("SHELL", "")).name
    written = install_completion(context.command, shell)
    for file in written:
        click.echo(f"written: {file}")
    click.echo(
        f"{shell} completes methods, splits, views, class prompts and settings of {_PROGRAM} in "
        "every new session"
    )
    context.exit()


completion_option = click.option(
    "--install-completion",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_install,
    help=f"Let your shell ({', '.join(SHELLS)}) complete names, and exit.",
)
"""The option of the whole command line."""
