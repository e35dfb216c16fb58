"""What an ensemble records of itself: its members, their weights and the rows that they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ltcache.metrics import GroupScheme
from ltcache.records import JsonObject, JsonRecord, digest, read_record

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
class MemberRecord(JsonRecord):
    """A member of an ensemble.

    Attributes:
        name: unique in the ensemble. kind: ``run`` or ``zero-shot``. weight: of sum 1.
        key: digest of what determines the member's scores.
        identities, field, prompts, residual_prior, tuned_on: as :class:`ltcache.runs.RunRecord`.
        stale: identity fields that were let pass.
        transductive: whether it learns from the rows that it scores.
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
    transductive: bool = False

    def to_dict(self) -> JsonObject:
        """Return plain JSON; what only runs have is left out of zero-shot, and what only a
        transductive one is out of others."""
        left_out = {*(() if self.kind == RUN else _OF_RUNS)}
        left_out |= set() if self.transductive else {"transductive"}
        plain = super().to_dict()
        return {name: value for name, value in plain.items() if name not in left_out}


@dataclass(frozen=True)
class MissingRows:
    """Rows of other members that one lacks: how many, how many of them lie in another split of its
    cache, and the first keys."""

    rows: int
    in_another_split: int
    first: tuple[str, ...]


@dataclass(frozen=True)
class RowsRecord(JsonRecord):
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
        rest = {name: value for name, value in plain.items() if name != "left_out"}
        left_out = dict(plain["left_out"])
        counts = {"not_shared": left_out.pop("rows"), **left_out}
        return read_record(cls, {**rest, **counts}, name=f"{FILE}, rows")

    def to_dict(self) -> JsonObject:
        """Return plain JSON."""
        plain = super().to_dict()
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
class EnsembleRecord(JsonRecord):
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
        found = {**plain, "encoders": plain["encoders"]["distinct"]}
        return read_record(cls, found, name=FILE, newest=FORMAT, beside=_DERIVED)

    def to_dict(self) -> JsonObject:
        """Return plain JSON."""
        return {
            **super().to_dict(),
            "format": FORMAT,
            "key": self.key,
            "encoders": {"distinct": self.encoders, "note": self.encoders_note},
            "aligned_by": "key",
            "transductive": any(member.transductive for member in self.members),
            "group_scheme": self.groups.describe(np.array(self.class_counts)),
        }
