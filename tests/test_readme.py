"""The README's commands and imports exist as they are written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from ltcache.cli import cli

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
COMMANDS = sorted(
    {
        line.split("#")[0].strip()
        for kind, block in BLOCKS
        if kind in ("sh", "console")
        for line in block.replace("\\\n", " ").replace("$ ", "").splitlines()
        if line.startswith("ltcache ")
    }
)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    command = cli.commands[name]
    context = click.Context(command, resilient_parsing=True)
    known = {option for parameter in command.params for option in parameter.opts}
    used = {argument for argument in arguments if argument.startswith("-")}
    assert used <= known, f"unknown options {used - known}"
    command.make_parser(context).parse_args(arguments)


def test_the_commands_are_all_named() -> None:
    for name in cli.commands:
        assert f"`{name}`" in README


def test_python_imports_work() -> None:
    lines = [line for kind, block in BLOCKS if kind == "python" for line in block.splitlines()]
    imports = [line for line in lines if line.startswith("from ltcache")]
    assert imports
    for line in imports:
        exec(line, {})


def test_nothing_is_left_to_fill_in() -> None:
    assert "@@" not in README
