"""From runs on disk to a comparison."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltcache.errors import CacheError, FitError, IdentityError, UsageError
from ltcache.records import (
    JsonObject,
    PlaceKind,
    canonical_json,
    mend_below,
    not_what_is_asked,
    places_in,
    record_there,
    result_folder,
)
from ltcache.report.comparison import ComparisonEntry, ScoredRows, compare, scored
from ltcache.report.line_logits import LineLogits

if TYPE_CHECKING:
    from ltcache.cache import Cache
    from ltcache.runs import Run

RESULTS = "results.json"
"""What an ablation writes beside its runs."""


def report(
    paths: Sequence[str | Path],
    baseline: str | None = None,
    bootstrap: int = 2000,
    cache: Cache | str | Path | None = None,
) -> JsonObject:
    """Compare runs on disk.

    Runs that differ only in the seed are one line. Differences to the baseline need to know which
    rows are right, so that the cache of each run must still lie where the run says; without it
    the line has no difference and a note says why.

    Args:
        paths: runs, directories of runs, or what ``ltcache ablate`` wrote.
        baseline: name of a line or of a method; None: the first line.
        bootstrap: resamples of units for the differences.
        cache: of all runs, where it lies elsewhere than they say.

    Returns:
        See :func:`ltcache.report.compare`, with ``notes`` and ``failures`` beside it.

    Raises:
        UsageError: a path without runs, no such baseline, or a run that is named itself was scored
            on other rows than most. FitError: such a run is damaged. A run that is found in a
            directory is then left out, and a note says so.
        CacheError, IdentityError: ``cache`` is none, or not the one that the runs were fitted on.
    """
    if (whole := _of_folds(paths, baseline)) is not None:
        return whole
    return read_runs(paths, cache).compared(baseline, bootstrap)


def read_runs(paths: Sequence[str | Path], cache: Cache | str | Path | None = None) -> ReportedRuns:
    """Read the runs at some places, those that can stand in one table.

    Raises:
        UsageError, FitError, CacheError, IdentityError: see :func:`report`.
    """
    from ltcache.cache import open_cache

    reading = ReportedRuns(None if cache is None else open_cache(cache))
    for path in map(result_folder, paths):
        mend_below(path)
        _read(path, reading)
    reading.require_comparable()
    return reading


def on_folds(place: Path) -> bool:
    """Return whether an ablation lies there that compares on folds of the training rows."""
    return (place / RESULTS).is_file() and "folds" in record_there(place / RESULTS)


def _of_folds(paths: Sequence[str | Path], baseline: str | None) -> JsonObject | None:
    """Return the comparison that an ablation on folds wrote; None: there is none, or others too.

    Raises:
        UsageError: another baseline is asked for.
    """
    place = result_folder(paths[0])
    if len(paths) > 1 or not on_folds(place):
        return None
    found = record_there(place / RESULTS)
    if baseline not in (None, found["baseline"]):
        raise UsageError(
            f"{paths[0]} compares on folds, whose differences are to {found['baseline']}: give "
            f"--baseline {baseline} to the ltcache ablate that made it; what it fitted is taken"
        )
    return dict(found)


@dataclass(eq=False)
class ReportLine:
    """Runs that differ only in the seed, each with its directory."""

    name: str
    overrides: Mapping[str, Any]
    runs: list[tuple[Run, Path]] = field(default_factory=list)


@dataclass(eq=False)
class ReportedRuns:
    """The runs that a report is of, as far as they are read.

    Attributes:
        cache: of all runs, as the user named it; None: where each run says.
        lines: by what tells one from the others.
        named: directories of runs that the user named, so that none is left out.
        caches: the ones that were opened, by their directories.
        rows: split -> the rows that were scored, and their keys.
    """

    cache: Cache | None = None
    lines: dict[str, ReportLine] = field(default_factory=dict)
    named: set[Path] = field(default_factory=set)
    caches: dict[Path, Cache] = field(default_factory=dict)
    rows: dict[str, tuple[ScoredRows, list[str]]] = field(default_factory=dict)
    failures: list[Mapping[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, run: Run, path: Path, name: str, overrides: Mapping[str, Any]) -> None:
        """Add a run to the line that it belongs to."""
        from ltcache.fit import recorded_fit
        from ltcache.records import digest
        from ltcache.runs import LEFT_OUT

        if LEFT_OUT in run.metrics:
            self.leave_out(path, "one fold of ltcache ablate --folds, whose folder is reported")
            return

        parts = {key: getattr(run.record, key) for key in ("field", "identities", "class_counts")}
        parts["extra"] = (run.record.extra or {}).get("digest")  # they train, and are not counted
        told = digest([run.method.to_dict(), parts])
        line = self.lines.setdefault(told, ReportLine(name, overrides))
        if any(metrics.adaptations for metrics in run.metrics.values()):
            self.note(f"{name}: transductive: it learned from the unlabelled rows it was scored on")
        training = recorded_fit(run)
        if training is not None and training.unfitted:
            self.note(f"{name}: {training.words(run.method.name)}")
        same = next((pair for pair in line.runs if pair[0].record.seed == run.record.seed), None)
        if same is None:
            line.runs.append((run, path))
        elif _on_other_rows(same[0], run):
            reason = f"of the same method and seed as {same[1]}, on other rows: report them apart"
            self.leave_out(path, reason)

    def leave_out(self, path: Path, reason: str) -> None:
        """Refuse what the user named; note what was only found in a directory.

        Raises:
            UsageError: the directory was named.
        """
        if path in self.named:
            raise UsageError(f"{path}: {reason}")
        self.note(f"left out: {path}: {reason}")

    def require_comparable(self) -> None:
        """Leave out runs that lack a score which most runs have, or whose score is of other rows.

        Raises:
            UsageError: the user named such a run.
        """
        every = [(run, path) for line in self.lines.values() for run, path in line.runs]
        if not every:
            return
        usual = dict(Counter(_scored_rows(run) for run, _ in every).most_common(1)[0][0])
        known = _usual_digests([run for run, _ in every], usual)
        classes = Counter(map(_classes, (run for run, _ in every))).most_common(1)[0][0]
        for key, line in list(self.lines.items()):
            kept = []
            for run, path in line.runs:
                reason = _not_comparable(run, usual, known)
                if _classes(run) != classes:
                    reason = "of other classes than most of these runs: not comparable"
                if reason:
                    self.leave_out(path, reason)
                else:
                    kept.append((run, path))
            line.runs = kept
            if not kept:
                del self.lines[key]

    def compared(self, baseline: str | None = None, bootstrap: int = 2000) -> JsonObject:
        """Return the comparison of the lines: see :func:`report`."""
        entries = self.entries
        rows = {split: rows for split, (rows, _) in self.rows.items()}
        found = compare(entries, rows, baseline, bootstrap)
        return {**found, "failures": self.failures, "notes": self.notes}

    @cached_property
    def entries(self) -> list[ComparisonEntry]:
        """The lines in their order, each name once."""
        names = [line.name for line in self.lines.values()]
        found = []
        for line in self.lines.values():
            first, place = line.runs[0]
            shown = line.name if names.count(line.name) == 1 else f"{line.name} ({_place(place)})"
            made = [scored(run, self.cache_of(run, path), str(path)) for run, path in line.runs]
            found.append(ComparisonEntry(shown, first.method.name, line.overrides, made))
        return found

    def first_runs(self) -> Mapping[str, tuple[Run, Path]]:
        """Return name of a line -> its first run, and where that lies."""
        pairs = zip(self.entries, self.lines.values(), strict=True)
        return {entry.name: line.runs[0] for entry, line in pairs}

    def logits_of(self, name: str, split: str) -> LineLogits | None:
        """Return what the first run of a line says of a split; None: its cache is not there."""
        run, path = self.first_runs()[name]
        cache = self.cache_of(run, path)
        return None if cache is None else LineLogits.of(run, cache, split)

    @property
    def class_names(self) -> Sequence[str]:
        """The names of the classes in label order; their numbers where a run has no names."""
        run, _ = next(iter(self.lines.values())).runs[0]
        return run.class_names or [str(label) for label in range(len(run.record.class_counts))]

    def every_cache(self) -> list[Cache]:
        """Return the caches of the runs that are there."""
        return list(self.caches.values()) if self.cache is None else [self.cache]

    def cache_of(self, run: Run, path: Path) -> Cache | None:
        """Return the cache of a run if it is still there and still the one it was fitted on.

        Raises:
            CacheError, IdentityError: the user named another one.
        """
        from ltcache.runs import check_features

        if self.cache is not None:
            check_features(run, self.cache)
            _require_scored_rows(run, self.cache)
            return self._checked(self.cache, run, path)
        named = run.record.cache
        place = (path / named).resolve() if named else path
        try:
            cache = self._opened(place)
            check_features(run, cache)
            _require_scored_rows(run, cache)
        except (CacheError, IdentityError) as error:
            reason = str(error).splitlines()[0]
            self.note(f"no difference to the baseline without the cache of the runs: {reason}")
            return None
        return self._checked(cache, run, path)

    def _checked(self, cache: Cache, run: Run, path: Path) -> Cache:
        for split in run.metrics:
            self._check_rows(cache, split, path)
        return cache

    def note(self, text: str) -> None:
        """Keep a note, once."""
        if text not in self.notes:
            self.notes.append(text)

    def _opened(self, place: Path) -> Cache:
        from ltcache.cache import open_cache

        if place not in self.caches:
            self.caches[place] = open_cache(place)
        return self.caches[place]

    def _check_rows(self, cache: Cache, split: str, path: Path) -> None:
        keys = cache.column("key", split)
        known = [] if keys is None else keys[cache.labels(split) >= 0].tolist()
        here = ScoredRows.of(cache, split)
        rows, before = self.rows.setdefault(split, (here, known))
        if not np.array_equal(rows.labels, here.labels) or before != known:
            raise UsageError(
                f"{path}: scored on other {split} rows than the runs before it: not comparable; "
                "report the runs of one cache at a time"
            )


def _require_scored_rows(run: Run, cache: Cache) -> None:
    """Refuse a cache whose rows are no longer those that a run was scored on.

    Raises:
        CacheError: with the split and the numbers of rows.
    """
    from ltcache.cache import labelled_digest

    for split, metrics in run.metrics.items():
        labels = cache.labels(split)
        labels = labels[labels >= 0]
        counts = np.bincount(labels, minlength=len(metrics.per_class_rows))
        if counts.tolist() != list(metrics.per_class_rows):
            raise CacheError(
                f"{cache.path} has other {split} rows ({len(labels)}) than these runs were scored "
                f"on ({metrics.num_rows}): fit them again"
            )
        if metrics.rows not in (None, labelled_digest(cache, split)):
            raise CacheError(
                f"{cache.path} has other {split} rows than these runs were scored on, as many of "
                "each class but not the same images with the same labels: fit them again"
            )


def _read(path: Path, reading: ReportedRuns) -> None:
    from ltcache.runs import open_run

    if (path / "run.json").is_file():
        run = open_run(path)
        reading.named.add(path)
        reading.add(run, path, run.method.name, {})
        return
    if (path / RESULTS).is_file():
        _read_ablation(path, reading)
        return
    found = sorted(p.parent for p in path.rglob("run.json") if not _hidden(p.relative_to(path)))
    if not found:
        raise UsageError(f"no runs here: {not_what_is_asked(path, PlaceKind.RUN)}")
    for place in found:
        try:
            run = open_run(place)
        except FitError as error:
            reading.leave_out(place, str(error))
            continue
        reading.add(run, place, run.method.name, {})
    for ensemble in places_in(path, PlaceKind.ENSEMBLE):
        reading.leave_out(ensemble, f"an ensemble: ltcache evaluate {ensemble} scores it")


def _read_ablation(path: Path, reading: ReportedRuns) -> None:
    from ltcache.runs import open_run

    try:
        results = json.loads((path / RESULTS).read_text(encoding="utf-8"))
        lines = [(e["name"], e["overrides"], e["runs"]) for e in results["entries"]]
        failures, notes = results.get("failures", []), results.get("notes", [])
        folds = results.get("folds", {}).get("folds")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FitError(f"{path / RESULTS}: cannot be read ({error!r})") from None
    if folds is not None:
        raise UsageError(
            f"{path} compares on {folds} folds of train: ltcache report {path} shows its table, "
            "and its runs stand in no other, since each was scored on rows of its own"
        )
    for name, overrides, runs in lines:
        for place in runs:
            reading.add(open_run(path / place), path / place, name, overrides)
    reading.failures += failures
    for note in notes:
        reading.note(note)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _place(path: Path) -> str:
    """Return the directory of a run without its seed."""
    return str(path.parent if path.name.startswith("seed-") else path)


def _scored_rows(run: Run) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return split -> rows of each class that a run was scored on, as a value that is hashable."""
    return tuple(sorted((split, tuple(m.per_class_rows)) for split, m in run.metrics.items()))


def _on_other_rows(one: Run, two: Run) -> bool:
    """Return whether two runs are known to differ; earlier versions recorded no rows."""
    both = (one.record.rows is None) == (two.record.rows is None)
    return both and one.key != two.key


def _classes(run: Run) -> str:
    """Return what tells the class list of a run from another, names and order."""
    return canonical_json(run.record.identities.get("classes"))


def _usual_digests(runs: Sequence[Run], usual: Mapping[str, tuple[int, ...]]) -> Mapping[str, str]:
    """Return split -> digest of the rows that most runs with the usual counts were scored on.

    A split is left out where none tells: earlier versions recorded no rows.
    """
    found: dict[str, Counter[str]] = {}
    for run in runs:
        for split, metrics in run.metrics.items():
            if metrics.rows is not None and usual.get(split) == tuple(metrics.per_class_rows):
                found.setdefault(split, Counter())[metrics.rows] += 1
    return {split: digests.most_common(1)[0][0] for split, digests in found.items()}


def _not_comparable(
    run: Run, usual: Mapping[str, tuple[int, ...]], known: Mapping[str, str]
) -> str:
    """Return why a run cannot stand in one table with most others, or nothing.

    Args:
        usual: split -> rows of each class that most were scored on. known: split -> digest of them.
    """
    found = dict(_scored_rows(run))
    for split, rows in usual.items():
        if split not in found:
            return f"it has no scores on {split}, which most of these runs have: not comparable"
        if found[split] != rows:
            return (
                f"scored on other {split} rows ({sum(found[split])}) than most of these runs "
                f"({sum(rows)}): not comparable"
            )
        if run.metrics[split].rows not in (None, known.get(split)):
            return (
                f"scored on other {split} rows than most of these runs, as many of each class but "
                "not the same images with the same labels: not comparable"
            )
    return ""
