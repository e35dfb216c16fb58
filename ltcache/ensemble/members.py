"""Members of an ensemble: runs and zero-shot, each with the cache whose rows it scores."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ltcache.adjustments import is_transductive
from ltcache.cache import check_prompts
from ltcache.ensemble.record import RUN, ZERO_SHOT, MemberRecord
from ltcache.errors import UsageError
from ltcache.evaluate import cache_of
from ltcache.metrics import GroupScheme
from ltcache.records import digest, one_line, require_equal, telling_classes
from ltcache.runs import SCORED, RowLogits, Run, check_features, open_run, warn_of_division
from ltcache.zero_shot import cached_logits

if TYPE_CHECKING:
    from ltcache.cache import Cache


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
@dataclass(frozen=True, eq=False)
class EnsembleMember:
    """A member with the rows it can score.

    Attributes:
        record: for ensemble.json, but for the weight and the places.
        scores: split, positions (N,) -> logits of these rows.
        counts: training rows per class, (C,).
        run: the directory of a run that was written.
    """

    record: MemberRecord
    cache: Cache
    scores: Callable[[str, np.ndarray], RowLogits]
    counts: np.ndarray
    groups: GroupScheme
    run: Path | None = None

    @property
    def name(self) -> str:
        """Unique in the ensemble."""
        return self.record.name

    def placed(self, weight: float, out: str | Path | None) -> MemberRecord:
        """Return the record with the weight, and with places relative to the result's directory."""

        def relative(path: Path | None) -> str | None:
            if path is None or out is None:
                return None
            return os.path.relpath(path, Path(out).absolute())

        cache, run = relative(self.cache.path), relative(self.run)
        return replace(self.record, weight=weight, cache=cache, run=run)


def open_members(
    members: Sequence[Run | ZeroShot | str | Path],
    caches: Sequence[Cache | str | Path],
    prompts: str | None,
    allow_stale: Collection[str],
) -> list[EnsembleMember]:
    """Open members, each with its cache, and give each a name of its own.

    Args:
        members, caches, prompts, allow_stale: see :func:`ltcache.ensemble.ensemble`.

    Raises:
        IdentityError: a cache does not fit its run. UsageError: misfitting members or caches.
    """
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
    keys = [member.record.key for member in opened]
    for i, key in enumerate(keys):
        if key in keys[:i]:
            raise UsageError(f"{opened[i].name} and {opened[keys.index(key)].name} are one member")
    names = [member.name for member in opened]
    return [
        replace(m, record=replace(m.record, name=f"{m.name} ({i + 1})"))
        if names.count(m.name) > 1
        else m
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


def _run_member(run: Run, cache: Cache, allow_stale: Collection[str]) -> EnsembleMember:
    stale = check_features(run, cache, allow_stale)
    warn_of_division(run, cache, *SCORED)

    had = run.record
    record = MemberRecord(
        name=str(run.path) if run.path else f"{run.method.name}, seed {had.seed}",
        kind=RUN,
        key=run.key,
        method=run.method.name,
        seed=had.seed,
        field=had.field,
        identities=had.identities,
        prompts=had.prompts,
        residual_prior=had.residual_prior,
        tuned_on=had.tuned_on,
        transductive=is_transductive(run.head),
        stale=(*had.stale, *stale),
    )
    return EnsembleMember(
        record,
        cache,
        lambda split, places: run.logits_of(cache, split, places),
        np.array(had.class_counts),
        had.groups,
        run.path,
    )


def _zero_shot_member(
    member: ZeroShot, of_runs: Sequence[Cache], allow_stale: Collection[str]
) -> EnsembleMember:
    cache = _texts_cache(member, of_runs)
    texts = cache.prompts(member.prompts)
    stale = check_prompts(cache, texts, allow_stale)
    identities = cache.identities("center", texts)
    trained = "train" in cache.splits
    groups = GroupScheme.from_dict(cache.manifest.groups)
    record = MemberRecord(
        name=ZERO_SHOT,
        kind=ZERO_SHOT,
        key=digest([ZERO_SHOT, identities]),
        field="embedding",
        identities=identities,
        prompts=texts.name,
        residual_prior=0.0,
        tuned_on={},
        stale=tuple(stale),
    )
    return EnsembleMember(
        record,
        cache,
        lambda split, places: RowLogits(cached_logits(cache, split, texts)[places]),
        cache.class_counts("train") if trained else np.zeros(len(cache.classes), np.int64),
        groups,
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


def check_member_classes(members: Sequence[EnsembleMember]) -> None:
    """Refuse members whose caches have other classes than the first.

    Raises:
        IdentityError: with what differs.
    """
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
