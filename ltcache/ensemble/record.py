"""What an ensemble records of itself: its members, their weights and the rows that they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ltcache.metrics import GroupScheme
from ltcache.records import digest, record_fields

FORMAT = 1
FILE = "ensemble.json"
RUN, ZERO_SHOT = "run", "zero-shot"

_OF_RUNS = ("method", "run", "seed")
_DERIVED = ("aligned_by", "group_scheme", "key", "transductive")
_SEVERAL = (
    "{} different encoders, by design: members share rows (by key) and classes, not features; each "
    "was checked against its own cache"
)


@dataclass(frozen=True)
class MemberRecord:
    """A member of an ensemble.

    Attributes:
        name: unique in the ensemble. kind: ``run`` or ``zero-shot``. weight: of sum 1.
        key: digest of what determines the member's scores.
        identities, field, prompts, residual_prior, tuned_on: as :class:`ltcache.runs.RunRecord`.
        stale: identity fields that were let pass.
        method, seed: of a run. run, cache: where they lie, relative to the ensemble's directory;
            None where that was not written.
    """

    name: str
    kind: str
    key: str
    identities: Mapping[str, Any]
    field: str
    prompts: str | None
    residual_prior: float | None
    tuned_on: Mapping[str, str]
    stale: tuple[str, ...]
    weight: float = 0.0
    cache: str | None = None
    method: str | None = None
    run: str | None = None
    seed: int | None = None

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> MemberRecord:
        """Read what :meth:`to_dict` gave."""
        found = record_fields(cls, plain, name=f"{FILE}, members")
        return cls(**{**found, "stale": tuple(plain["stale"])})

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON; what only runs have is left out of zero-shot."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        left_out = () if self.kind == RUN else _OF_RUNS
        kept = {name: value for name, value in plain.items() if name not in left_out}
        return {**kept, "stale": list(self.stale)}


@dataclass(frozen=True)
class MissingRows:
    """Rows of other members that one lacks: how many, how many of them lie in another split of its
    cache, and the first keys."""

    rows: int
    in_another_split: int
    first: tuple[str, ...]


@dataclass(frozen=True)
class RowsRecord:
    """Which rows of a split were scored.

    Attributes:
        rows: how many. keys: digest of their keys.
        not_shared: rows that not all members have; of these ``missing``: member -> those it lacks.
        unlabelled: rows that all members have, without a label.
        content_differs: rows whose image is not the same file in all caches that know it.
    """

    rows: int
    keys: str
    not_shared: int
    missing: Mapping[str, MissingRows]
    unlabelled: int
    content_differs: int

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> RowsRecord:
        """Read what :meth:`to_dict` gave."""
        left_out = plain["left_out"]
        missing = {
            name: MissingRows(**{**gap, "first": tuple(gap["first"])})
            for name, gap in left_out["missing"].items()
        }
        counts = (left_out["rows"], missing, left_out["unlabelled"], plain["content_differs"])
        return cls(plain["rows"], plain["keys"], *counts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        plain = asdict(self)
        left_out = {name: plain.pop(name) for name in ("missing", "unlabelled")}
        left_out["rows"] = plain.pop("not_shared")
        return {**plain, "left_out": left_out}


@dataclass(frozen=True)
class TriedWeights:
    """A point of the grid of weights, with its scores on the rows that chose."""

    weights: tuple[float, ...]
    mean_per_class: float
    nll: float


@dataclass(frozen=True)
class EnsembleRecord:
    """What stands in ensemble.json, beside what follows from it.

    Attributes:
        encoders: how many different ones stand behind the members.
        space: of the mixing. split: that was scored. rows: split -> those that were aligned.
        tuned_on: what was chosen -> the rows that chose it. tried: the grid that was searched.
        class_counts, groups: of the member ``class_counts_of``, for the group scores.
        stale: member and identity fields that were let pass.
    """

    members: tuple[MemberRecord, ...]
    encoders: int
    space: str
    split: str
    tuned_on: Mapping[str, str]
    tried: tuple[TriedWeights, ...]
    rows: Mapping[str, RowsRecord]
    class_counts: tuple[int, ...]
    class_counts_of: str
    groups: GroupScheme
    stale: tuple[str, ...]

    @property
    def weights(self) -> dict[str, float]:
        """Member -> weight; they sum to 1."""
        return {member.name: member.weight for member in self.members}

    @property
    def encoders_note(self) -> str:
        """How many encoders stand behind the members, and that they may differ."""
        return "one encoder" if self.encoders == 1 else _SEVERAL.format(self.encoders)

    @property
    def key(self) -> str:
        """Digest of what determines the scores: members, weights, space, split and rows."""
        keys = [member.key for member in self.members]
        rows = {name: found.keys for name, found in self.rows.items()}
        return digest([keys, list(self.weights.values()), self.space, self.split, rows])

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> EnsembleRecord:
        """Read what stands in ensemble.json.

        Raises:
            ValueError: a later version wrote it, or something is missing.
        """
        found = record_fields(cls, plain, name=FILE, newest=FORMAT, beside=_DERIVED)
        for name in ("class_counts", "stale"):
            found[name] = tuple(plain[name])
        return cls(**{
            **found,
            "members": tuple(map(MemberRecord.from_dict, plain["members"])),
            "encoders": plain["encoders"]["distinct"],
            "tried": tuple(
                TriedWeights(**{**point, "weights": tuple(point["weights"])})
                for point in plain["tried"]
            ),
            "rows": {split: RowsRecord.from_dict(rows) for split, rows in plain["rows"].items()},
            "groups": GroupScheme.from_mapping(plain["groups"]),
        })  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            **plain,
            "format": FORMAT,
            "key": self.key,
            "members": [member.to_dict() for member in self.members],
            "encoders": {"distinct": self.encoders, "note": self.encoders_note},
            "tried": [asdict(point) for point in self.tried],
            "aligned_by": "key",
            "rows": {name: found.to_dict() for name, found in self.rows.items()},
            "transductive": False,
            "groups": self.groups.to_mapping(),
            "group_scheme": self.groups.describe(),
        }
