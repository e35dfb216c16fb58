"""Addresses of storage elsewhere are refused where local places are meant, by every command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from ltcache.ablate import ablate
from ltcache.cli import cli
from ltcache.cli.options import LocalPath
from ltcache.demo import demo
from ltcache.ensemble import ensemble
from ltcache.errors import UsageError
from ltcache.evaluate import evaluate
from ltcache.finetune import finetune, open_fine_tuned
from ltcache.fit import fit_adapter, fit_seeds
from ltcache.report import report
from ltcache.retrieval import open_retrieved
from ltcache.runs.run import open_run
from ltcache.transfer import (
    export_bundle,
    export_cache,
    export_dataset,
    export_onnx,
    import_features,
)
from tests.conftest import Call

S3 = "s3://bucket/x"
REMOTE = {"root", "classes", "config"}
"""Options that name what is read as images or lists, or files of options."""


def local_options() -> Iterator[tuple[str, str]]:
    """Yield every command's parameters that name a place, but for those of :data:`REMOTE`."""
    for name, command in sorted(cli.commands.items()):
        for param in command.params:
            kind = param.type
            if isinstance(kind, click.Path | click.File) and param.name not in REMOTE:
                yield name, param.name or ""


def test_every_place_on_the_command_line_is_a_local_one() -> None:
    found = set(local_options())
    for name, option in found:
        (param,) = [p for p in cli.commands[name].params if p.name == option]
        assert isinstance(param.type, LocalPath), f"{name}: {option}"
    assert {("extract", "out"), ("zero-shot", "cache"), ("evaluate", "run")} <= found


@pytest.mark.parametrize(
    "words",
    [
        ["demo", "--out", S3],
        ["prompts", S3, "--templates", "openai"],
        ["fit-adapter", "cache", "--method", "ce", "--out", S3],
        ["ablate", "cache", "--out", S3],
        ["retrieve-tail", "cache", "pool", "--out", S3],
        ["review", S3, "cache"],
        ["finetune", "emoji_lt", "--method", "lift", "--out", S3],
        ["report", S3],
        ["evaluate", S3],
        ["ensemble", S3, "zero-shot", "--out", "mix"],
        ["ensemble", "run", "zero-shot", "--out", S3],
        ["predict", S3, "image.png"],
        ["import", "features.npy", "--out", S3],
        ["import", S3, "--out", "cache"],
        ["export", "run", "--out", S3],
        ["export", S3, "--out", "folder"],
    ],
    ids=" ".join,
)
def test_commands_refuse_addresses(
    words: list[str], tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = call(*words)
    assert status == 2
    assert f"{S3}: " in err and "folders of this machine only" in err
    assert "Traceback" not in err and out == ""
    assert list(tmp_path.iterdir()) == []


FUNCTIONS: list[Callable[[str | Path], object]] = [
    lambda place: demo(place),
    open_run, open_retrieved, open_fine_tuned, evaluate,
    lambda place: fit_adapter("cache", "ce", place),
    lambda place: fit_seeds("cache", "ce", place, seeds=[0]),
    lambda place: ablate("cache", ["ce"], place),
    lambda place: finetune("emoji_lt", "lift", place),
    lambda place: report([place]),
    lambda place: ensemble(["run", "zero-shot"], place),
    lambda place: import_features("features.npy", place),
    lambda place: export_cache("cache", place),
    lambda place: export_dataset("cache", place),
    lambda place: export_bundle("run", place),
    lambda place: export_onnx("run", place),
]  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", [str, Path])
def test_functions_refuse_addresses(
    function: Callable[[str | Path], object],
    kind: type,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"^{S3}: "):
        function(kind(S3))
    assert list(tmp_path.iterdir()) == []
