"""Making an ensemble of members, and scoring one again that was written."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ltcache.adjustments import SPACES
from ltcache.cache import warn_of_shared
from ltcache.ensemble.members import (
    EnsembleMember,
    ZeroShot,
    check_member_classes,
    open_members,
)
from ltcache.ensemble.mixing import Progress, mixed_logits, scaled_weights, try_weights
from ltcache.ensemble.mixture import Ensemble
from ltcache.ensemble.record import (
    FILE,
    RUN,
    ZERO_SHOT,
    EnsembleRecord,
    MemberRecord,
    TriedWeights,
)
from ltcache.ensemble.rows import AlignedRows, align_rows
from ltcache.errors import FitError, UsageError
from ltcache.manifest import missing_split
from ltcache.metrics import (
    Metrics,
    PairedDifference,
    RowAdaptation,
    evaluate_logits,
    paired_bootstrap,
    validation_rank,
)
from ltcache.records import (
    PlaceKind,
    digest,
    not_what_is_asked,
    require_replaceable,
    result_folder,
)
from ltcache.runs import RowLogits, Run

if TYPE_CHECKING:
    from ltcache.cache import Cache

CHOSEN_ON = "val"


def ensemble(
    members: Sequence[Run | ZeroShot | str | Path],
    out: str | Path | None = None,
    *,
    caches: Sequence[Cache | str | Path] = (),
    split: str = "test",
    space: str = "probabilities",
    weights: Sequence[float] | None = None,
    prompts: str | None = None,
    allow_stale: Collection[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Ensemble:
    """Mix the scores of runs and zero-shot, and score the mix on a split.

    Rows are matched by the manifest's ``key`` within the split, never by position: a row that is
    not in this split of every cache is left out and counted, so that a row that trained one member
    scores no other. Each image is scored by itself, but by a transductive run, which learns from
    these rows without their labels; the scores then say so.

    Args:
        members: at least two: runs or their directories, ``zero-shot`` (of the first run whose
            cache has class texts), ``zero-shot:CACHE``, or :class:`ZeroShot`.
        out: directory of the result; None: it is not written.
        caches: none: each run's own; one: of all runs; or one for each run, in their order.
        split: which rows are scored; only labelled ones count.
        space: ``probabilities``, sum of w_m softmax(z_m), or ``logits``, sum of w_m z_m.
        weights: one of at least 0 for each member, scaled to sum 1; None: chosen on the validation
            split by mean accuracy per class (ties: lower NLL) from :func:`weight_grid`.
        prompts: name of the class texts for zero-shot; None: the default set.
        allow_stale: identity fields in which a cache may differ from its run.
        overwrite: replace an ensemble of other content.
        progress: called with points of the grid done and in all.

    Raises:
        IdentityError: a cache does not fit its run, or classes differ between members (status 4).
        UsageError: misfitting members, caches or weights, no row in common, or ``out`` is taken.
        FitError: labels of one row differ between members.
    """
    if space not in SPACES:
        raise UsageError(f"--space {space!r} is none of {', '.join(SPACES)}")
    if len(members) < 2:
        raise UsageError(f"an ensemble takes two members or more, such as RUN {ZERO_SHOT}")
    given = None if weights is None else scaled_weights(weights, len(members))
    if out is not None:
        require_replaceable(out, PlaceKind.ENSEMBLE)
    opened = open_members(members, caches, prompts, allow_stale)
    check_member_classes(opened)
    rows = {name: align_rows(opened, name) for name in _splits(opened, split, given)}
    for member in opened:
        warn_of_shared(member.cache, "train", *rows)
    scored_rows = {name: _logits(opened, aligned, name) for name, aligned in rows.items()}
    logits = {name: [found.logits for found in parts] for name, parts in scored_rows.items()}
    tried: list[TriedWeights] = []
    if given is None:
        tried = try_weights(logits[CHOSEN_ON], rows[CHOSEN_ON].labels, space, progress)
        given = max(tried, key=lambda point: validation_rank(vars(point), "")).weights
    mixed = {
        name: RowLogits(mixed_logits(parts, given, space), _learned(scored_rows[name]))
        for name, parts in logits.items()
    }
    record = _record(opened, given, space, split, rows, tried, out)
    of_members = {
        m.name: _scored({n: z[i] for n, z in scored_rows.items()}, rows, record, m.record.stale)
        for i, m in enumerate(opened)
    }
    found = Ensemble(
        record,
        _scored(mixed, rows, record, record.stale),
        of_members,
        _differences(opened, logits[split], mixed[split].logits, rows[split]),
        max(of_members, key=lambda name: of_members[name][split].mean_per_class),
        tuple(opened[0].cache.classes.names),
    )
    if out is not None:
        found.save(out, overwrite)
    return found


def evaluate_ensemble(
    path: str | Path,
    split: str = "test",
    cache: Cache | str | Path | None = None,
    allow_stale: Collection[str] = (),
) -> Metrics:
    """Score an ensemble that was written, with its own weights, on a split.

    Args:
        path: its directory. cache: of all its runs; None: the caches that it names.
        split, allow_stale: see :func:`ensemble`.

    Raises:
        UsageError: there is none, or a run or a cache of it is no longer there.
        FitError: its record is damaged. Others: see :func:`ensemble`.
    """
    path = result_folder(path)
    if not (path / FILE).is_file():
        raise UsageError(f"no ensemble here: {not_what_is_asked(path, PlaceKind.ENSEMBLE)}")
    try:
        record = EnsembleRecord.from_dict(json.loads((path / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FitError(f"{path / FILE}: cannot be read ({error})") from None
    own = [path / str(member.cache) for member in record.members if member.kind == RUN]
    found = ensemble(
        [_written_member(path, member) for member in record.members],
        caches=own if cache is None else [cache],
        split=split,
        space=record.space,
        weights=list(record.weights.values()),
        allow_stale=allow_stale,
    )
    return found.metrics[split]


def _written_member(path: Path, member: MemberRecord) -> ZeroShot | Path:
    """Return a member as the record of an ensemble names it, relative to its directory."""
    if member.kind == ZERO_SHOT:
        return ZeroShot(path / str(member.cache), member.prompts)
    if member.run is None:
        raise UsageError(
            f"{path}: its member {member.name} was never written, so it cannot be scored again"
        )
    return path / member.run


def _splits(
    members: Sequence[EnsembleMember], split: str, weights: Sequence[float] | None
) -> list[str]:
    """Return the splits to score: the one that is asked for, before it the one that chooses."""
    wanted = [split] if weights is not None or split == CHOSEN_ON else [CHOSEN_ON, split]
    for name in wanted:
        for member in members:
            if name not in member.cache.splits:
                chooses = name == CHOSEN_ON != split
                remedy = "; or give --weights, which val would choose" if chooses else ""
                raise UsageError(
                    f"{member.cache.path}: {missing_split(name, member.cache.splits)}{remedy}"
                )
    return wanted


def _counted(members: Sequence[EnsembleMember]) -> int:
    """Return whose training counts make the groups: the first run's, or else the first member's."""
    kinds = [member.record.kind for member in members]
    return kinds.index(RUN) if RUN in kinds else 0


def _learned(parts: Sequence[RowLogits]) -> tuple[RowAdaptation, ...]:
    return tuple(adaptation for part in parts for adaptation in part.adaptations)


def _logits(members: Sequence[EnsembleMember], rows: AlignedRows, split: str) -> list[RowLogits]:
    found = [m.scores(split, place) for m, place in zip(members, rows.places, strict=True)]
    for member, part in zip(members, found, strict=True):
        logits = part.logits
        if logits.shape[1] != len(member.cache.classes):
            raise FitError(
                f"{member.name} has {logits.shape[1]} classes, its cache "
                f"{len(member.cache.classes)}"
            )
        if not np.isfinite(logits).all():
            raise FitError(f"{member.name}: scores of {split!r} that are not finite")
    return found


def _scored(
    logits: Mapping[str, RowLogits],
    rows: Mapping[str, AlignedRows],
    ensemble_record: EnsembleRecord,
    stale: Sequence[str],
) -> dict[str, Metrics]:
    """Return split -> scores."""
    counts = np.array(ensemble_record.class_counts)
    groups, result = ensemble_record.groups, {}
    for name, found in rows.items():
        part = logits[name]
        scores = evaluate_logits(
            part.logits, found.labels, counts, groups=groups, units=found.units
        ).marked(tuple(stale))
        result[name] = replace(scores, adaptations=part.adaptations)
    return result


def _differences(
    members: Sequence[EnsembleMember],
    logits: Sequence[np.ndarray],
    mixed: np.ndarray,
    rows: AlignedRows,
) -> dict[str, PairedDifference]:
    right = mixed.argmax(axis=1) == rows.labels
    no_groups = np.full(mixed.shape[1], "-")
    return {
        member.name: paired_bootstrap(
            own.argmax(axis=1) == rows.labels,
            right,
            rows.labels,
            rows.units,
            groups=no_groups,
        )
        for member, own in zip(members, logits, strict=True)
    }


def _record(
    members: Sequence[EnsembleMember],
    weights: Sequence[float],
    space: str,
    split: str,
    rows: Mapping[str, AlignedRows],
    tried: Sequence[TriedWeights],
    out: str | Path | None,
) -> EnsembleRecord:
    counted = members[_counted(members)]
    return EnsembleRecord(
        members=tuple(m.placed(w, out) for m, w in zip(members, weights, strict=True)),
        encoders=len({digest(member.cache.encoder) for member in members}),
        space=space,
        split=split,
        tuned_on={"weights": CHOSEN_ON} if tried else {},
        tried=tuple(tried),
        rows={name: found.record for name, found in rows.items()},
        class_counts=tuple(counted.counts.tolist()),
        class_counts_of=counted.name,
        groups=counted.groups,
        stale=tuple(f"{m.name}: {name}" for m in members for name in m.record.stale),
    )
