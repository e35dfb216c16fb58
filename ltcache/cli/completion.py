"""What a shell offers where a name is typed: methods, their settings, and what the named cache or
run has.

Nothing is raised here: a shell that is asked for names can show no error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ltcache.errors import LtcacheError
from ltcache.records import record_there

if TYPE_CHECKING:
    from ltcache.cache import Cache

_VIEWS = ("center", "flip", "five", "rrc:4", "cmo:2")


def method_names(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Offer methods, for the last name of a list."""
    from ltcache.methods import METHODS

    return _beginning(METHODS, typed)


def fine_tuning_names(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Offer fine-tunings."""
    from ltcache.finetune import TUNINGS

    return _beginning(TUNINGS, typed)


def setting_names(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Offer ``KEY=`` of the methods that stand before; behind a whole key, the value it has."""
    named = context.params.get("methods") or context.params.get("method") or ""
    known: dict[str, object] = {}
    for name in str(named).split(","):
        try:
            known |= _settings_of(name, tuning=context.command.name == "finetune")
        except LtcacheError:  # no such method
            continue
    key, equals, _ = typed.partition("=")
    if equals:
        return [f"{key}={known[key]}"] if key in known else []
    return [f"{name}=" for name in known if name.startswith(typed)]


def _settings_of(name: str, tuning: bool) -> Mapping[str, object]:
    if tuning:
        from ltcache.finetune import override_tuning, tuning_by_name, tuning_settings

        return tuning_settings(override_tuning(tuning_by_name(name), None))
    from ltcache.methods import known_overrides, method_by_name

    return known_overrides(method_by_name(name))


def view_names(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Offer views to extract, for the last name of a list."""
    return _beginning(_VIEWS, typed)


def split_names(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Offer the splits of the cache, or of the run, that stands before."""
    if any(named.name == "run" for named in context.command.params):
        record = record_there(Path(_first_argument(context, "run")) / "run.json")
        return _beginning(record.get("splits", ()), typed)
    return _of_cache(context, typed, lambda cache: cache.splits)


def prompt_names(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Offer the sets of class prompts of the cache that stands before."""
    return _of_cache(context, typed, lambda cache: cache.prompt_names)


def _of_cache(
    context: click.Context, typed: str, names: Callable[[Cache], Iterable[str]]
) -> list[str]:
    from ltcache.cache import open_cache

    try:
        return _beginning(names(open_cache(_first_argument(context, "cache"))), typed)
    except (LtcacheError, OSError):
        return []


def _first_argument(context: click.Context, name: str) -> str:
    """Return a command's first argument; click has not assigned it where an option comes last."""
    return str(context.params.get(name) or [*context.args, ""][0])


def _beginning(names: Iterable[str], typed: str) -> list[str]:
    """Return the names that go on with what is typed behind the last comma, with all before it."""
    before, comma, last = typed.rpartition(",")
    return [f"{before}{comma}{name}" for name in names if name.startswith(last)]
