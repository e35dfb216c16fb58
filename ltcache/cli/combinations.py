"""Which options go together, as rules beside a command's options.

What a user gives has an effect or is refused with status 2; nothing is ignored without a word.
Options from the environment and from ``--config`` count like those on the command line.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from ltcache.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
_RULES = "__option_rules__"


@dataclass(frozen=True)
class OptionRule:
    """What an option needs, or what it makes useless.

    Parameters are named as the command's function calls them, ``name=value`` stands for one of an
    option's values.

    Args:
        option: what is needed for, or what excludes, the others.
        needs: one of these must be in force for ``option`` to have an effect.
        excludes: these have no effect beside ``option``.
        why: the reason, a clause that ends the message.
    """

    option: str
    needs: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    why: str = ""

    def check(self, context: click.Context) -> None:
        """Raise a UsageError that names both options, where the user broke the rule."""
        lacks = self.needs and not any(_is_in_force(context, other) for other in self.needs)
        if lacks and is_given(context, self.option):
            others = " or ".join(spelt(context, other) for other in self.needs)
            self._refuse(context, self.option, f"without {others}")
        if _is_in_force(context, self.option):
            for other in self.excludes:
                if is_given(context, other):
                    self._refuse(context, other, f"with {spelt(context, self.option)}")

    def _refuse(self, context: click.Context, useless: str, beside: str) -> None:
        reason = f": {self.why}" if self.why else ""
        raise UsageError(f"{spelt(context, useless)} has no effect {beside}{reason}")


def needs(option: str, *any_of: str, why: str = "") -> OptionRule:
    """Return the rule that an option has an effect only where one of others is in force."""
    return OptionRule(option, needs=any_of, why=why)


def excludes(option: str, *others: str, why: str = "") -> OptionRule:
    """Return the rule that others have no effect where an option is in force."""
    return OptionRule(option, excludes=others, why=why)


def option_rules(*rules: OptionRule) -> Callable[[F], F]:
    """Return what makes a command look at its rules before its body."""

    def add(function: F) -> F:
        @functools.wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            context = click.get_current_context()
            for rule in rules:
                rule.check(context)
            return function(*args, **kwargs)

        setattr(checked, _RULES, rules)
        return checked  # type: ignore[return-value]

    return add


def rules_of(command: click.Command) -> tuple[OptionRule, ...]:
    """Return the rules of a command."""
    return getattr(command.callback, _RULES, ())


def refuse_given(names: tuple[str, ...], why: str) -> None:
    """Refuse options that have no effect for what the running command was given.

    Args:
        names: of parameters. why: what was given, a clause that ends the message.

    Raises:
        UsageError: the user gave one of them.
    """
    context = click.get_current_context()
    for name in names:
        if is_given(context, name):
            raise UsageError(f"{spelt(context, name)} has no effect: {why}")


def spelt(context: click.Context, named: str) -> str:
    """Return a parameter as a user types it: ``--text``, ``CACHE``, ``--layout tip-adapter``."""
    name, _, value = named.partition("=")
    param = next(param for param in context.command.params if param.name == name)
    if not isinstance(param, click.Option):
        return param.human_readable_name
    if value == "False" and param.secondary_opts:
        return param.secondary_opts[-1]
    return f"{param.opts[-1]} {value}" if value not in ("", "True") else param.opts[-1]


def is_given(context: click.Context, named: str) -> bool:
    """Return whether a user gave a parameter; not so a flag that is off, or an empty list."""
    name = named.partition("=")[0]
    if context.get_parameter_source(name) in (None, ParameterSource.DEFAULT):
        return False
    value = context.params[name]
    return value is not None and value is not False and value != () and _matches(value, named)


def _is_in_force(context: click.Context, named: str) -> bool:
    """Whether a parameter, given or not, has a value that means something."""
    value = context.params[named.partition("=")[0]]
    return _matches(value, named) and (bool(value) or "=" in named)


def _matches(value: Any, named: str) -> bool:
    _, equals, wanted = named.partition("=")
    values = value if isinstance(value, tuple) else (value,)
    return not equals or wanted in map(str, values)
