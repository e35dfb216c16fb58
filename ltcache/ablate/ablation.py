"""``ablate``: methods x settings x seeds on one cache, resumable, with a table in every format."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltcache.ablate.fold_scores import pooled_outcomes, require_same_rows, with_folds
from ltcache.ablate.folds import TrainFolds, divide, refuse_extra
from ltcache.ablate.parallel import GroupRunner, run_groups
from ltcache.ablate.plan import AblationSetting, Grid, settings_of
from ltcache.ablate.resident import resident
from ltcache.ablate.runs import (
    AblationJob,
    AblationProgress,
    FitRun,
    JobOutcome,
    RunOptions,
    TuneSetting,
    run_all,
    setting_key,
)
from ltcache.ablate.tune import TRIALS, TUNERS
from ltcache.cache import Cache, open_cache, require_labels, shared_warning
from ltcache.errors import FitError, UsageError
from ltcache.manifest import missing_split
from ltcache.process import usable_processors
from ltcache.records import (
    PlaceKind,
    counted,
    html_table,
    record_there,
    require_replaceable,
    write_whole,
)
from ltcache.report import (
    WRITERS,
    ComparisonEntry,
    ScoredRows,
    ScoredRun,
    compare,
    comparison_cells,
    comparison_figure,
    plot_by_frequency,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ltcache.fit import ExtraRows
    from ltcache.methods import Method

BASELINE = "ce"
SCORED = ("val", "test")


@dataclass(frozen=True, eq=False, repr=False)
class Ablation:
    """What an ablation found.

    Attributes:
        comparison: see :func:`ltcache.report.compare`; also ``cache``, ``failures``, ``notes``.
        out: where the runs and the tables are. split: of the tables.
        failures: runs without a result: ``name``, ``seed``, ``reason``.
    """

    comparison: Mapping[str, Any]
    out: Path
    split: str

    def __repr__(self) -> str:
        """Return what was compared on which rows, how many runs failed, and where, on one line."""
        lines = f"{counted(len(self.comparison['entries']), 'line')} on {self.split}"
        failed = [f"{counted(len(self.failures), 'run')} failed"] if self.failures else []
        return f"Ablation({', '.join([lines, *failed, f'at {self.out}'])})"

    def _repr_html_(self) -> str:
        """Return the comparison as a table for notebooks."""
        return html_table(repr(self), *comparison_cells(self.comparison, self.split))

    def plot(self) -> Figure:
        """Return a matplotlib figure of the accuracy of each line against class frequency."""
        return comparison_figure(self.comparison, self.split)

    @property
    def failures(self) -> list[Mapping[str, Any]]:
        """Runs without a result."""
        return list(self.comparison["failures"])


def ablate(
    cache: Cache | str | Path,
    methods: Sequence[str | Method],
    out: str | Path,
    *,
    seeds: int | Sequence[int] = 5,
    grid: Grid | None = None,
    fusion: Sequence[str] = ("none",),
    overrides: Mapping[str, Any] | None = None,
    baseline: str | None = None,
    split: str = "test",
    folds: int | None = None,
    tune: bool = False,
    tuner: str = "grid",
    trials: int = TRIALS,
    tune_folds: int | None = None,
    prompts: str | None = None,
    view: str | None = None,
    device: str = "cpu",
    allow_stale: Collection[str] = (),
    allow_double_correction: bool = False,
    workers: int | None = None,
    together: bool | None = None,
    extra: ExtraRows | None = None,
    engine: GroupRunner | None = None,
    progress: Callable[[AblationProgress], None] | None = None,
) -> Ablation:
    """Fit every method with every setting and seed, and compare them.

    Each run is a directory under ``out/runs``, named after everything that determines it: what is
    there is taken, so that an interrupted ablation goes on and a longer list adds to it, while a
    changed cache or setting gets runs of its own. A run that cannot be fitted is a failure with a
    reason; the others go on.

    Args:
        cache: a cache or its directory.
        methods: names or methods, in the order of the table.
        out: gets ``runs``, ``results.json``, ``.csv``, ``.md``, ``.tex`` and
            ``accuracy_by_frequency.png``, ``.svg``.
        seeds: how many (0, 1, ...), or which.
        grid: dotted key -> values, each a line of its own; with ``tune`` the search space instead.
        fusion: ``none`` for a method itself, F for the catalogue's ``METHOD+F``.
        overrides: dotted key -> value for all methods that have it.
        baseline: method or line to take differences to; None: ``ce`` where it is there, else the
            first.
        split: of the tables and the plot. The JSON and CSV hold every split.
        folds: K, to compare on the training rows in place of a split: each run is fitted on K - 1
            folds of them and scored on the other, and an entry's scores are of all folds together.
            No test row is read; tuning chooses anew within the rows of each run.
        tune: choose the settings of each line on validation data, with seed 0, before its runs.
        tuner, trials, tune_folds: see :func:`tune`; every line has the same number of trials.
        prompts, view, device, allow_stale, allow_double_correction, extra: see
            :func:`ltcache.fit.fit_adapter`.
        workers: processes; None: one per core on a CPU. With one the fits use all threads.
        together: train runs of one architecture as one problem (:func:`ltcache.fit.fit_many`),
            whose results are those of single fits up to rounding; None: where there is no CPU to
            share among processes, that is on a GPU.
        engine: what does the runs in place of ``workers`` (:mod:`ltcache.ablate.on_ray`).
        progress: called after each run.

    Raises:
        UsageError: an unknown method, setting, fusion or baseline, or ``out`` is taken, if only
            by an ablation with other extra rows.
        FitError: every run failed.

    Example:
        >>> found = ablate("cache", ["ce", "logit-adjustment", "crt"], seeds=2, out="ablation")
        >>> [line["name"] for line in found.comparison["entries"]]
        ['ce', 'logit-adjustment', 'crt']
    """
    out, opened = require_replaceable(out, PlaceKind.ABLATION), open_cache(cache)
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    _check(opened, numbers, None if folds else split, tuner, trials)
    parts = None if folds is None else _divided(opened, folds, split, extra)
    cache = resident(opened)
    settings, notes = settings_of(methods, grid, fusion, overrides)
    if tune:  # the grid is what is tried, and was only checked
        settings, _ = settings_of(methods, None, fusion, overrides)
    settings = [replace(s, method=s.method.on_views(cache.views)) for s in settings]
    notes += _shared(cache) if parts is None else parts.notes()
    notes += _unused(settings, prompts)
    if view is None and not tune:  # tuning tries the views itself
        notes += _unused_crops(cache, settings)
    notes += _added(cache, extra, out, allow_stale)
    require_same_rows(out, parts)
    named = _baseline(settings, baseline)
    fit: dict[str, Any] = {
        "prompts": prompts, "view": view, "device": device, "allow_stale": tuple(allow_stale),
        "allow_double_correction": allow_double_correction,
    }  # fmt: skip
    if extra is not None:  # left out where there is none: the runs of before are taken
        fit["extra"] = extra
    search = {"grid": _plain(grid), "tuner": tuner, "trials": trials, "seed": 0}
    if tune_folds is not None:  # left out where it is not given: the runs of before are taken
        search["tune_folds"] = tune_folds
    together = device != "cpu" if together is None else together
    how = None if parts is None else parts.record()
    options = RunOptions(fit, search if tune else None, together, how)
    if engine is None:
        most = usable_processors() if device == "cpu" else 1
        engine = partial(run_groups, workers=workers or most)
    folders = {f"{_slug(s.name)}-{setting_key(cache, s, options)}": s for s in settings}
    execute = partial(
        _execute, folders=folders, seeds=numbers, out=out, options=options,
        run_groups=engine, progress=progress,
    )  # fmt: skip
    if parts is None:
        outcomes = execute(cache)
    else:
        split, each = parts.name, range(parts.count)
        of_folds = [execute(resident(parts.without(k)), fold=k + 1) for k in each]
        outcomes = pooled_outcomes(parts, of_folds)
    comparison = _compared(cache, settings, outcomes, named, out, notes, parts)
    if extra is not None:
        comparison = {**comparison, "extra": extra.to_dict()}
    if split not in comparison["splits"]:
        raise UsageError(f"the runs have no scores on split {split!r}")
    write_comparison(comparison, out, split)
    return Ablation(comparison, out, split)


def write_comparison(comparison: Mapping[str, Any], out: Path, split: str) -> None:
    """Write ``results.*`` and the plot, each replaced in one step."""
    for ending, write in WRITERS.items():
        write_whole(out / f"results.{ending}", write(comparison, split).encode())
    plot_by_frequency(comparison, out, split)


def _execute(
    cache: Cache,
    folders: Mapping[str, AblationSetting],
    seeds: Sequence[int],
    out: Path,
    options: RunOptions,
    run_groups: GroupRunner,
    progress: Callable[[AblationProgress], None] | None,
    fold: int = 0,
) -> list[JobOutcome]:
    """Tune where asked, then run; the outcomes of both, in order of setting and seed.

    Args:
        folders: name of the folder of the runs of a setting -> the setting.
        fold: number from 1 of the fold that the cache leaves out; 0: none.
    """
    among = f", fold {fold} of {(options.folds or {}).get('folds')}" if fold else ""
    ending, below = (f"-fold-{fold}", f"fold-{fold}") if fold else ("", "")
    chosen: dict[str, Mapping[str, Any]] = {}
    outcomes: list[JobOutcome] = []
    if options.tuning is not None:
        jobs = [
            AblationJob(s, 0, out / "tuning" / f"{folder}{ending}.json", fold=fold)
            for folder, s in folders.items()
        ]
        tuning = TuneSetting(cache, options)
        tuned = list(run_all(jobs, tuning, run_groups, progress, f"tuning{among}"))
        chosen = {o.job.setting.name: o.value for o in tuned if o.reason is None}
        outcomes = [o for o in tuned if o.reason is not None]
    runs = [
        AblationJob(
            s, seed, out / "runs" / folder / f"seed-{seed}" / below, chosen.get(s.name), fold
        )
        for folder, s in folders.items()
        for seed in seeds
        if options.tuning is None or s.name in chosen
    ]
    outcomes += run_all(runs, FitRun(cache, options), run_groups, progress, f"runs{among}")
    places = {setting.name: number for number, setting in enumerate(folders.values())}
    return sorted(outcomes, key=lambda o: (places[o.job.setting.name], o.job.seed))


def _compared(
    cache: Cache,
    settings: Sequence[AblationSetting],
    outcomes: Sequence[JobOutcome],
    baseline: str,
    out: Path,
    notes: Sequence[str],
    parts: TrainFolds | None,
) -> Mapping[str, Any]:
    entries = []
    for setting in settings:
        mine = [o.value for o in outcomes if o.job.setting is setting or o.job.setting == setting]
        runs = [_shown(value, out) for value in mine if isinstance(value, ScoredRun)]
        if runs:
            entries.append(
                ComparisonEntry(setting.name, setting.method.name, setting.overrides, runs)
            )
    failures = [
        {"name": o.job.setting.name, "seed": o.job.seed, "reason": o.reason}
        for o in outcomes
        if o.reason is not None
    ]
    if not entries:
        raise FitError(f"every run failed; the first: {failures[0]['reason']}")
    if baseline not in (entry.name for entry in entries):
        notes = [*notes, f"the baseline {baseline} has no finished run: {entries[0].name} instead"]
        baseline = entries[0].name
    found: Mapping[str, Any]
    if parts is None:
        splits = entries[0].runs[0].right
        rows = {split: ScoredRows.of(cache, split) for split in splits}
        found = compare(entries, rows, baseline)
    else:
        compared = compare(entries, {parts.name: parts.scored_rows}, baseline)
        found = with_folds(parts, compared, entries)
    return {
        **found,
        "cache": os.path.relpath(cache.path, out.absolute()),
        "failures": failures,
        "notes": [*notes, *_warned(outcomes, without=notes)],
    }


def _shared(cache: Cache) -> list[str]:
    """Return what to say where splits of the cache hold the same images: once, not for each run."""
    found = [s for s in cache.shared_content if {s.split, s.other} <= {"train", *SCORED}]
    return [shared_warning(found, cache.path)] if found else []


def _unused(settings: Sequence[AblationSetting], prompts: str | None) -> list[str]:
    """Return what to say where class prompts were named that no method can use."""
    from ltcache.fit import takes_texts

    if prompts is None or any(takes_texts(setting.method) for setting in settings):
        return []
    names = ", ".join(dict.fromkeys(setting.method.name for setting in settings))
    return [f"--prompts {prompts} had no effect: no class texts are used by {names}"]


def _unused_crops(cache: Cache, settings: Sequence[AblationSetting]) -> list[str]:
    """Return what to say where methods train on one crop and the cache has random ones."""
    from ltcache.fit import unused_random_crops

    said = unused_random_crops(cache.views, [setting.method for setting in settings])
    return [] if said is None else [said]


def _added(
    cache: Cache, extra: ExtraRows | None, out: Path, allow_stale: Collection[str]
) -> list[str]:
    """Return what to say of extra rows, after refusing those that do not belong here.

    Raises:
        IdentityError: they are of another encoder or of other classes.
        UsageError: an ablation with others is there, whose tables would be replaced.
    """
    from ltcache.fit import require_same

    record = None if extra is None else extra.to_dict()
    if extra is not None:
        require_same(cache, extra, allow_stale)
    place = out / "results.json"
    before = record_there(place) if place.is_file() else None
    if before is not None and before.get("extra") != record:
        raise UsageError(
            f"{out} holds an ablation with {_named_extra(before.get('extra'))}, and this one has "
            f"{_named_extra(record)}; choose another --out, or the --extra of the one before"
        )
    return [] if record is None else [f"every run trains on {_named_extra(record)} as well"]


def _named_extra(extra: Mapping[str, Any] | None) -> str:
    if extra is None:
        return "no extra images"
    rows, weight, retrieval = extra["rows"], extra["weight"], extra.get("retrieval", "unnamed")
    return f"{rows} extra images (retrieval {retrieval}, weight {weight:g} in all)"


def _warned(outcomes: Sequence[JobOutcome], without: Sequence[str]) -> list[str]:
    """Return what was warned of, each text once, with the lines that it is of."""
    names: dict[str, list[str]] = {}
    for outcome in outcomes:
        for text in (text for text in outcome.warnings if text not in without):
            found = names.setdefault(text, [])
            if outcome.job.setting.name not in found:
                found.append(outcome.job.setting.name)
    return [f"{', '.join(found)}: {text}" for text, found in names.items()]


def _shown(run: ScoredRun, out: Path) -> ScoredRun:
    from dataclasses import replace

    return replace(run, path=os.path.relpath(run.path or out, out))


def _divided(cache: Cache, folds: int, split: str, extra: ExtraRows | None) -> TrainFolds:
    if split != "test":
        raise UsageError(f"--split {split} has no effect with folds, which compare on train alone")
    refuse_extra(extra)
    return divide(cache, folds)


def _check(cache: Cache, seeds: Sequence[int], split: str | None, tuner: str, trials: int) -> None:
    if not seeds or len(set(seeds)) != len(seeds):
        raise UsageError(f"seeds must be different and at least one, not {list(seeds)}")
    if "train" not in cache.splits:
        raise UsageError(f"{cache.path}: {missing_split('train', cache.splits)}")
    if tuner not in TUNERS:
        raise UsageError(f"unknown tuner {tuner!r}; known: {', '.join(TUNERS)}")
    if trials < 1:
        raise UsageError(f"--trials {trials} must be at least 1")
    if split is not None:
        require_scored(cache, split)


def require_scored(cache: Cache, split: str) -> None:
    """Refuse a split that runs are not scored on.

    Raises:
        UsageError: it is another, or not there, or without labels.
    """
    if split not in SCORED:
        raise UsageError(f"split {split!r} cannot be compared on: choose {' or '.join(SCORED)}")
    if split not in cache.splits:
        others = [name for name in SCORED if name in cache.splits]
        also = f"; or compare on {others[0]}: --split {others[0]}" if others else ""
        also += "; or on parts of train: --folds 5"
        raise UsageError(f"{cache.path}: {missing_split(split, cache.splits)}{also}")
    require_labels(cache, split)


def _baseline(settings: Sequence[AblationSetting], name: str | None) -> str:
    """Return the name of the line that differences are taken to."""
    if not settings:
        raise UsageError("no methods to compare")
    for setting in settings:
        entry = setting.method.name.partition(" (")[0]
        if (name or BASELINE) in (setting.name, setting.method.name, entry):
            return setting.name
    if name is None:
        return settings[0].name
    names = ", ".join(setting.name for setting in settings)
    raise UsageError(f"baseline {name!r} is not compared; there are: {names}")


def _plain(grid: Grid | None) -> dict[str, list[Any]] | None:
    return None if grid is None else {key: list(values) for key, values in grid.items()}


def _slug(name: str) -> str:
    """Return a name as a directory of at most 80 characters can be called."""
    return re.sub(r"[^A-Za-z0-9.=+]+", "-", name).strip("-.")[:80]
