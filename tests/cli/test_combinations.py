"""Every pair of options that cannot go together is refused, and the message names both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest

from ltcache.cache import open_cache
from ltcache.cli import cli
from ltcache.cli.combinations import rules_of, spelt
from tests.conftest import Call
from tests.retrieval.conftest import CLASSES, World

Pair = tuple[str, str, str]


def pairs() -> Iterator[Pair]:
    """Yield command, an option that has no effect, and the one beside or without which it has."""
    for name, command in cli.commands.items():
        for rule in rules_of(command):
            for other in rule.excludes:
                yield name, other, rule.option
            if rule.needs:
                yield name, rule.option, ""


def typed(command: click.Command, named: str) -> list[str]:
    """Return what a user types for a parameter, ``name`` or ``name=value``."""
    name, _, value = named.partition("=")
    param = next(param for param in command.params if param.name == name)
    if isinstance(param, click.Argument):
        return ["place"]
    assert isinstance(param, click.Option)
    if param.is_flag:
        return [param.secondary_opts[-1] if value == "False" else param.opts[-1]]
    return [param.opts[-1], value or plausible(param)]


def plausible(param: click.Option) -> str:
    """Return a value that an option takes."""
    if isinstance(param.type, click.Choice):
        return str(param.type.choices[-1])
    is_number = isinstance(param.type, (click.types.IntParamType, click.types.FloatParamType))
    least = getattr(param.type, "min", None) or 1
    return str(max(1, least)) if is_number else "loss.tau=1"


def required(command: click.Command) -> list[str]:
    """Return the least that a command asks for; a place is looked at only after the rules."""
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    words = ["place"] * max(1, sum(argument.required for argument in arguments))
    for param in command.params:
        if isinstance(param, click.Option) and param.required:
            words += typed(command, param.name or "")
    return words


@pytest.mark.parametrize(("name", "useless", "beside"), list(pairs()))
def test_a_pair_is_refused_by_name(call: Call, name: str, useless: str, beside: str) -> None:
    command = cli.commands[name]
    words = [*required(command), *typed(command, useless)]
    status, out, err = call(name, *words, *(typed(command, beside) if beside else []))
    assert (status, out) == (2, ""), err
    assert "has no effect" in err
    context = click.Context(command)
    assert all(spelt(context, named) in err for named in (useless, beside) if named)


def test_rules_name_parameters_that_there_are() -> None:
    for name, command in cli.commands.items():
        there = {param.name for param in command.params}
        for rule in rules_of(command):
            named = {text.partition("=")[0] for text in (rule.option, *rule.needs, *rule.excludes)}
            assert named <= there, name
            assert bool(rule.needs) != bool(rule.excludes)


def test_options_of_a_file_and_of_the_environment_count(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = ("fit-adapter", "place", "--out", "place")
    config = tmp_path / "options.yaml"
    config.write_text("trials: 3")
    told = "--trials has no effect without --tune"
    assert told in call(*fit, "--config", config)[2]
    config.write_text("trials: 3\ntune: true")
    assert told not in call(*fit, "--config", config)[2]
    config.write_text("trials: 3\ntune: false")
    assert told in call(*fit, "--config", config)[2]
    monkeypatch.setenv("LTCACHE_FIT_ADAPTER_TRIALS", "3")
    assert told in call(*fit)[2]


def test_a_default_and_a_flag_that_is_off_are_not_given(call: Call) -> None:
    status, _, err = call("retrieve-tail", "place", "--text", "a fox", "--no-gallery")
    assert status == 1 and "not a feature cache: place does not exist" in err


def test_precision_said_twice(call: Call) -> None:
    twice = ("--precision", "bf16", "-s", "optimisation.precision=fp32")
    status, _, err = call("finetune", "place", "--out", "place", *twice)
    assert status == 2 and "--precision bf16 and --set optimisation.precision=fp32" in err


def test_what_a_place_has_no_use_for_is_refused(call: Call, tmp_path: Path) -> None:
    world = World(tmp_path)
    cache = world.labelled().path
    pool = world.pool(open_cache(cache), np.arange(CLASSES)).path
    call("export", cache, "--out", tmp_path / "plain")
    out = ("--out", tmp_path / "out")
    cases: list[tuple[tuple[object, ...], str]] = [
        (("inspect", cache, "--root", tmp_path), "--root has no effect"),
        (("diff", cache, cache, "--root", tmp_path), "--root has no effect"),
        (("diff", cache, cache, "--rehash"), "--rehash has no effect"),
        (("export", cache, *out, "--model", "embedded"), "--model has no effect"),
        (("import", tmp_path / "plain", *out, "--labels", "x.txt"), "--labels has no effect"),
        (("ensemble", "zero-shot", "zero-shot", "--cache", cache, *out), "zero-shot:CACHE"),
        (("review", "r", cache, "--decisions", "d"), "CACHE has no effect"),
        (("review", "r", "--tsne", "--source", "s"), "--source has no effect"),
        (("retrieve-tail", cache, pool, *out, "--source", "emoji_lt"), "--pool-source"),
        (
            ("retrieve-tail", cache, pool, *out, "--index", "flat", "--device", "cpu"),
            "--device has no effect",
        ),
    ]
    for words, told in cases:
        status, shown, err = call(*words)
        assert (status, shown, told in err) == (2, "", True), (words, err)
    assert not (tmp_path / "out").exists()


def test_templates_and_seeds_that_nothing_takes(
    call: Call, few_images: Path, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "out")
    flip = ("--views", "flip", "--view-seed", "1")
    assert "--view-seed has no effect" in call("extract", few_images, *out, *flip)[2]
    pool = ("--unlabelled", "--templates", "openai")
    assert "--templates has no effect" in call("extract", few_images, *out, *pool)[2]
    no_text = ("--model", "timm:resnet18", "--templates", "openai")
    assert "--templates has no effect" in call("extract", few_images, *out, *no_text)[2]


@pytest.mark.parametrize(
    ("settings", "useless"),
    [
        (("optimisation.optimiser=adamw", "optimisation.momentum=0.5"), "optimisation.momentum"),
        (("classifier.head=texts", "classifier.init=random"), "classifier.init"),
        (("adapters=none", "image.train=full", "lr_factors.adapters=2"), "lr_factors.adapters"),
    ],
)
def test_settings_without_effect_beside_others(
    call: Call, few_images: Path, tmp_path: Path, settings: tuple[str, ...], useless: str
) -> None:
    words = [word for setting in settings for word in ("-s", setting)]
    status, _, err = call("finetune", few_images, "--out", tmp_path / "out", *words)
    assert status == 2 and f"{useless} has no effect" in err
