"""The runs of an ablation: where each lies, and how it is tuned, fitted or taken as it is.

:func:`run_all` is the one place where runs are executed.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltcache import __version__
from ltcache.ablate.parallel import Lost, run_groups
from ltcache.ablate.plan import Setting
from ltcache.cache.fingerprint import digest
from ltcache.errors import FitError, LtcacheError
from ltcache.methods import override
from ltcache.report.comparison import Scored, scored
from ltcache.tune import has_setting, tune

if TYPE_CHECKING:
    from ltcache.cache import Cache


@dataclass(frozen=True)
class Progress:
    """How far an ablation is: ``done`` of ``total``, and what came last."""

    stage: str
    done: int
    total: int
    name: str
    failed: int


@dataclass(frozen=True, eq=False)
class Options:
    """What all runs share.

    Args:
        fit: options of :func:`ltcache.fit.fit_adapter`. tuning: of :func:`ltcache.tune.tune`, or
            None: nothing is tuned.
    """

    fit: Mapping[str, Any] = field(default_factory=dict)
    tuning: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Job:
    """One run.

    Args:
        setting: what is fitted. seed: with what.
        place: its directory.
        tuning: record of what was chosen for it, or None.
    """

    setting: Setting
    seed: int
    place: Path
    tuning: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """What progress and failures call it."""
        return f"{self.setting.name}, seed {self.seed}"


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a job: ``value``, or the reason that there is none.

    Attributes:
        value: :class:`ltcache.report.Scored` of a run, the record of a tuning.
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
    options: Options

    def __call__(self, job: Job, memo: dict[str, Any]) -> Outcome:
        """Return the outcome; no exception leaves but an interrupt."""
        return _guarded(job, lambda: self._run(job, memo))

    def _run(self, job: Job, memo: dict[str, Any]) -> Scored:
        from ltcache.fit import fit_adapter

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
        return scored(run, self.cache, str(job.place))


def _whole(place: Path) -> Any:
    """Return the run that lies at a place, or None where there is none or it is damaged."""
    from ltcache.run import open_run

    try:
        return open_run(place) if (place / "run.json").is_file() else None
    except FitError:
        return None


@dataclass(frozen=True, eq=False)
class TuneSetting:
    """Work: take what was chosen for a setting before, or choose it now."""

    cache: Cache
    options: Options

    def __call__(self, job: Job, memo: dict[str, Any]) -> Outcome:
        """Return the outcome; no exception leaves but an interrupt."""
        return _guarded(job, lambda: self._tune(job, memo))

    def _tune(self, job: Job, memo: dict[str, Any]) -> dict[str, Any]:
        from ltcache.run import write_json

        try:
            known: dict[str, Any] = json.loads(job.place.read_text(encoding="utf-8"))
            return known
        except (OSError, ValueError):
            pass
        options = {**self.options.fit, **(self.options.tuning or {})}
        if options["grid"] is not None:
            method = job.setting.method
            options["grid"] = {k: v for k, v in options["grid"].items() if has_setting(method, k)}
        found = tune(self.cache, job.setting.method, memo=memo, **options).to_dict()
        job.place.parent.mkdir(parents=True, exist_ok=True)
        partial = job.place.with_name(f".{job.place.name}.{time.monotonic_ns()}")
        write_json(partial, found)
        partial.replace(job.place)
        return found


def _guarded(job: Any, work: Callable[[], Any]) -> Outcome:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            value, reason = work(), None
        except LtcacheError as error:
            value, reason = None, str(error)
        except Exception as error:  # one run must not lose the others
            value, reason = None, f"{type(error).__name__}: {error}"
    texts = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    return Outcome(job, value, reason, tuple(dict.fromkeys(texts)))


def run_all(
    jobs: Sequence[Job],
    work: Callable[[Job, dict[str, Any]], Outcome],
    workers: int,
    progress: Callable[[Progress], None] | None,
    stage: str = "runs",
) -> Iterator[Outcome]:
    """Yield the outcome of every job, in the order in which they end."""
    failed = 0
    for done, found in enumerate(run_groups(_groups(jobs), work, workers), start=1):
        outcome = Outcome(found.item, reason=found.reason) if isinstance(found, Lost) else found
        failed += outcome.reason is not None
        if progress is not None:
            progress(Progress(stage, done, len(jobs), outcome.job.name, failed))
        yield outcome


def _groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Put jobs together that begin with the same stage, which they then fit only once."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        method = job.setting.method
        if job.tuning is not None:
            method = override(method, job.tuning["chosen"])
        first = method.stages[0]
        key = digest([job.seed, asdict(method.feature), type(first).__name__, asdict(first)])
        groups.setdefault(key, []).append(job)
    return list(groups.values())


def cache_key(cache: Cache, view: str, prompts: str | None) -> str:
    """Return a digest of everything in a cache that a run can depend on."""
    texts = cache.prompts(prompts) if prompts is not None or cache.prompt_names else None
    contents = {
        name: entry["sha256"]
        for name, entry in cache.files.items()
        if name.startswith(("manifest", f"views/{view}/"))
    }
    return digest([cache.identities(view, texts), contents, dict(cache.manifest.groups or {})])


def setting_key(cache: Cache, setting: Setting, options: Options) -> str:
    """Return 12 hexadecimal digits of everything but the seed that determines a setting's runs."""
    feature = setting.method.feature
    views = sorted({feature.view, feature.eval_view})
    keys = [cache_key(cache, view, options.fit.get("prompts")) for view in views]
    fixed = {k: v for k, v in options.fit.items() if k != "device"}
    parts = [__version__, setting.method.to_dict(), keys, fixed, options.tuning]
    return digest(parts)[:12]
