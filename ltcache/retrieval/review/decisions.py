"""What a person decided about candidates, and a result with that in force.

Decisions are a JSON file that the gallery exports. It names the retrieval that it is about, so that
it is never applied to another one. What the guards said stays in retrieve.json: decisions applied
to a decided result take the place of those before.

    {"format": 1, "retrieval": {...}, "decisions": [{"label", "key", "decision"}, ...]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from ltcache.errors import UsageError
from ltcache.records import digest, one_line, require_equal
from ltcache.retrieval.record import AppliedDecision
from ltcache.retrieval.result import ACCEPTED, REJECTED, RetrievalResult, tallied

FORMAT = 1
ACCEPT, REJECT, MOVED = "accept", "reject", "moved"
BY_HAND, ELSEWHERE = "person", "other-class"
LOCKED = ("leak",)
"""Reasons that nobody can overrule: an image of another split, byte for byte."""


@one_line
@dataclass(frozen=True)
class ReviewDecisions:
    """Decisions about the candidates of one retrieval.

    Args:
        retrieval: which one (:func:`retrieval_identity`).
        chosen: (label, key in the pool) -> ``accept`` or ``reject``.
        name: the file, for messages.
    """

    retrieval: Mapping[str, Any]
    chosen: Mapping[tuple[int, str], str]
    name: str = "decisions"


def retrieval_identity(result: RetrievalResult) -> Mapping[str, Any]:
    """Return what makes a retrieval itself, for JSON: settings and both caches.

    Settings are written out, identities as one digest each, so that a difference has a name.
    """
    record = result.record
    parts = {
        side: {kind: digest(value) for kind, value in identity.items()}
        for side, identity in record.identities.items()
    }
    found = {"names": [record.cache, record.pool], "settings": asdict(record.settings), **parts}
    plain: Mapping[str, Any] = json.loads(json.dumps(found))  # lists, as they come from a file
    return plain


def read_decisions(path: str | Path) -> ReviewDecisions:
    """Read decisions as the gallery exports them.

    Raises:
        UsageError: no such file, or it holds something else, or two decisions about one image.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']!r} is unknown")
        chosen: dict[tuple[int, str], str] = {}
        for entry in found["decisions"]:
            place, decision = (int(entry["label"]), str(entry["key"])), entry["decision"]
            if decision not in (ACCEPT, REJECT):
                raise ValueError(f"{place[1]}: {decision!r} is neither {ACCEPT} nor {REJECT}")
            if chosen.setdefault(place, decision) != decision:
                raise ValueError(f"{place[1]} is both accepted and rejected for class {place[0]}")
        return ReviewDecisions(dict(found["retrieval"]), chosen, str(path))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except KeyError as error:
        raise UsageError(f"{path}: no decisions of a gallery: it lacks {error}") from None
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}: no decisions of a gallery: {error}") from None


def apply_decisions(result: RetrievalResult, decisions: ReviewDecisions) -> RetrievalResult:
    """Return the result with decisions in force, in place of any before; ``result`` stays.

    An accepted candidate is taken and, where another class had it, taken from there. A rejected one
    gets the reason ``person``. ``record["decisions"]`` says what each was before.

    Raises:
        IdentityError: the decisions are about another retrieval (status 4).
        UsageError: an image that is no candidate, or one that cannot be accepted: for two classes,
            or an image of another split, byte for byte.
    """
    require_equal(
        "retrieval",
        retrieval_identity(result),
        decisions.retrieval,
        remedy=f"{decisions.name} belongs to another result of retrieve-tail; export decisions "
        "from the gallery of this one",
    )
    table = undecided(result)
    labels, keys = table["label"].to_pylist(), table["key"].to_pylist()
    place = {pair: n for n, pair in enumerate(zip(labels, keys, strict=True))}
    _check(table, place, decisions)
    status, reason = table["status"].to_pylist(), table["reason"].to_pylist()
    applied: list[AppliedDecision] = []
    for n, decision in sorted(_moves(table, place, decisions).items()):
        applied.append(AppliedDecision(labels[n], keys[n], decision, status[n], reason[n]))
        status[n] = ACCEPTED if decision == ACCEPT else REJECTED
        reason[n] = {ACCEPT: "", REJECT: BY_HAND, MOVED: ELSEWHERE}[decision]
    table = _replaced(table, status, reason)
    classes = tuple(tallied(entry, table) for entry in result.classes)
    record = replace(result.record, classes=classes, decisions=tuple(applied))
    return RetrievalResult(table, record, result.features, result.feature_rows, result.path)


def undecided(result: RetrievalResult) -> pa.Table:
    """Return the candidates with what the guards alone made of them."""
    before = {(one.label, one.key): (one.status, one.reason) for one in result.record.decisions}
    rows = result.table.select(["label", "key", "status", "reason"]).to_pylist()
    kept = [before.get((row["label"], row["key"]), (row["status"], row["reason"])) for row in rows]
    return _replaced(result.table, [status for status, _ in kept], [reason for _, reason in kept])


def decisions_of(result: RetrievalResult) -> ReviewDecisions:
    """Return the decisions that are in force."""
    applied = result.record.decisions
    chosen = {(one.label, one.key): one.decision for one in applied if one.decision != MOVED}
    return ReviewDecisions(retrieval_identity(result), chosen)


def _check(
    table: pa.Table, place: Mapping[tuple[int, str], int], decisions: ReviewDecisions
) -> None:
    unknown = [
        f"{key} for class {label}" for label, key in decisions.chosen if (label, key) not in place
    ]
    if unknown:
        raise UsageError(
            f"{decisions.name}: {len(unknown)} decisions are about images that are no candidates, "
            f"such as {', '.join(unknown[:3])}"
        )
    reasons = table["reason"].to_pylist()
    owner: dict[str, int] = {}
    for (label, key), decision in decisions.chosen.items():
        if decision != ACCEPT:
            continue
        if reasons[place[label, key]] in LOCKED:
            raise UsageError(
                f"{decisions.name}: {key} cannot be accepted for class {label}: it is an image of "
                "another split, byte for byte"
            )
        if owner.setdefault(key, label) != label:
            raise UsageError(
                f"{decisions.name}: {key} is accepted for class {owner[key]} and for class "
                f"{label}; an image has one class"
            )


def _moves(
    table: pa.Table, place: Mapping[tuple[int, str], int], decisions: ReviewDecisions
) -> dict[int, str]:
    """Return row -> decision, with those that an accepted image is taken from."""
    moves = {place[pair]: decision for pair, decision in decisions.chosen.items()}
    owner = {key: label for (label, key), found in decisions.chosen.items() if found == ACCEPT}
    for n, row in enumerate(table.select(["label", "key", "status"]).to_pylist()):
        elsewhere = owner.get(row["key"], row["label"]) != row["label"]
        if elsewhere and row["status"] == ACCEPTED:
            moves.setdefault(n, MOVED)
    return moves


def _replaced(table: pa.Table, status: list[str], reason: list[str]) -> pa.Table:
    for name, values in (("status", status), ("reason", reason)):
        column = pa.array(values, pa.string())
        table = table.set_column(table.column_names.index(name), name, column)
    return table
