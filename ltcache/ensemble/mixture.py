"""A late ensemble: class scores of several members, mixed on rows that are aligned by their key.

    OUT/{ensemble.json, metrics.json, per_class.csv}

A member is a run or zero-shot. The members' caches may be of different encoders: only their
classes, and the labels of the rows that they share, must agree. So the last rows of TACKLE can be
made, a network that never saw a text together with CLIP; its poster does not say whether it
averages probabilities or logits, nor with which weights.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltcache.adjustments import SPACES
from ltcache.cache import check_prompts
from ltcache.errors import FitError, UsageError
from ltcache.evaluate import cache_of
from ltcache.manifest import missing_split
from ltcache.metrics import (
    GroupScheme,
    Metrics,
    PairedDifference,
    evaluate_logits,
    paired_bootstrap,
)
from ltcache.records import (
    PlaceKind,
    digest,
    not_what_is_asked,
    one_line,
    require_equal,
    result_folder,
    telling_classes,
    whole_folder,
    write_json,
)
from ltcache.runs import Run, check_features, open_run, write_classes
from ltcache.zero_shot import cached_logits

if TYPE_CHECKING:
    from ltcache.cache import Cache

FORMAT = 1
ZERO_SHOT = "zero-shot"
CHOSEN_ON = "val"

_FIRST = 5  # keys that a list of left out rows shows
_STEPS = (20, 10, 5, 4, 2)  # how finely the grid may divide 1
_POINTS = 1001  # the most points of a grid

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class ZeroShot:
    """The member that is no run: classification by class texts.

    Args:
        cache: a cache or its directory; None: that of the first run whose cache has class texts.
        prompts: name of the class texts; None: the default set.
    """

    cache: Cache | str | Path | None = None
    prompts: str | None = None


@one_line
@dataclass(eq=False)
class Ensemble:
    """An ensemble with its scores and those of its members on the same rows.

    Attributes:
        record: what stands in ensemble.json: members with their identities, weights, space,
            tuned_on, rows of each split with those left out, differences.
        metrics: split -> scores. member_metrics: member -> split -> scores.
        differences: member -> ensemble - member in mean accuracy per class, on the scored split.
        best_member: the member that is best there, so that the ensemble is not compared to a weak
            one. class_names: in label order. path: its directory, or None.
    """

    record: dict[str, Any]
    metrics: dict[str, Metrics]
    member_metrics: dict[str, dict[str, Metrics]]
    differences: dict[str, PairedDifference]
    best_member: str
    class_names: tuple[str, ...] = ()
    path: Path | None = None

    @property
    def weights(self) -> dict[str, float]:
        """Member -> weight; they sum to 1."""
        return {member["name"]: member["weight"] for member in self.record["members"]}

    def metrics_record(self) -> dict[str, Any]:
        """Return what stands in metrics.json."""
        named = ("tuned_on", "group_scheme", "stale", "space")
        return {
            "method": "ensemble",
            **{name: self.record[name] for name in named},
            "weights": self.weights,
            "splits": _plain(self.metrics),
            "members": {name: _plain(splits) for name, splits in self.member_metrics.items()},
            "best_member": self.best_member,
            "differences": {name: found.to_dict() for name, found in self.differences.items()},
        }

    def save(self, out: str | Path, overwrite: bool = False) -> Path:
        """Write the ensemble as a directory.

        Raises:
            UsageError: something else is there, and it is not an ensemble or ``overwrite`` is
                false.
        """
        out = Path(out)
        _check_place(out, self.record["key"], overwrite)
        with whole_folder(out) as partial:
            self._write(partial)
        self.path = out
        return out

    def _write(self, directory: Path) -> None:
        write_json(directory / "ensemble.json", self.record)
        write_json(directory / "metrics.json", self.metrics_record())
        write_classes(directory / "per_class.csv", self.record, self.class_names, self.metrics)


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
    scores no other. Each image is scored by itself (nothing is transductive).

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
        raise UsageError(f"space={space!r} is none of {', '.join(SPACES)}")
    if len(members) < 2:
        raise UsageError(f"an ensemble takes two members or more, such as RUN {ZERO_SHOT}")
    given = None if weights is None else _scaled(weights, len(members))
    if out is not None:
        _check_place(Path(out), None, overwrite)
    opened = _open(members, caches, prompts, allow_stale)
    _check_classes(opened)
    rows = {name: _align(opened, name) for name in _splits(opened, split, given)}
    logits = {name: _logits(opened, aligned, name) for name, aligned in rows.items()}
    tried: list[dict[str, Any]] = []
    if given is None:
        tried = _try(logits[CHOSEN_ON], rows[CHOSEN_ON].labels, space, progress)
        given = tuple(max(tried, key=lambda t: (t["mean_per_class"], -t["nll"]))["weights"])
    mixed = {name: mixed_logits(parts, given, space) for name, parts in logits.items()}
    record = _record(opened, given, space, split, rows, tried, out)
    of_members = {
        member.name: _scored({n: parts[i] for n, parts in logits.items()}, rows, record, stale)
        for i, (member, stale) in enumerate((m, m.record["stale"]) for m in opened)
    }
    found = Ensemble(
        record,
        _scored(mixed, rows, record, record["stale"]),
        of_members,
        _differences(opened, logits[split], mixed[split], rows[split]),
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
    if not (path / "ensemble.json").is_file():
        raise UsageError(f"no ensemble here: {not_what_is_asked(path, PlaceKind.ENSEMBLE)}")
    try:
        record = json.loads((path / "ensemble.json").read_text(encoding="utf-8"))
        parts = record["members"]
        members = [_written_member(path, part) for part in parts]
        own = [path / part["cache"] for part in parts if part["kind"] == "run"]
        weights, space = [float(part["weight"]) for part in parts], str(record["space"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FitError(f"{path / 'ensemble.json'}: cannot be read ({error!r})") from None
    found = ensemble(
        members,
        caches=own if cache is None else [cache],
        split=split,
        space=space,
        weights=weights,
        allow_stale=allow_stale,
    )
    return found.metrics[split]


def _written_member(path: Path, part: Mapping[str, Any]) -> ZeroShot | Path:
    """Return a member as the record of an ensemble names it, relative to its directory."""
    if part["kind"] == ZERO_SHOT:
        return ZeroShot(path / part["cache"], part["prompts"])
    if part["run"] is None:
        raise UsageError(
            f"{path}: its member {part['name']} was never written, so it cannot be scored again"
        )
    return path / part["run"]


def mixed_logits(logits: Sequence[np.ndarray], weights: Sequence[float], space: str) -> np.ndarray:
    """Return float64 (N, C): log of the sum of w_m softmax(z_m), or the sum of w_m z_m.

    Args:
        logits: of each member, (N, C). weights: of each member, at least 0, of sum 1.
        space: ``probabilities`` or ``logits``.
    """
    return _mix([_in_space(z, space) for z in logits], weights, space)


def weight_grid(members: int) -> list[tuple[float, ...]]:
    """Return weights of sum 1 for M members: steps of 0.05 for two and three, coarser for more.

    Raises:
        UsageError: too many members.
    """
    for steps in _STEPS:
        if math.comb(steps + members - 1, members - 1) <= _POINTS:
            return [tuple(n / steps for n in part) for part in _parts(steps, members)]
    raise UsageError(f"no grid for {members} members: give their --weights")


@dataclass(frozen=True, eq=False)
class _AlignedRows:
    """Rows of a split that all members have, in the order of the first member's cache.

    Attributes:
        keys, labels: (N,). units: (N,) of the first cache that has units, or None.
        places: of each member, the positions of these rows in its split, (N,).
        left_out: ``rows`` that not all members have; of these ``missing``: member -> how many it
            lacks, how many of them are ``in_another_split`` of its cache, the ``first`` keys; and
            ``unlabelled`` rows that all have.
        content_differs: rows whose image is not the same file in all caches that know it.
    """

    keys: np.ndarray
    labels: np.ndarray
    units: np.ndarray | None
    places: tuple[np.ndarray, ...]
    left_out: dict[str, Any]
    content_differs: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON, with a digest of the keys in their place."""
        return {
            "rows": len(self.keys),
            "keys": digest(self.keys.tolist()),
            "left_out": self.left_out,
            "content_differs": self.content_differs,
        }


@dataclass(frozen=True, eq=False)
class _EnsembleMember:
    """A member with the rows it can score.

    Attributes:
        scores: split, positions (N,) -> logits (N, C). counts: training rows per class, (C,).
        record: for ensemble.json, without name and weight.
    """

    name: str
    cache: Cache
    scores: Callable[[str, np.ndarray], np.ndarray]
    counts: np.ndarray
    groups: GroupScheme
    record: dict[str, Any] = field(default_factory=dict)


def _align(members: Sequence[_EnsembleMember], split: str) -> _AlignedRows:
    """Match the rows of a split by key.

    Raises:
        UsageError: no labelled row is in all. FitError: labels of a row differ.
    """
    position = [{k: i for i, k in enumerate(_keys(m, split))} for m in members]
    shared = [key for key in position[0] if all(key in other for other in position[1:])]
    places = np.array([[where[key] for key in shared] for where in position], dtype=np.int64)
    labels = np.stack([m.cache.labels(split)[p] for m, p in zip(members, places, strict=True)])
    known = labels.max(axis=0, initial=-1)
    _check_labels(members, labels, known, shared)
    keep = known >= 0
    if not keep.any():
        named = ", ".join(
            f"{m.cache.path} ({len(p)} rows)" for m, p in zip(members, position, strict=True)
        )
        raise UsageError(
            f"no labelled row of {split!r} has the same key in all of {named}; rows are matched by "
            "the manifest's key, which ltcache extract makes of the path within the source"
        )
    places = places[:, keep]
    differs = _content_differs(members, split, places)
    if differs:
        warnings.warn(
            f"{differs} of {keep.sum()} {split} rows are not the same file in all caches: their "
            "keys and labels agree, their bytes do not",
            stacklevel=3,
        )
    return _AlignedRows(
        np.array(shared)[keep],
        known[keep],
        _units(members, split, places),
        tuple(places),
        {**_left_out(members, position), "unlabelled": int((~keep).sum())},
        differs,
    )


def _keys(member: _EnsembleMember, split: str | None) -> list[str]:
    keys = member.cache.column("key", split)
    assert keys is not None  # a manifest has keys, each once
    return list(map(str, keys.tolist()))


def _check_labels(
    members: Sequence[_EnsembleMember], labels: np.ndarray, known: np.ndarray, keys: Sequence[str]
) -> None:
    bad = ((labels >= 0) & (labels != known)).any(axis=0)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        said = ", ".join(
            f"{label} in {member.cache.path}"
            for member, label in zip(members, labels[:, first].tolist(), strict=True)
        )
        raise FitError(
            f"labels of {bad.sum()} rows differ between the caches, first of {keys[first]!r}: "
            f"{said}; extract both from the same list"
        )


def _content_differs(members: Sequence[_EnsembleMember], split: str, places: np.ndarray) -> int:
    shas = [member.cache.column("sha256", split) for member in members]
    known = [sha[place] for sha, place in zip(shas, places, strict=True) if sha is not None]
    differs = np.zeros(places.shape[1], dtype=bool)
    for one, two in itertools.combinations(known, 2):
        differs |= (one != two) & (one.astype(bool)) & (two.astype(bool))
    return int(differs.sum())


def _units(members: Sequence[_EnsembleMember], split: str, places: np.ndarray) -> np.ndarray | None:
    for member, place in zip(members, places, strict=True):
        units = member.cache.column("unit", split)
        if units is not None:
            return np.asarray(units[place])
    return None


def _left_out(
    members: Sequence[_EnsembleMember], position: Sequence[Mapping[str, int]]
) -> dict[str, Any]:
    every = dict.fromkeys(key for where in position for key in where)
    gaps: dict[str, Any] = {}
    for member, where in zip(members, position, strict=True):
        missing = [key for key in every if key not in where]
        if missing:
            elsewhere = set(_keys(member, None))
            gaps[member.name] = {
                "rows": len(missing),
                "in_another_split": sum(key in elsewhere for key in missing),
                "first": missing[:_FIRST],
            }
    everywhere = sum(all(key in where for where in position) for key in every)
    return {"rows": len(every) - everywhere, "missing": gaps}


def _open(
    members: Sequence[Run | ZeroShot | str | Path],
    caches: Sequence[Cache | str | Path],
    prompts: str | None,
    allow_stale: Collection[str],
) -> list[_EnsembleMember]:
    read = [_read(member, prompts) for member in members]
    runs = [member for member in read if isinstance(member, Run)]
    if caches and not runs:
        raise UsageError(f"--cache is of runs, and no member is one: write {ZERO_SHOT}:CACHE")
    if prompts is not None and len(runs) == len(read):
        raise UsageError(f"--prompts {prompts} has no effect: no member is {ZERO_SHOT}")
    if len(caches) not in (0, 1, len(runs)):
        raise UsageError(
            f"{len(caches)} caches for {len(runs)} runs: name none, one for all or one for each"
        )
    given = list(caches) * (len(runs) if len(caches) == 1 else 1)
    own = [cache_of(run, given[i] if given else None) for i, run in enumerate(runs)]
    of_run = iter(own)
    opened = [
        _run_member(member, next(of_run), allow_stale)
        if isinstance(member, Run)
        else _zero_shot_member(member, own, allow_stale)
        for member in read
    ]
    keys = [member.record["key"] for member in opened]
    for i, key in enumerate(keys):
        if key in keys[:i]:
            raise UsageError(f"{opened[i].name} and {opened[keys.index(key)].name} are one member")
    names = [member.name for member in opened]
    return [
        replace(m, name=f"{m.name} ({i + 1})") if names.count(m.name) > 1 else m
        for i, m in enumerate(opened)
    ]


def _read(member: Run | ZeroShot | str | Path, prompts: str | None) -> Run | ZeroShot:
    if isinstance(member, ZeroShot):
        return replace(member, prompts=member.prompts or prompts)
    if isinstance(member, Run):
        return member
    kind, _, where = str(member).partition(":")
    if kind == ZERO_SHOT:
        return ZeroShot(where or None, prompts)
    return open_run(member)


def _run_member(run: Run, cache: Cache, allow_stale: Collection[str]) -> _EnsembleMember:
    stale = check_features(run, cache, allow_stale)

    def scores(split: str, places: np.ndarray) -> np.ndarray:
        features = cache.features(split, run.record["field"], run.method.feature.eval_view)
        return run.logits(features[places])

    name = str(run.path) if run.path else f"{run.method.name}, seed {run.record['seed']}"
    copied = ("seed", "field", "identities", "prompts", "residual_prior", "tuned_on")
    record = {
        "kind": "run",
        "run": run.path,
        "key": run.key,
        "method": run.method.name,
        **{part: run.record.get(part) for part in copied},
        "stale": [*run.record.get("stale", ()), *stale],
    }
    groups = GroupScheme.from_mapping(run.record["groups"])
    return _EnsembleMember(
        name, cache, scores, np.array(run.record["class_counts"]), groups, record
    )


def _zero_shot_member(
    member: ZeroShot, of_runs: Sequence[Cache], allow_stale: Collection[str]
) -> _EnsembleMember:
    cache = _texts_cache(member, of_runs)
    texts = cache.prompts(member.prompts)
    stale = check_prompts(cache, texts, allow_stale)
    identities = cache.identities("center", texts)
    trained = "train" in cache.splits
    groups = GroupScheme.from_mapping(cache.manifest.groups)
    if not trained and groups.explicit is None:
        # no training counts, so nothing is many or few; unlike (), this can be written as JSON
        groups = GroupScheme(explicit=(("many", ()),))
    record = {
        "kind": ZERO_SHOT,
        "key": digest([ZERO_SHOT, identities]),
        "identities": identities,
        "field": "embedding",
        "prompts": texts.name,
        "residual_prior": 0.0,
        "tuned_on": {},
        "stale": stale,
    }
    return _EnsembleMember(
        ZERO_SHOT,
        cache,
        lambda split, places: cached_logits(cache, split, texts)[places],
        cache.class_counts("train") if trained else np.zeros(len(cache.classes), np.int64),
        groups,
        record,
    )


def _texts_cache(member: ZeroShot, of_runs: Sequence[Cache]) -> Cache:
    from ltcache.cache import open_cache

    if isinstance(member.cache, (str, Path)):
        return open_cache(member.cache)
    if member.cache is not None:
        return member.cache
    for cache in of_runs:
        if cache.prompt_names:
            return cache
    raise UsageError(
        f"no run's cache has class texts for {ZERO_SHOT}: name a cache that has, as "
        f"{ZERO_SHOT}:CACHE, or add texts with ltcache prompts"
    )


def _check_classes(members: Sequence[_EnsembleMember]) -> None:
    first = members[0].cache
    for member in members:
        with telling_classes(first.classes.names, member.cache.classes.names):
            require_equal(
                "classes",
                first.classes.identity(),
                member.cache.classes.identity(),
                remedy=f"{first.path} and {member.cache.path} must have the same classes in the "
                "same order: extract both from the same list",
            )


def _splits(
    members: Sequence[_EnsembleMember], split: str, weights: Sequence[float] | None
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


def _counted(members: Sequence[_EnsembleMember]) -> int:
    """Return whose training counts make the groups: the first run's, or else the first member's."""
    kinds = [member.record["kind"] for member in members]
    return kinds.index("run") if "run" in kinds else 0


def _logits(members: Sequence[_EnsembleMember], rows: _AlignedRows, split: str) -> list[np.ndarray]:
    found = [m.scores(split, place) for m, place in zip(members, rows.places, strict=True)]
    for member, logits in zip(members, found, strict=True):
        if logits.shape[1] != len(member.cache.classes):
            raise FitError(
                f"{member.name} has {logits.shape[1]} classes, its cache "
                f"{len(member.cache.classes)}"
            )
        if not np.isfinite(logits).all():
            raise FitError(f"{member.name}: scores of {split!r} that are not finite")
    return found


def _scaled(weights: Sequence[float], members: int) -> tuple[float, ...]:
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (members,):
        raise UsageError(f"{values.size} weights for {members} members")
    if not np.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
        raise UsageError("weights are numbers of at least 0 that are not all 0")
    return tuple((values / values.sum()).tolist())


def _parts(total: int, members: int) -> Iterator[tuple[int, ...]]:
    """Yield all ways to write ``total`` as a sum of so many numbers of at least 0."""
    if members == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _parts(total - first, members - 1):
            yield (first, *rest)


def _in_space(logits: np.ndarray, space: str) -> np.ndarray:
    z = logits.astype(np.float64)
    if space == "logits":
        return z
    z -= z.max(axis=1, keepdims=True)
    z -= np.log(np.exp(z).sum(axis=1, keepdims=True))
    return z


def _mix(parts: Sequence[np.ndarray], weights: Sequence[float], space: str) -> np.ndarray:
    used = [(part, w) for part, w in zip(parts, weights, strict=True) if w > 0]
    if space == "logits":
        return functools.reduce(np.add, (w * part for part, w in used))
    return functools.reduce(np.logaddexp, (math.log(w) + part for part, w in used))


def _try(
    logits: Sequence[np.ndarray], labels: np.ndarray, space: str, progress: Progress | None
) -> list[dict[str, Any]]:
    """Return the scores of every point of the grid."""
    grid = weight_grid(len(logits))
    parts = [_in_space(z, space) for z in logits]
    counts = np.zeros(parts[0].shape[1], np.int64)  # only groups would need them
    tried = []
    for done, weights in enumerate(grid, start=1):
        found = evaluate_logits(_mix(parts, weights, space), labels, counts, bootstrap=0)
        scores = {"mean_per_class": found.mean_per_class, "nll": found.nll}
        tried.append({"weights": list(weights), **scores})
        if progress is not None:
            progress(done, len(grid))
    return tried


def _scored(
    logits: Mapping[str, np.ndarray],
    rows: Mapping[str, _AlignedRows],
    record: Mapping[str, Any],
    stale: Sequence[str],
) -> dict[str, Metrics]:
    """Return split -> scores."""
    counts = np.array(record["class_counts"])
    return {
        name: evaluate_logits(
            logits[name], found.labels, counts, groups=record["groups"], units=found.units
        ).marked(tuple(stale))
        for name, found in rows.items()
    }


def _differences(
    members: Sequence[_EnsembleMember],
    logits: Sequence[np.ndarray],
    mixed: np.ndarray,
    rows: _AlignedRows,
) -> dict[str, PairedDifference]:
    right = mixed.argmax(axis=1) == rows.labels
    return {
        member.name: paired_bootstrap(
            own.argmax(axis=1) == rows.labels,
            right,
            rows.labels,
            rows.units,
            num_classes=mixed.shape[1],
        )
        for member, own in zip(members, logits, strict=True)
    }


def _record(
    members: Sequence[_EnsembleMember],
    weights: Sequence[float],
    space: str,
    split: str,
    rows: Mapping[str, _AlignedRows],
    tried: list[dict[str, Any]],
    out: str | Path | None,
) -> dict[str, Any]:
    counted = members[_counted(members)]
    described = [
        {**_placed(member, out), "name": member.name, "weight": weight}
        for member, weight in zip(members, weights, strict=True)
    ]
    aligned = {name: found.to_dict() for name, found in rows.items()}
    used = [[member.record["key"] for member in members], list(weights), space, split]
    return {
        "format": FORMAT,
        "key": digest([*used, {name: found["keys"] for name, found in aligned.items()}]),
        "members": described,
        "encoders": _encoders(members),
        "space": space,
        "split": split,
        "tuned_on": {"weights": CHOSEN_ON} if tried else {},
        "tried": tried,
        "aligned_by": "key",
        "rows": aligned,
        "transductive": False,
        "class_counts": counted.counts.tolist(),
        "class_counts_of": counted.name,
        "groups": counted.groups.to_mapping(),
        "group_scheme": counted.groups.describe(),
        "stale": [f"{m.name}: {name}" for m in members for name in m.record["stale"]],
    }


def _placed(member: _EnsembleMember, out: str | Path | None) -> dict[str, Any]:
    """Return a member's record with where it lies, relative to the result's directory."""

    def relative(path: Path | None) -> str | None:
        return None if path is None or out is None else os.path.relpath(path, Path(out).absolute())

    places = {"cache": relative(member.cache.path)}
    if "run" in member.record:
        places["run"] = relative(member.record["run"])
    return {**member.record, **places}


def _encoders(members: Sequence[_EnsembleMember]) -> dict[str, Any]:
    """Return how many encoders stand behind the members, and that they may differ."""
    distinct = len({digest(member.cache.encoder) for member in members})
    note = (
        "one encoder"
        if distinct == 1
        else f"{distinct} different encoders, by design: members share rows (by key) and classes, "
        "not features; each was checked against its own cache"
    )
    return {"distinct": distinct, "note": note}


def _check_place(out: Path, key: str | None, overwrite: bool) -> None:
    """Refuse to replace what is not an ensemble; of another ``key``, unless told to."""
    out = result_folder(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / "ensemble.json").is_file():
        raise UsageError(f"{out} exists and is not an ensemble; choose another --out")
    try:
        there = json.loads((out / "ensemble.json").read_text(encoding="utf-8")).get("key")
    except (OSError, ValueError, AttributeError):
        there = None
    if key is not None and there != key and not overwrite:
        raise UsageError(f"{out} holds another ensemble; choose another --out, or pass --overwrite")


def _plain(splits: Mapping[str, Metrics]) -> dict[str, Any]:
    return {name: metrics.to_dict() for name, metrics in splits.items()}
