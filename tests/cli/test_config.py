"""Options from a file: named as they are typed, of the types that a file can say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Call
from tests.retrieval.conftest import World


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return World(tmp_path).labelled().path


def fit(call: Call, cache: Path, config: str | bytes, *more: object) -> tuple[int, str, str]:
    """Fit with options from a file of this content."""
    file = cache.parent / "options.yaml"
    file.write_bytes(config if isinstance(config, bytes) else config.encode())
    quick = ("--out", cache.parent / "run", "--overwrite", "--config", file)
    return call("fit-adapter", cache, *quick, *more)


def settings_of(cache: Path) -> tuple[Any, Any]:
    stage = json.loads((cache.parent / "run" / "config.json").read_text())["stages"][0]
    return stage["loss_options"]["tau"], stage["optimisation"]["epochs"]


@pytest.mark.parametrize(
    "config",
    [
        "set: {loss.tau: 0.5, optimisation.epochs: 2}",
        "set:\n  loss: {tau: 0.5}\n  optimisation: {epochs: 2}",
        "set: [loss.tau=0.5, optimisation.epochs=2]",
        "settings: [loss.tau=0.5, optimisation.epochs=2]",
        '{"set": {"loss.tau": 0.5, "optimisation.epochs": 2}}',
        b"\xef\xbb\xbfset: {loss.tau: 0.5, optimisation.epochs: 2}",
    ],
)
def test_settings_as_a_mapping_or_a_list(call: Call, cache: Path, config: str | bytes) -> None:
    status, _, err = fit(call, cache, config)
    assert status == 0, err
    assert settings_of(cache) == (0.5, 2)


def test_the_command_line_wins_key_by_key(call: Call, cache: Path) -> None:
    both = "set: {loss.tau: 0.5, optimisation.epochs: 2}"
    assert fit(call, cache, both, "-s", "loss.tau=0.25")[0] == 0
    assert settings_of(cache) == (0.25, 2)
    twice = ("-s", "loss.tau=0.25", "-s", "loss.tau=0.75")
    assert "-s loss.tau is given twice, as 0.25 and as 0.75" in fit(call, cache, both, *twice)[2]


def test_names_as_they_are_typed(call: Call, cache: Path, tmp_path: Path) -> None:
    assert fit(call, cache, "set: {optimisation.epochs: 1}\njson: true\nseeds: 1")[0] == 0
    pool = World(tmp_path / "w")
    pool.root.mkdir()
    labelled = pool.labelled()
    there = pool.pool(labelled, pool.rng.integers(0, 6, 40)).path
    file = tmp_path / "retrieve.yaml"
    file.write_text(
        "group: [few, medium]\nwithout-guard: [leaks]\nto-precision: 0.5\nno-gallery: true"
    )
    out = tmp_path / "r"
    status, _, err = call("retrieve-tail", labelled.path, there, "--out", out, "--config", file)
    assert status == 0, err
    written = json.loads((out / "retrieve.json").read_text())["settings"]
    assert (written["groups"], written["off"]) == (["few", "medium"], ["leaks"])


def test_the_environment_names_options_as_they_are_typed(
    call: Call, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LTCACHE_FIT_ADAPTER_SET", "loss.tau=0.75")
    assert fit(call, cache, "set: {optimisation.epochs: 2}")[0] == 0
    assert settings_of(cache) == (0.75, 2)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("seeds: [1, 2]", "seeds: expected a whole number, found [1, 2]"),
        ("seeds: many", "seeds: 'many' is not a valid"),
        ("seeds: 0", "seeds: 0 is not in the range"),
        ("seeds: true", "seeds: expected a whole number, found true"),
        ("seeds:", "seeds: expected a whole number, found null"),
        ("tune: 'yes'", 'tune: expected true or false, found "yes"'),
        ("tuner: bayes", "tuner: 'bayes' is not one of"),
        ("method: {ce: 1}", 'method: expected a text, found {"ce": 1}'),
        ("method: on", "method: expected a text, found true"),
        ("set: [[1]]", "set: expected a mapping, KEY=VALUE, or a list of such, found [1]"),
        ("set: {loss.tau: 2020-01-01}", "set: loss.tau: expected a text, a number"),
        ("set: {loss.taw: 1}", "did you mean 'loss.tau'"),
        ("set: [loss.tau=1]\nsettings: [loss.tau=1]", "--set is given twice"),
        ("seeds: 1\nseeds: 2", "'seeds' is there twice"),
        ("seds: 1", "did you mean 'seeds'"),
        ("config: other.yaml", "option 'config' is unknown"),
        ("- seeds", "expected option: value lines"),
        (b"seeds: \xff", "cannot be read as YAML"),
    ],
)
def test_what_cannot_be_meant_names_the_file_and_the_key(
    call: Call, cache: Path, config: str | bytes, told: str
) -> None:
    status, out, err = fit(call, cache, config)
    assert (status, out) == (2, "")
    assert told in err
    assert "options.yaml" in err or "loss.taw" in err
