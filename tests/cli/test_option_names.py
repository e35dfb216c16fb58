"""Messages name an option as the command line does; who calls the library knows the argument."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click

import ltcache
from ltcache.cli import cli

PACKAGE = Path(ltcache.__file__).parent
_ARGUMENT = re.compile(r"(?<![-\w./])([a-z_]+)=")
_SETTINGS = {
    "fusion",
    "head",
    "logit_scale",
    "loss",
}  # -s loss=focal is written alike for both readers


def option_names() -> set[str]:
    """Return the names of all options of all commands, as Python has them."""
    context = click.Context(cli)
    commands = (cli.get_command(context, name) for name in cli.list_commands(context))
    return {
        option.name
        for command in commands
        for option in (command.params if command else ())
        if isinstance(option, click.Option) and option.name
    }


def raised_texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string inside the calls that a module raises or refuses by."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and node.exc is not None:
            for part in ast.walk(node.exc):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.lineno, part.value


def test_no_message_names_an_option_by_its_python_argument() -> None:
    names = option_names()
    assert {"root", "pretrained", "split", "trials"} <= names
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {text}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, text in raised_texts(path)
        if (names - _SETTINGS) & set(_ARGUMENT.findall(text))
    ]
    assert not found, "\n".join(found)
