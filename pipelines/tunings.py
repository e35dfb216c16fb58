"""What the pipelines that tune encoders share: lines of a table, each tuned, encoded anew, scored.

A line is a fine-tuning with a few settings to try. Trials are tuned with the first seed and judged
on the validation split; the test split is scored for what they chose, with every seed. Each result
is a small file in OUT/tunings, named by all that determines it, so that an interrupted pipeline
goes on where it stopped, and pipelines with the same --out share what they have in common.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ltcache.ablate.tune import tune
from ltcache.cache import Cache, open_cache
from ltcache.errors import DivergedError, FitError, UsageError
from ltcache.finetune import (
    FineTuned,
    FineTuning,
    TunedCache,
    finetune_cache,
    override_tuning,
    tuning_by_name,
)
from ltcache.fit import fit_adapter
from ltcache.manifest import Manifest, read_manifest
from ltcache.metrics import Metrics, is_better, percent
from ltcache.records import digest, read_record, write_json
from ltcache.report import WRITERS, ComparisonEntry, ScoredRows, ScoredRun, compare
from ltcache.report.comparison import scored
from ltcache.runs import RunRecord, open_run
from ltcache.tables import markdown_table
from pipelines import comparisons
from pipelines.comparisons import STATISTICS, cache_of, compared, difference, shown

EPOCHS = 5
"""Passes over the training images in every tuning: few enough for a laptop."""
BATCH = 128
FROZEN = (
    *("lift-lp", "logit-adjustment", "ballad", "sade", "ldam-drw", "dr-cosine+h2t"),
    *("mislas+h2t", "posthoc-la", "gda", "ncm"),
)
"""Heads on frozen features that validation data choose among."""
TAUS = tuple(step / 10 for step in range(21))
"""Strengths of post-hoc logit adjustment that validation data choose among."""
ZERO_SHOT = "zero-shot"
TEST = "test"
_MINUTE = 60.0

Settings = Mapping[str, Any]


def rates(*values: float) -> tuple[Settings, ...]:
    """Return learning rates as settings to try; the first is tried where there is one trial."""
    return tuple({"optimisation.lr": value} for value in values)


def adapter_rates(rate: float, *factors: float) -> tuple[Settings, ...]:
    """Return one learning rate with several factors on that of the adapters."""
    return tuple({"optimisation.lr": rate, "lr_factors.adapters": factor} for factor in factors)


@dataclass(frozen=True, eq=False)
class Line:
    """One fine-tuning of a table.

    Args:
        name: of the line in tables. method: of :data:`ltcache.finetune.TUNINGS`.
        tried: settings that trials try, best guess first.
        settings: changed in every trial.
        then: name of a further line -> how to score it on what was tuned.
    """

    name: str
    method: str
    tried: tuple[Settings, ...]
    settings: Settings = field(default_factory=dict)
    then: Mapping[str, Callable[[Child], ScoredRun]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Study:
    """What all lines have in common: the encoder's cache, its images, the options."""

    cache: Cache
    manifest: Manifest
    chosen: argparse.Namespace

    @classmethod
    def of(cls, chosen: argparse.Namespace) -> Study:
        """Extract the cache where there is none."""
        return cls(cache_of(chosen), read_manifest(chosen.source, root=chosen.root), chosen)

    @property
    def seeds(self) -> range:
        """The seeds of every line."""
        return range(self.chosen.seeds)

    def settings(self, line: Line, tried: Settings) -> dict[str, Any]:
        """Return what a trial changes in the line's method."""
        chosen = self.chosen
        same = {"optimisation.epochs": chosen.epochs, "optimisation.batch": chosen.batch}
        if chosen.precision is not None:
            same["optimisation.precision"] = chosen.precision
        return {**same, **line.settings, **tried}

    def tuning(self, line: Line, settings: Settings) -> FineTuning:
        """Return the fine-tuning with its settings."""
        return override_tuning(tuning_by_name(line.method), settings)

    def place(self, line: Line, settings: Settings, seed: int) -> Path:
        """Return the path that all files of a tuning begin with."""
        determines = {
            "method": self.tuning(line, settings).computed(),
            "seed": seed,
            "rows": self.manifest.identity(),
            "encoder": self.cache.encoder,
        }
        name = digest(json.loads(json.dumps(determines))).split(":")[-1][:16]
        return Path(self.chosen.out) / "tunings" / f"{line.method}-{name}-seed{seed}"

    def tuned(self, line: Line, settings: Settings, seed: int, extraction: bool) -> TunedCache:
        """Tune, or open what was tuned, and encode the cache anew if asked to."""
        place = self.place(line, settings, seed)
        place.parent.mkdir(parents=True, exist_ok=True)
        renewed = finetune_cache(
            self.manifest,
            line.method,
            place,
            self.cache.path,
            extraction=extraction,
            model=self.chosen.model,
            pretrained=self.chosen.pretrained,
            overrides=settings,
            seed=seed,
            device=self.chosen.device,
            workers=self.chosen.loaders,
            micro_batch=self.chosen.micro_batch,
            checkpointing=self.chosen.checkpointing,
            compiled=self.chosen.compile,
            progress=_told(line, settings, seed),
        )
        assert renewed is not None
        return renewed


@dataclass(frozen=True, eq=False)
class Child:
    """A tuned encoder, and its cache, before they are thrown away."""

    study: Study
    line: Line
    settings: Settings
    seed: int
    tuned: FineTuned
    cache: Cache


def options(description: str | None, out: str) -> argparse.ArgumentParser:
    """Return the options of a pipeline that tunes encoders."""
    parser = comparisons.options(description, out)
    parser.set_defaults(seeds=3, trials=3)
    parser.add_argument("--root", type=Path, help="where the images are, if not where SOURCE says")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of every tuning")
    parser.add_argument("--batch", type=int, default=BATCH, help="of every tuning")
    parser.add_argument("--device", default="auto", help="of tuning and extraction")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--loaders", type=int, help="processes that load images")
    parser.add_argument("--micro-batch", type=int, help="most images in the tower at once")
    parser.add_argument("--checkpointing", action="store_true", help="less memory, more time")
    parser.add_argument("--compile", action="store_true", help="torch.compile the image tower")
    parser.add_argument("--keep", action="store_true", help="keep checkpoints and their caches")
    return parser


def measured(study: Study, lines: Sequence[Line]) -> list[ComparisonEntry]:
    """Return the lines, and what follows from each, tuned and scored."""
    return [entry for line in lines for entry in measured_line(study, line)]


def measured_line(
    study: Study, line: Line, settings: Settings | None = None, tuning: Settings | None = None
) -> list[ComparisonEntry]:
    """Return a line, and what follows from it, over seeds.

    Args:
        settings: as chosen elsewhere; None: the line's trials choose. tuning: how they were chosen.
    """
    if settings is None:
        settings, tuning = choose(study, line)
    runs: dict[str, list[ScoredRun]] = {name: [] for name in ("", *line.then)}
    for seed in study.seeds:
        for name, found in result(study, line, settings, seed).items():
            runs[name].append(_with_trials(found, tuning or {}))
    return [
        ComparisonEntry(name or line.name, line.method, settings, found)
        for name, found in runs.items()
    ]


def choose(study: Study, line: Line) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings that the first seed gives the best mean accuracy per class on the
    validation split with (ties: lower NLL), and the record of that choice.

    Raises:
        UsageError: there is nothing to choose on. FitError: no trial could be tuned.
    """
    tried = [study.settings(line, trial) for trial in line.tried[: max(1, study.chosen.trials)]]
    if len(tried) == 1:
        return tried[0], {}
    if not study.manifest.class_counts("val").sum():
        raise UsageError(f"{study.manifest.name} has no val split to choose on: use --trials 1")
    best, records = None, []
    for settings in tried:
        record = trial(study, line, settings)
        records.append(record)
        if "failed" not in record and is_better(record, best):
            if best is not None:
                _discard(study, line, best["settings"], study.seeds[0])
            best = record
        else:
            _discard(study, line, settings, study.seeds[0])
    if best is None:
        raise FitError(f"{line.name}: no trial could be tuned: {records[0]['failed']}")
    keys = sorted({key for entry in line.tried for key in entry})
    return best["settings"], {
        "chosen": {key: best["settings"][key] for key in keys},
        "tuned_on": "val",
        "trials": len(records),
        "seconds": sum(record.get("seconds", 0.0) for record in records),
        "tried": records,
    }


def trial(study: Study, line: Line, settings: dict[str, Any]) -> dict[str, Any]:
    """Tune with the first seed and score the validation split, or read what was found before."""
    seed = study.seeds[0]
    file = _file(study, line, settings, seed, ".trial.json")
    if file.exists():
        found: dict[str, Any] = json.loads(file.read_text())
        return found
    record: dict[str, Any] = {"settings": settings}
    try:
        tuned = study.tuned(line, settings, seed, extraction=False).tuned
    except DivergedError as error:
        record["failed"] = str(error)
    else:
        assert tuned.record.val is not None
        record |= {
            "val_mean_per_class": tuned.record.val.mean_per_class,
            "val_nll": tuned.record.val.nll,
            "epoch": tuned.record.epoch,
            "seconds": tuned.record.cost.finetune_seconds,
        }
    _write(file, record)
    return record


def result(study: Study, line: Line, settings: Settings, seed: int) -> dict[str, ScoredRun]:
    """Tune with one seed and score the line ("") and what follows from it; read what is there."""
    file = _file(study, line, settings, seed, ".json")
    if file.exists() and (found := read_scored(file)).keys() >= {"", *line.then}:
        return {name: found[name] for name in ("", *line.then)}
    renewed = study.tuned(line, settings, seed, extraction=True)
    assert renewed.report is not None and renewed.run is not None
    cache = open_cache(renewed.report.path)
    child = Child(study, line, settings, seed, renewed.tuned, cache)
    found = {"": scored(renewed.run, cache)}
    for name, then in line.then.items():
        print(f"{name}, seed {seed}", file=sys.stderr)
        found[name] = then(child)
    write_scored(file, found)
    _discard(study, line, settings, seed)
    return found


def prior_taken_off(child: Child) -> ScoredRun:
    """Return the tuned model with tau times the log prior taken off its logits (post-hoc logit
    adjustment), tau chosen on the validation split."""
    run = open_run(child.tuned.path / "run")
    log_prior = np.log(np.maximum(run.record.class_counts, 1) / sum(run.record.class_counts))
    logits = {
        split: run.logits(child.cache.features(split, run.record.field)) for split in ("val", TEST)
    }
    labels = child.cache.labels("val")
    tau = best_tau(logits["val"][labels >= 0], labels[labels >= 0], log_prior)
    like = scored(run, child.cache)
    tuned_on = {**like.record.tuned_on, f"tau = {tau:g}": "val"}
    taken = {TEST: logits[TEST] - tau * log_prior}
    return scored_logits(child.cache, taken, like, tuned_on=tuned_on)


def best_tau(logits: np.ndarray, labels: np.ndarray, log_prior: np.ndarray) -> float:
    """Return the tau of :data:`TAUS` whose adjusted logits (N, C) have the best mean accuracy per
    class; of equal ones the smallest."""
    present = np.unique(labels)

    def mean_per_class(tau: float) -> float:
        right = (logits - tau * log_prior).argmax(axis=1) == labels
        return float(np.mean([right[labels == label].mean() for label in present]))

    return max(TAUS, key=lambda tau: (round(mean_per_class(tau), 12), -tau))


def fitted(cache: Cache, method: str, trials: int, seed: int) -> ScoredRun:
    """Return a head on cached features, its settings chosen on the validation split."""
    overrides, tuning = None, None
    if trials > 1:
        found = tune(cache, method, trials=trials, seed=seed)
        overrides, tuning = found.chosen, found.to_dict()
    return scored(fit_adapter(cache, method, seed=seed, overrides=overrides, tuning=tuning), cache)


def zero_shot(study: Study, prompts: str | None = None, name: str = ZERO_SHOT) -> ComparisonEntry:
    """Return the encoder as it is, by class texts; nothing in it is random."""
    run = fit_adapter(study.cache, ZERO_SHOT, prompts=prompts)
    one = scored(run, study.cache)
    runs = [replace(one, record=replace(one.record, seed=seed)) for seed in study.seeds]
    return ComparisonEntry(name, ZERO_SHOT, {}, runs)


def frozen_heads(study: Study) -> dict[str, ComparisonEntry]:
    """Return every head of :data:`FROZEN` by name, each tuned on the validation split with the same
    number of trials."""
    found = compared(study.cache, FROZEN, study.chosen, Path(study.chosen.out) / "frozen")
    return {
        entry["name"]: _frozen(study, entry, found.out) for entry in found.comparison["entries"]
    }


def best_frozen(study: Study, heads: Mapping[str, ComparisonEntry]) -> ComparisonEntry:
    """Return the one of :func:`frozen_heads` that is best on the validation split.

    Raises:
        UsageError: there is no validation split.
    """
    name = max(heads, key=lambda name: _val_mean(heads[name], study))
    return replace(heads[name], name=f"best frozen head: {name}")


def report(
    study: Study, entries: Sequence[ComparisonEntry], baseline: str, name: str
) -> dict[str, Any]:
    """Print the tables of some lines, and write them to OUT/NAME.json; return the comparison."""
    comparison = compare(entries, {TEST: ScoredRows.of(study.cache, TEST)}, baseline)
    by_name = {entry.name: entry for entry in entries}
    added = differences(study, by_name[baseline], [e for e in entries if e.name != baseline])
    comparison["differences"] = added
    comparison["tunings"] = {entry.name: entry.runs[0].record.tuning for entry in entries}
    write_json(Path(study.chosen.out) / f"{name}.json", comparison)
    print(WRITERS["md"](comparison, TEST))
    print(intervals_table(study, entries), end="\n\n")
    lines = [[line["after"], *(shown(line[s]) for s in STATISTICS)] for line in added]
    print(markdown_table([f"test, points against {baseline}", *STATISTICS], lines), end="\n\n")
    return comparison


def differences(
    study: Study, base: ComparisonEntry, entries: Sequence[ComparisonEntry]
) -> list[dict[str, Any]]:
    """Return what each line adds to another one on the test split, by group of classes."""
    return [
        {"before": base.name, "after": entry.name}
        | {s: _added(study, _right(base), entry, s) for s in STATISTICS}
        for entry in entries
    ]


def intervals_table(study: Study, entries: Sequence[ComparisonEntry]) -> str:
    """Return the scores of the test split with intervals over units, and what each has cost."""
    lines = []
    for entry in entries:
        nothing = np.zeros_like(_right(entry))
        found = [_added(study, nothing, entry, statistic) for statistic in STATISTICS]
        costs = [run.record.cost for run in entry.runs]
        spent = [
            np.mean([getattr(cost, name) for cost in costs])
            for name in ("finetune_seconds", "encoder_passes")
        ]
        trials = (entry.runs[0].record.tuning or {}).get("seconds", 0.0)
        cells = [_interval(value) for value in found]
        lines.append([entry.name, *cells, *(f"{v:.0f}" for v in (*spent, trials))])
    heading = ["test, % (95 % over units)", *STATISTICS, "tuning s", "passes", "s of trials"]
    return markdown_table(heading, lines)


def scored_logits(
    cache: Cache, logits: Mapping[str, np.ndarray], like: ScoredRun, **changes: Any
) -> ScoredRun:
    """Return logits (N, C) of a split's rows as a scored line.

    Args:
        cache: of the rows. like: whose record it has, with ``changes``.
    """
    from ltcache.metrics import evaluate_logits

    metrics, right = {}, {}
    for split, values in logits.items():
        labels, units = cache.labels(split), cache.column("unit", split)
        keep = labels >= 0
        right[split] = values[keep].argmax(axis=1) == labels[keep]
        metrics[split] = evaluate_logits(
            values[keep],
            labels[keep],
            np.array(like.record.class_counts),
            groups=cache.manifest.groups,
            units=None if units is None else units[keep],
        )
    return ScoredRun(metrics, right, replace(like.record, **changes))


def write_scored(file: Path, found: Mapping[str, ScoredRun]) -> None:
    """Write results: scores as JSON, which rows are right beside it."""
    arrays = {
        f"{name}|{split}": rows for name, one in found.items() for split, rows in one.right.items()
    }
    partial = file.with_suffix(".part.npz")
    np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]
    os.replace(partial, file.with_suffix(".npz"))
    plain = {
        name: {
            "metrics": {split: m.to_dict() for split, m in one.metrics.items()},
            "record": one.record.to_dict(),
        }
        for name, one in found.items()
    }
    _write(file, plain)


def read_scored(file: Path) -> dict[str, ScoredRun]:
    """Read what :func:`write_scored` wrote."""
    plain = json.loads(file.read_text())
    with np.load(file.with_suffix(".npz")) as arrays:
        right = {name: arrays[name] for name in arrays.files}
    return {
        name: ScoredRun(
            {
                split: read_record(Metrics, values, name=split)
                for split, values in one["metrics"].items()
            },
            {split: right[f"{name}|{split}"] for split in one["metrics"]},
            RunRecord.from_dict(one["record"]),
        )
        for name, one in plain.items()
    }


def _file(study: Study, line: Line, settings: Settings, seed: int, ending: str) -> Path:
    place = study.place(line, settings, seed)
    return place.with_name(place.name + ending)


def _write(file: Path, value: Any) -> None:
    partial = file.with_name(f".{file.name}.part")
    partial.parent.mkdir(parents=True, exist_ok=True)
    write_json(partial, value)
    os.replace(partial, file)


def _discard(study: Study, line: Line, settings: Settings, seed: int) -> None:
    """Throw a checkpoint away with what lies in it and what is left of its training."""
    if study.chosen.keep:
        return
    place = study.place(line, settings, seed)
    for folder in (place, place.with_name(f".{place.name}.tuning")):
        shutil.rmtree(folder, ignore_errors=True)


def _frozen(study: Study, entry: Mapping[str, Any], out: Path) -> ComparisonEntry:
    places = [out / path for path in entry["runs"]]
    runs = [scored(open_run(place), study.cache, str(place)) for place in places]
    return ComparisonEntry(
        f"frozen features, {entry['name']}", entry["method"], entry["chosen"], runs
    )


def _val_mean(entry: ComparisonEntry, study: Study) -> float:
    if "val" not in entry.runs[0].metrics:
        raise UsageError(f"{study.manifest.name} has no val split to choose the best head on")
    return float(np.mean([run.metrics["val"].mean_per_class for run in entry.runs]))


def _with_trials(found: ScoredRun, tuning: Settings) -> ScoredRun:
    """Return the line with how its settings were chosen in its record."""
    if not tuning:
        return found
    tuned_on = {**found.record.tuned_on, **dict.fromkeys(tuning["chosen"], "val")}
    searched = {**(found.record.tuning or tuning), "seconds": tuning["seconds"]}
    return replace(found, record=replace(found.record, tuned_on=tuned_on, tuning=searched))


def _told(line: Line, settings: Settings, seed: int) -> Callable[[dict[str, Any]], None]:
    """Return what prints a line per epoch, and one a minute within it."""
    tried = ", ".join(f"{k.split('.')[-1]} {settings[k]}" for k in sorted(line.tried[0]))
    told = time.monotonic()

    def tell(record: dict[str, Any]) -> None:
        nonlocal told
        if "seconds" in record:  # the end of an epoch
            scored = "val_mean_per_class" in record
            more = f", val {percent(record['val_mean_per_class'])}" if scored else ""
        elif time.monotonic() - told < _MINUTE:
            return
        else:
            more = f", step {record['step']} of {record['steps']}"
        told = time.monotonic()
        print(
            f"{line.name}, {tried}, seed {seed}: epoch {record['epoch']} of {record['epochs']}"
            f"{more}, loss {record['loss']:.3f}, {record['images_per_second']:.0f} images/s",
            file=sys.stderr,
        )

    return tell


def _right(entry: ComparisonEntry) -> np.ndarray:
    return np.stack([run.right[TEST] for run in entry.runs])


def _added(
    study: Study, before: np.ndarray, entry: ComparisonEntry, statistic: str
) -> dict[str, Any] | None:
    if getattr(entry.runs[0].metrics[TEST], statistic) is None:
        return None
    return difference(study.cache, before, _right(entry), statistic)


def _interval(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    return f"{percent(found['difference'])} ({percent(found['low'])} to {percent(found['high'])})"
