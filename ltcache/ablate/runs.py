"""The runs of an ablation: where each lies, and how it is tuned, fitted or taken as it is.

:func:`run_all` is the one place where runs are executed.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltcache import __version__
from ltcache.ablate.parallel import GroupRunner, LostItem
from ltcache.ablate.plan import AblationSetting
from ltcache.ablate.tune import tune
from ltcache.ablate.views import view_space
from ltcache.cache import folder_of
from ltcache.errors import FitError, LtcacheError
from ltcache.methods import Method, has_setting, override
from ltcache.records import digest, mend, one_line, write_json
from ltcache.report import ScoredRun, scored

if TYPE_CHECKING:
    from ltcache.cache import Cache
    from ltcache.fit import Memo


TOGETHER = 32
"""Runs that are trained as one problem; what an interrupt can lose."""


@dataclass(frozen=True)
class AblationProgress:
    """How far an ablation is: ``done`` of ``total``, and what came last."""

    stage: str
    done: int
    total: int
    name: str
    failed: int


@dataclass(frozen=True, eq=False)
class RunOptions:
    """What all runs share.

    Args:
        fit: options of :func:`ltcache.fit.fit_adapter`. tuning: of :func:`tune`, or
            None: nothing is tuned. together: train runs of one architecture as one problem.
        folds: how the training rows were divided into folds, or None: they were not.
    """

    fit: Mapping[str, Any] = field(default_factory=dict)
    tuning: Mapping[str, Any] | None = None
    together: bool = False
    folds: Mapping[str, Any] | None = None


@one_line
@dataclass(frozen=True)
class AblationJob:
    """One run.

    Args:
        setting: what is fitted. seed: with what.
        place: its directory.
        tuning: record of what was chosen for it, or None.
        fold: the number from 1 of the fold that it is not fitted on; 0: there are no folds.
    """

    setting: AblationSetting
    seed: int
    place: Path
    tuning: Mapping[str, Any] | None = None
    fold: int = 0

    @property
    def name(self) -> str:
        """What progress and failures call it."""
        fold = f", fold {self.fold}" if self.fold else ""
        return f"{self.setting.name}, seed {self.seed}{fold}"

    @property
    def method(self) -> Method:
        """The method as it is fitted, with what was chosen for it."""
        return override(self.setting.method, None if self.tuning is None else self.tuning["chosen"])


@one_line
@dataclass(frozen=True, eq=False)
class JobOutcome:
    """What became of a job: ``value``, or the reason that there is none.

    Attributes:
        value: :class:`ltcache.report.ScoredRun` of a run, the record of a tuning.
        warnings: what was warned of on the way.
    """

    job: Any
    value: Any = None
    reason: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class FitRun:
    """Work: take a run that is there, or fit and write it."""

    cache: Cache
    options: RunOptions

    def read(self, jobs: Sequence[AblationJob]) -> None:
        """Read the features and the list for runs that are not there."""
        missing = [job for job in jobs if not (job.place / "run.json").is_file()]
        _read_for(self.cache, missing, self.options, ("train", "val", "test"))

    def begin(self, group: Sequence[AblationJob]) -> Memo:
        """Return what the runs of a group share; all their stages if they are trained together."""
        memo: Memo = {}
        for job in group:
            mend(job.place)
        missing = [job for job in group if not (job.place / "run.json").is_file()]
        if self.options.together and len(missing) > 1:
            # a run that cannot be fitted says so itself
            with warnings.catch_warnings(), suppress(Exception):
                warnings.simplefilter("ignore")
                self._train(missing, memo)
        return memo

    def _train(self, jobs: Sequence[AblationJob], memo: Memo) -> None:
        from ltcache import fit
        from ltcache.fit import make_context, needs_texts, training_rows, val_rows

        methods = [job.method.on_view(self.options.fit.get("view")) for job in jobs]
        first = methods[0]
        dims = self.cache.field_dims(first.feature.view)
        field = first.feature.resolve(dims, all(map(needs_texts, methods)))
        prompts = self.options.fit.get("prompts")
        contexts = [make_context(self.cache, method, field, prompts)[0] for method in methods]
        extra = self.options.fit.get("extra")
        if extra is not None:
            contexts = [extra.counted_in(context) for context in contexts]
        rows = training_rows(self.cache, field, *methods)
        val, crops = val_rows(self.cache, field, first), self.cache.crops(first.feature.view)
        for texts in (False, True):  # what a stage may fall back to depends on them
            some = [k for k, c in enumerate(contexts) if (c.text_features is not None) == texts]
            fit.fit_many(
                [fit.FitJob(methods[k], jobs[k].seed) for k in some],
                rows,
                contexts[some[0] if some else 0],
                val=val,
                extra=None if extra is None else extra.rows(field, crops),
                options=fit.FitOptions(
                    device=self.options.fit.get("device", "cpu"),
                    allow_double_correction=self.options.fit.get("allow_double_correction", False),
                    memo=memo,
                ),
            )

    def __call__(self, job: AblationJob, memo: Memo) -> JobOutcome:
        """Return the outcome; no exception leaves but an interrupt."""
        return _guarded(job, lambda: self._run(job, memo))

    def _run(self, job: AblationJob, memo: Memo) -> ScoredRun:
        from ltcache.fit import fit_adapter, warn_of_training

        run = _whole(job.place)
        if run is None:
            run = fit_adapter(
                self.cache,
                job.setting.method,
                job.place,
                seed=job.seed,
                overrides=None if job.tuning is None else job.tuning["chosen"],
                overwrite=True,
                memo=memo,
                tuning=job.tuning,
                **self.options.fit,
            )
        else:
            warn_of_training(run)
        return scored(run, self.cache, str(job.place))


def _whole(place: Path) -> Any:
    """Return the run that lies at a place, or None where there is none or it is damaged."""
    from ltcache.runs import open_run

    mend(place)
    try:
        return open_run(place) if (place / "run.json").is_file() else None
    except FitError:
        return None


@dataclass(frozen=True, eq=False)
class TuneSetting:
    """Work: take what was chosen for a setting before, or choose it now."""

    cache: Cache
    options: RunOptions

    def read(self, jobs: Sequence[AblationJob]) -> None:
        """Read the features and the list for settings that are not chosen yet."""
        missing = [job for job in jobs if not job.place.is_file()]
        _read_for(self.cache, missing, self.options, ("train", "val"))

    def begin(self, group: Sequence[AblationJob]) -> Memo:
        """Return an empty memo."""
        return {}

    def __call__(self, job: AblationJob, memo: Memo) -> JobOutcome:
        """Return the outcome; no exception leaves but an interrupt."""
        return _guarded(job, lambda: self._tune(job, memo))

    def _tune(self, job: AblationJob, memo: Memo) -> Mapping[str, Any]:
        try:
            known: Mapping[str, Any] = json.loads(job.place.read_text(encoding="utf-8"))
            return known
        except (OSError, ValueError):
            pass
        options = {**self.options.fit, **(self.options.tuning or {})}
        if options["grid"] is not None:
            method = job.setting.method
            options["grid"] = {k: v for k, v in options["grid"].items() if has_setting(method, k)}
        found = tune(
            self.cache,
            job.setting.method,
            overrides=job.setting.given,
            memo=memo,
            together=self.options.together,
            **options,
        ).to_dict()
        write_json(job.place, found)
        return found


def _read_for(
    cache: Cache, jobs: Sequence[AblationJob], options: RunOptions, splits: Sequence[str]
) -> None:
    """Let a cache that keeps what it has read read what jobs take; see :func:`resident`."""
    from ltcache.fit import needs_texts

    for method in (job.method.on_view(options.fit.get("view")) for job in jobs):
        feature = method.feature
        with suppress(LtcacheError):  # the run says so
            cache.manifest.identity()  # kept, too
            field = feature.resolve(cache.field_dims(feature.view), needs_texts(method))
            for split in (name for name in splits if name in cache.splits):
                view = feature.view if split == "train" else feature.eval_view
                cache.features(split, field, view)


def _guarded(job: Any, work: Callable[[], Any]) -> JobOutcome:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            value, reason = work(), None
        except LtcacheError as error:
            value, reason = None, str(error)
        except Exception as error:  # one run must not lose the others
            value, reason = None, f"{type(error).__name__}: {error}"
    texts = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    return JobOutcome(job, value, reason, tuple(dict.fromkeys(texts)))


def run_all(
    jobs: Sequence[AblationJob],
    work: FitRun | TuneSetting,
    run_groups: GroupRunner,
    progress: Callable[[AblationProgress], None] | None,
    stage: str = "runs",
) -> Iterator[JobOutcome]:
    """Yield the outcome of every job, in the order in which they end."""
    failed = 0
    groups = _groups(jobs, work.options.together)
    for done, found in enumerate(run_groups(groups, work), start=1):
        outcome = (
            JobOutcome(found.item, reason=found.reason) if isinstance(found, LostItem) else found
        )
        failed += outcome.reason is not None
        if progress is not None:
            progress(AblationProgress(stage, done, len(jobs), outcome.job.name, failed))
        yield outcome


def _groups(jobs: Sequence[AblationJob], together: bool) -> list[list[AblationJob]]:
    """Put jobs together that share what they begin with.

    One by one that is the first stage, which is then fitted only once; trained together it is the
    features, the head and the schedule of the first stage, by at most ``TOGETHER`` jobs.
    """
    groups: dict[str, list[AblationJob]] = {}
    for job in jobs:
        method = job.method
        first = method.stages[0]
        key: list[Any] = [asdict(method.feature), type(first).__name__]
        alike = first.begins_alike() if together else None
        key += [job.seed, asdict(first)] if alike is None else alike
        groups.setdefault(digest(key), []).append(job)
    size = TOGETHER if together else len(jobs)
    return [g[k : k + size] for g in groups.values() for k in range(0, len(g), max(size, 1))]


def cache_key(cache: Cache, view: str, prompts: str | None, field: str = "embedding") -> str:
    """Return a digest of everything in a cache that a run on a field of a view can depend on."""
    texts = cache.prompts(prompts) if prompts is not None or cache.prompt_names else None
    folders = (folder_of(view), folder_of(view, field))  # the second: where it was added later
    contents = {
        name: entry["sha256"]
        for name, entry in cache.files.items()
        if name.startswith(("manifest", *(f"views/{folder}/" for folder in folders)))
    }
    if cache.changed_rows is not None:  # what is fitted then is not what the files hold
        contents["rows"] = cache.changed_rows
    return digest([cache.identities(view, texts), contents, dict(cache.manifest.groups or {})])


def setting_key(cache: Cache, setting: AblationSetting, options: RunOptions) -> str:
    """Return 12 hexadecimal digits of everything but the seed that determines a setting's runs."""
    seen = setting.method.on_view(options.fit.get("view"))
    views = sorted(_views_of(cache, seen, options))
    field, prompts = _field_of(cache, seen), options.fit.get("prompts")
    keys = [
        cache_key(cache, view, prompts, field) if view in cache.views else view  # the run says so
        for view in views
    ]
    fixed = {k: v for k, v in options.fit.items() if k != "device"}
    if "extra" in fixed:
        fixed["extra"] = fixed["extra"].to_dict()
    parts = [__version__, setting.method.to_dict(), keys, fixed, options.tuning]
    if options.folds is not None:  # left out where there are none: the runs of before are taken
        parts.append(options.folds)
    return digest(parts)[:12]


def _field_of(cache: Cache, method: Method) -> str:
    """Return the field that a method takes, or its name for it where the cache has none."""
    feature = method.feature
    try:
        return feature.resolve(cache.field_dims(feature.view))
    except LtcacheError:  # the run says so
        return feature.field


def _views_of(cache: Cache, method: Method, options: RunOptions) -> set[str]:
    """Return the views that the runs of a method may read, those that tuning tries included."""
    feature, grid = method.feature, (options.tuning or {}).get("grid")
    views = {feature.view, feature.eval_view}
    if feature.composites in cache.views:
        views.add(feature.composites)
    if options.tuning is None or options.fit.get("view") is not None:
        return views
    if grid is None:
        return views.union(*view_space(cache, method).values())
    keys = ("feature.view", "feature.eval_view", "feature.composites")
    named = {view for key in keys for view in grid.get(key, ())}
    return views | (named & set(cache.views))
