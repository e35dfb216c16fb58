"""What the READMEs say exists as it is written: commands, imports, modules, files, words, links."""

from __future__ import annotations

import builtins
import configparser
import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest

from ltcache.cli import cli
from tests.structure.measures import PACKAGE, source_files

ROOT = Path(__file__).parents[1]
PLACES = (".", "pipelines", "data_manifests", "tests/benchmarks", "ltcache")
READMES = {place: (ROOT / place / "README.md").read_text(encoding="utf-8") for place in PLACES}
BLOCKS = [
    block
    for text in READMES.values()
    for block in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
]
COMMANDS = sorted(
    {
        line.split("#")[0].strip()
        for kind, block in BLOCKS
        if kind in ("sh", "console")
        for line in block.replace("\\\n", " ").replace("$ ", "").splitlines()
        if line.startswith("ltcache ")
    }
    | {
        command
        for text in READMES.values()
        for command in re.findall(r"`(ltcache [a-z][^`]*)`", text)
        if " X" not in command and "..." not in command
    }
)
WORDS = re.compile(r"^\| ([a-z][a-z -]+) \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    command = cli.commands[name]
    # a command remembers the names of its help option from the first context that it meets
    context = click.Context(command, resilient_parsing=True, **cli.context_settings)
    known = {option for parameter in command.params for option in parameter.opts}
    used = {argument for argument in arguments if argument.startswith("-")}
    assert used <= known, f"unknown options {used - known}"
    command.make_parser(context).parse_args(arguments)


def test_the_commands_are_all_named() -> None:
    for name in cli.commands:
        assert f"| `{name}` |" in READMES["."]


def test_python_imports_work() -> None:
    lines = [line for kind, block in BLOCKS if kind == "python" for line in block.splitlines()]
    imports = [line for line in lines if line.startswith("from ltcache")]
    assert imports
    for line in imports:
        exec(line, {})


def test_the_modules_that_a_reader_is_to_run_exist() -> None:
    texts = "\n".join(READMES.values())
    named = set(re.findall(r"python -m\s+((?:pipelines|tests)\.[a-z_.0-9]*[a-z_0-9])", texts))
    assert len(named) > 5
    for module in named - {"tests.benchmarks"}:
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize("place", PLACES)
def test_the_files_that_are_named_and_linked_exist(place: str) -> None:
    text = READMES[place]
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (ROOT / place / link).exists(), link
    for path in re.findall(r"`((?:ltcache|tests|pipelines|data_manifests)/[\w/.-]*)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_left_to_fill_in(place: str) -> None:
    assert "@@" not in READMES[place]


def test_every_recipe_benchmark_and_data_set_is_described() -> None:
    for folder, pattern in (
        ("pipelines", "*.py"), ("tests/benchmarks", "bench_*.py"), ("data_manifests", "*_*"),
    ):  # fmt: skip
        names = {path.stem for path in (ROOT / folder).glob(pattern)}
        words = set(re.findall(r"\w+", READMES[folder]))
        assert not names - words, f"{folder}/README.md does not name {sorted(names - words)}"


def test_the_picture_of_the_code_has_every_room_in_the_order_of_its_layer() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    written = setup["importlinter:contract:layers"]["layers"].split("\n")
    layers = [set(re.findall(r"ltcache\.(\w+)", line)) for line in written if line.strip()]
    table = re.findall(r"^\| (`\w+[/.].*?) \|", READMES["ltcache"], re.MULTILINE)
    assert [set(re.findall(r"`(\w+)(?:/|\.py)`", row)) for row in table] == layers
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms <= set().union(*layers)


def test_the_words_have_the_types_that_exist() -> None:
    classes = {name for file in source_files() for name in file.classes}
    known = classes | set(dir(builtins)) | {"Path", "Tensor", "ndarray"}
    words = WORDS.findall(READMES["ltcache"].split("## Words")[1].split("## How")[0])[1:]
    assert len(words) > 35 and len({word for word, _ in words}) == len(words)
    for word, kind in words:
        assert set(re.findall(r"`([A-Za-z]\w+)`", kind)) - {"row_id"} <= known, word


def test_the_first_page_stays_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 260
