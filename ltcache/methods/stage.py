"""What every kind of stage answers: its settings, the head it makes, what it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

from ltcache.heads import Head, HeadContext, uses_texts
from ltcache.methods.settings import (
    SMOOTH,
    SettingValues,
    dotted,
    hyper_parameters,
    read_names,
    read_setting,
    require_name,
    several,
    with_entry,
)


@dataclass(frozen=True)
class CatalogueField:
    """A field of a stage that names something in a catalogue.

    Args:
        catalogue: name -> class. options: the stage's field of its hyper-parameters, or None.
        several: the field names any number of entries. optional: the field may be None.
    """

    catalogue: Mapping[str, Any]
    options: str | None = None
    several: bool = False
    optional: bool = False

    def named(self, name: str, value: Any) -> Any:
        """Return what a user wrote for the field ``name`` as the field's value.

        Raises:
            UsageError: an entry is unknown.
        """
        if self.several:
            value = read_names(value)
        elif self.optional and value in (None, "", "none"):
            return None
        for entry in value if self.several else (value,):
            require_name(name, entry, self.catalogue)
        return value


@dataclass(frozen=True)
class MethodStage:
    """One step of a method. A kind of stage is a frozen dataclass that derives from this class.

    All its fields are settings: one of ``PARTS`` under its name, with the hyper-parameters of what
    is named; a record or a mapping as ``field.key``; ``choose`` as the values to choose each
    hyper-parameter from; any other field under its name.

    Attributes:
        PARTS: the fields that name entries of catalogues. trains: whether the stage makes gradient
            steps, as its field ``optimisation`` says.
    """

    PARTS: ClassVar[Mapping[str, CatalogueField]] = {}
    trains: ClassVar[bool] = False

    def head_kind(self) -> type[Head] | None:
        """Return the class of the head that the stage makes, or wraps another one in, if any.

        By default it is what the part ``head`` names, where a kind of stage has one.
        """
        part = self.PARTS.get("head")
        return None if part is None else part.catalogue[vars(self)["head"]]

    def head_after(
        self, before: Head | None, choice: Mapping[str, Any], context: HeadContext
    ) -> Head | None:
        """Return the head that the stage leaves, without its trained state.

        Args:
            before: the head of the stages before. choice: what was chosen when it was fitted.
        """
        kind = self.head_kind()
        if kind is None:
            return before
        chosen = {name: choice[name] for name in self._chosen() if name in choice}
        return kind(context, **{**self.options_of("head"), **chosen})

    def needs_prompts(self) -> bool:
        """Whether the stage uses class prompts, however its head is initialised."""
        kind = self.head_kind()
        return kind is not None and uses_texts(kind)

    def may_start_from_prompts(self) -> bool:
        """Whether class prompts, where there are any, may initialise a head."""
        return False

    def begins_alike(self) -> Sequence[Any] | None:
        """Return what is equal in stages that can be trained together; None: it is not trained."""
        return None

    def with_most_epochs(self, rows: int, most: int) -> MethodStage:
        """Return the stage with at most so many passes over N rows."""
        return self

    def settings(self) -> SettingValues:
        """Return every setting with its present value."""
        found: SettingValues = {}
        for name in self.PARTS:
            found[name] = getattr(self, name)
            found |= dotted(name, self.options_of(name))
        options = {part.options for part in self.PARTS.values()}
        for name in (f.name for f in fields(self) if f.name not in {*self.PARTS, *options}):
            found |= dotted(name, self._grids() if name == "choose" else getattr(self, name))
        return found

    def _chosen(self) -> Mapping[str, Sequence[Any]]:
        """Return hyper-parameter -> values to choose it from; a kind that chooses has a field."""
        chosen: Mapping[str, Sequence[Any]] = getattr(self, "choose", {})
        return chosen

    def _grids(self) -> dict[str, Sequence[Any]]:
        keys = [key for part in self.PARTS for key in self.options_of(part)]
        return {key: self._chosen().get(key, ()) for key in keys}

    def options_of(self, name: str) -> SettingValues:
        """Return the hyper-parameters of a part, defaults written out."""
        part, chosen = self.PARTS[name], getattr(self, name)
        if part.options is None:
            return {}
        defaults: SettingValues = {}
        for kind in chosen if part.several else (chosen,):
            defaults |= hyper_parameters(part.catalogue[kind])
        return defaults | dict(getattr(self, part.options))

    def smoothing_settings(self) -> list[str]:
        """Return the settings that smooth a class prior."""
        return [f"{name}.{SMOOTH}" for name in self.PARTS if SMOOTH in self.options_of(name)]

    def with_setting(self, key: str, value: Any) -> MethodStage:
        """Return the stage with one of its :meth:`settings` changed.

        Raises:
            UsageError: an unknown name, or a value that cannot be read.
        """
        first, _, rest = key.partition(".")
        if key in self.PARTS:
            return self._renamed(key, self.PARTS[key].named(key, value))
        if first == "choose":
            return self._with_grid(rest, value)
        present = self.settings()[key]
        if not rest:
            changed_itself: MethodStage = with_entry(self, key, value, present)
            return changed_itself
        field = self.field_of(first)
        changed = {field: with_entry(getattr(self, field), key, value, present)}
        if rest in self._chosen():  # a value that is given is not chosen
            changed["choose"] = {k: v for k, v in self._chosen().items() if k != rest}
        return replace(self, **changed)

    def field_of(self, first: str) -> str:
        """Return the field whose entries are the settings that begin with ``first``."""
        return (self.PARTS[first].options or "") if first in self.PARTS else first

    def _renamed(self, name: str, value: Any) -> MethodStage:
        """Return the stage with another name in a part, whose options then are the defaults."""
        options = self.PARTS[name].options
        if value == getattr(self, name):
            return self
        emptied: SettingValues = {} if options is None else {options: {}}
        return replace(self, **{name: value}, **emptied)

    def _with_grid(self, name: str, values: Any) -> MethodStage:
        """Return the stage choosing a hyper-parameter from some values; from none: it is fixed."""
        (example,) = (found[name] for found in map(self.options_of, self.PARTS) if name in found)
        grid = tuple(read_setting(f"choose.{name}", text, example) for text in several(values))
        others = {k: v for k, v in self._chosen().items() if k != name}
        changed: SettingValues = {"choose": {**others, name: grid} if grid else others}
        return replace(self, **changed)

    def written_out(self) -> MethodStage:
        """Return the stage with all hyper-parameters of its parts in their fields."""
        parts = self.PARTS.items()
        return replace(self, **{p.options: self.options_of(n) for n, p in parts if p.options})

    def to_plain(self) -> dict[str, Any]:
        """Return the fields as plain JSON."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> MethodStage:
        """Read what :meth:`to_plain` wrote; JSON has lists where fields have tuples."""
        values: SettingValues = {
            key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()
        }
        if "choose" in values:
            values["choose"] = {name: tuple(grid) for name, grid in values["choose"].items()}
        return cls(**values)
