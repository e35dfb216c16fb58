"""Every ``--help`` as it is kept in ``help_texts/``: a change of it is seen in review.

python -m tests.cli.test_help_texts     # writes them anew, when a change is meant
"""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ltcache.cli import cli

KEPT = Path(__file__).parent / "help_texts"
NAMES = ("ltcache", *cli.commands)


def help_text(name: str) -> str:
    """Return the help of a command (or of ``ltcache`` itself) in a terminal of 80 columns."""
    arguments = [] if name == "ltcache" else [name]
    result = CliRunner().invoke(
        cli, [*arguments, "--help"], prog_name="ltcache", terminal_width=80, env={"COLUMNS": "80"}
    )
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("name", NAMES)
def test_a_help_is_the_one_that_is_kept(name: str) -> None:
    assert help_text(name) == (KEPT / f"{name}.txt").read_text(encoding="utf-8")


def test_no_help_is_kept_of_a_command_that_is_gone() -> None:
    assert sorted(path.stem for path in KEPT.glob("*.txt")) == sorted(NAMES)


def test_no_option_is_without_help() -> None:
    for name, command in cli.commands.items():
        for option in command.params:
            if isinstance(option, click.Option) and option.name not in ("help", "verbose"):
                assert option.help or option.show_default, f"{name}: {option.opts}"


def main() -> None:
    """Write the help of every command."""
    KEPT.mkdir(exist_ok=True)
    for name in NAMES:
        (KEPT / f"{name}.txt").write_text(help_text(name), encoding="utf-8")


if __name__ == "__main__":
    main()
