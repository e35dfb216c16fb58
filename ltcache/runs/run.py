"""A run: a trained head with its configuration, its numbers and every identity that it used.

    RUN/{head.safetensors, run.json, config.json, metrics.json, per_class.csv, history.jsonl}

It is written beside its place and renamed, so that a run that exists is whole.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from ltcache.adjustments import PredictedRows, adapted
from ltcache.errors import FitError, UsageError
from ltcache.heads import FeatureTransform, Head, HeadContext, TokenMap, predict_logits
from ltcache.methods import Method, build_head
from ltcache.metrics import EpochRecord, GroupScheme, Metrics, RowAdaptation, percent
from ltcache.records import (
    JsonObject,
    PlaceKind,
    canonical_json,
    digest,
    html_table,
    not_what_is_asked,
    one_line,
    plain_json,
    read_record,
    require_replaceable,
    result_folder,
    whole_folder,
    write_json,
)
from ltcache.runs.frequency import frequency_figure
from ltcache.runs.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ltcache.cache import Cache

_KEPT = ("text_features", "projection", "directions")


@one_line
@dataclass(frozen=True, eq=False)
class RowLogits:
    """Logits (N, C) of rows, and what the head learned from these very rows before."""

    logits: np.ndarray
    adaptations: tuple[RowAdaptation, ...] = ()


@dataclass(eq=False)
class Run:
    """A trained head and everything that its results depend on.

    Attributes:
        method: with all settings written out. head, transform: on the CPU.
        record: what stands in run.json.
        history: one record per epoch.
        metrics: split -> scores.
        class_names: in label order, for per_class.csv.
        rest: of a head on tokens, the image tower behind them (:meth:`Cache.rest`), else empty.
        path: its directory, or None for a run that was not written.
    """

    method: Method
    head: Head
    transform: FeatureTransform
    record: RunRecord
    history: list[EpochRecord] = field(default_factory=list)
    metrics: dict[str, Metrics] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    rest: Mapping[str, np.ndarray] = field(default_factory=dict)
    path: Path | None = None

    def __repr__(self) -> str:
        """Return the method, the seed, the scores and where the run lies, on one line."""
        scores = [f"{k} {100 * m.mean_per_class:.1f} % mean/class" for k, m in self.metrics.items()]
        place = [] if self.path is None else [f"at {self.path}"]
        seed = f"seed {self.record.seed}"
        return f"Run({', '.join([self.method.name, seed, *scores, *place])})"

    def _repr_html_(self) -> str:
        """Return the scores of each split as a table for notebooks."""
        names = ("overall", "mean_per_class", "many", "medium", "few")
        rows = [
            [split, *(percent(getattr(metrics, name)) for name in names)]
            for split, metrics in self.metrics.items()
        ]
        return html_table(repr(self), ["%", *names], rows)

    def plot(self, split: str | None = None) -> Figure:
        """Return a matplotlib figure of accuracy against class frequency.

        Args:
            split: of the scores; None: test where it is there, else another.

        Raises:
            UsageError: the run was not scored on that split.
        """
        split = split or next((s for s in ("test", *self.metrics) if s in self.metrics), "test")
        if split not in self.metrics:
            there = ", ".join(self.metrics) or "none"
            raise UsageError(f"the run has no scores on split {split!r}, only on {there}")
        accuracy = np.array(self.metrics[split].per_class, dtype=float)
        counts = np.array(self.record.class_counts)
        return frequency_figure(counts, {self.method.name: accuracy}, f"{split} split")

    @property
    def key(self) -> str:
        """Digest of what determines the run: configuration, seed, identities, rows."""
        parts = ("seed", "identities", "field", "class_counts", "splits")
        used = {part: getattr(self.record, part) for part in parts}
        if self.record.extra is not None:
            used["extra"] = self.record.extra["digest"]
        if self.record.rows is not None:
            used["rows"] = self.record.rows
        return digest([self.method.to_dict(), used])

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return float32 (n, C) for raw features (n, v, D) or (n, D); the mean over crops.

        A head on tokens takes (n, v, T, D).

        Raises:
            FitError: features of another dimension, or a head that is transductive: see
                :meth:`logits_of`.
        """
        crops = self._transformed(features)
        logits = predict_logits(self.head, crops.flatten(0, 1))
        return logits.unflatten(0, crops.shape[:2]).mean(dim=1).numpy()

    def _transformed(self, features: np.ndarray) -> torch.Tensor:
        """Return what the head takes, (n, v, D), for raw features (n, v, D) or (n, D)."""
        tensor = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
        if tensor.ndim == 2:
            tensor = tensor[:, None]
        if tensor.shape[-1] != self.head.dim:
            raise FitError(f"the head takes {self.head.dim} dimensions, not {tensor.shape[-1]}")
        return self.transform(tensor.flatten(0, 1)).unflatten(0, tensor.shape[:2])

    def logits_of(self, cache: Cache, split: str, rows: np.ndarray) -> RowLogits:
        """Return float32 (n, C) for the rows of a split of a cache at these positions, (n,).

        A transductive head first learns from exactly these rows, never from their labels.
        """
        view, name = self.method.feature.eval_view, self.record.field

        def crops(view: str) -> torch.Tensor:
            return self._transformed(cache.features(split, name, view)[rows])

        unlabelled = PredictedRows(split, view, crops, self.record.seed)
        head, adaptations = adapted(self.head, unlabelled)
        run = self if head is self.head else replace(self, head=head)
        return RowLogits(run.logits(cache.features(split, name, view)[rows]), adaptations)

    def save(self, out: str | Path, overwrite: bool = False) -> Path:
        """Write the run as a directory.

        Raises:
            UsageError: something else is there, and it is not a run or ``overwrite`` is false.
        """
        out = require_replaceable(out, PlaceKind.RUN, key=self.key, overwrite=overwrite)
        with whole_folder(out) as partial:
            self._write(partial)
        self.path = out
        return out

    def _write(self, directory: Path) -> None:
        tensors = {f"head.{name}": value for name, value in self.head.state_dict().items()}
        tensors |= {f"transform.{n}": v for n, v in self.transform.state_dict().items()}
        save_file({n: v.contiguous() for n, v in tensors.items()}, directory / "head.safetensors")
        if self.rest:
            save_arrays(dict(self.rest), directory / "rest.safetensors")
        record = {"method": self.method.name, "key": self.key, **self.record.to_dict()}
        write_json(directory / "run.json", record)
        write_json(directory / "config.json", self.method.to_dict())
        write_json(directory / "metrics.json", self.metrics_record())
        lines = "".join(canonical_json(entry) + "\n" for entry in self.history)
        (directory / "history.jsonl").write_text(lines, encoding="utf-8")
        counts, groups = np.array(self.record.class_counts), self.record.groups
        write_classes(directory / "per_class.csv", counts, groups, self.class_names, self.metrics)

    def metrics_record(self) -> JsonObject:
        """Return what stands in metrics.json."""
        named = ("seed", "identities", "tuned_on", "group_scheme", "cost", "stale")
        record = self.record.to_dict()
        return {
            "method": self.method.name,
            **{name: record[name] for name in named},
            "splits": plain_json(self.metrics),
        }


def open_run(path: Run | str | Path) -> Run:
    """Read a run; one that is read already is returned as it is.

    Raises:
        UsageError: there is no run. FitError: a file of it is damaged.
    """
    if isinstance(path, Run):
        return path
    path = result_folder(path)
    if not (path / "run.json").is_file():
        raise UsageError(f"no run here: {not_what_is_asked(path, PlaceKind.RUN)}")
    try:
        record = RunRecord.from_dict(json.loads((path / "run.json").read_text(encoding="utf-8")))
        method = Method.from_dict(json.loads((path / "config.json").read_text(encoding="utf-8")))
        numbers = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
        lines = (path / "history.jsonl").read_text(encoding="utf-8").splitlines()
        tensors = load_file(path / "head.safetensors")
        with open(path / "per_class.csv", newline="", encoding="utf-8") as file:
            names = tuple(row["name"] for row in csv.DictReader(file))
        rest = load_arrays(path / "rest.safetensors") if record.field == "tokens" else {}
        splits = numbers["splits"].items()
        metrics = {s: read_record(Metrics, found, name=f"metrics.json, {s}") for s, found in splits}
        history = [json.loads(line) for line in lines]
        head, transform = _rebuild(method, record, tensors, rest)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
        SafetensorError,
    ) as error:
        raise FitError(f"{path}: the run cannot be read ({error})") from error
    return Run(method, head, transform, record, history, metrics, names, rest, path)


def _rebuild(
    method: Method,
    run_record: RunRecord,
    tensors: Mapping[str, torch.Tensor],
    rest: Mapping[str, np.ndarray],
) -> tuple[Head, FeatureTransform]:
    def under(prefix: str) -> dict[str, torch.Tensor]:
        return {n[len(prefix) + 1 :]: v for n, v in tensors.items() if n.startswith(prefix + ".")}

    kept = {name.rpartition("context_")[2]: v for name, v in tensors.items() if "context_" in name}
    context = HeadContext(
        dim=run_record.dim,
        num_classes=len(run_record.class_counts),
        class_counts=torch.tensor(run_record.class_counts),
        logit_scale=run_record.logit_scale,
        tokens=token_map(run_record.identities["encoder"], rest) if rest else None,
        **{name: kept[name] for name in _KEPT if name in kept},
    )
    head = build_head(method.stages, run_record.choices, context)
    head.load_state_dict(under("head"))
    transform = FeatureTransform(method.feature.transform, context.dim)
    transform.load_state_dict(under("transform"))
    return head.eval(), transform.eval()


def token_map(encoder: Mapping[str, Any], rest: Mapping[str, np.ndarray]) -> TokenMap:
    """Return how the tokens of an encoder lie, with the rest of its tower as a module.

    Args:
        encoder: its identity. rest: see :meth:`Cache.rest`.
    """
    from ltcache.encoder import build_rest

    module = build_rest(encoder, rest)
    return TokenMap(module.grid, module.class_token, encoder["dims"]["embedding"], module)


def write_classes(
    path: Path,
    class_counts: np.ndarray,
    scheme: GroupScheme,
    names: Sequence[str],
    splits: Mapping[str, Metrics],
) -> None:
    """Write per_class.csv: count and group of each class, its rows and accuracy in each split.

    Args:
        names: of the classes, or empty.
    """
    groups = scheme.assign(class_counts)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        header = [f"{split}_{what}" for split in splits for what in ("rows", "accuracy")]
        writer.writerow(["label", "name", "train_rows", "group", *header])
        for label, count in enumerate(class_counts):
            cells: list[Any] = []
            for metrics in splits.values():
                accuracy = metrics.per_class[label]
                shown = "-" if accuracy is None else f"{accuracy:.6g}"
                cells += [metrics.per_class_rows[label], shown]
            name = names[label] if names else ""
            writer.writerow([label, name, count, groups[label], *cells])
