"""A run: a trained head with its configuration, its numbers and every identity that it used.

    RUN/{head.safetensors, run.json, config.json, metrics.json, per_class.csv, history.jsonl}

It is written beside its place and renamed, so that a run that exists is whole.
"""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from ltcache.errors import CacheError, FitError, UsageError
from ltcache.heads import FeatureTransform, Head, HeadContext, TokenMap, predict_logits
from ltcache.manifest import unlabelled_split
from ltcache.methods import Method, build_head
from ltcache.metrics import GroupScheme, Metrics, evaluate_logits
from ltcache.records import (
    PlaceKind,
    canonical_json,
    digest,
    not_what_is_asked,
    result_folder,
    telling_classes,
    whole_folder,
    write_json,
)

if TYPE_CHECKING:
    from ltcache.cache import Cache

FORMAT = 1
_RECORDED = {
    "choices", "class_counts", "cost", "dim", "field", "group_scheme", "groups", "identities",
    "logit_scale", "prompts", "seed", "stale", "tuned_on",
}  # fmt: skip
_KEPT = ("text_features", "projection", "directions")


@dataclass(eq=False)
class Run:
    """A trained head and everything that its results depend on.

    Attributes:
        method: with all settings written out. head, transform: on the CPU.
        record: what stands in run.json: identities, field, views, seed, rows of each split,
            tuned_on, init, residual prior, cost, how the encoder was named, identity fields let
            pass.
        history: one record per epoch.
        metrics: split -> scores.
        class_names: in label order, for per_class.csv.
        rest: of a head on tokens, the image tower behind them (:meth:`Cache.rest`), else empty.
        path: its directory, or None for a run that was not written.
    """

    method: Method
    head: Head
    transform: FeatureTransform
    record: dict[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, Metrics] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    rest: Mapping[str, np.ndarray] = field(default_factory=dict)
    path: Path | None = None

    def __repr__(self) -> str:
        """Return the method, the seed, the scores and where the run lies, on one line."""
        scores = [f"{k} {100 * m.mean_per_class:.1f} % mean/class" for k, m in self.metrics.items()]
        place = [] if self.path is None else [f"at {self.path}"]
        seed = f"seed {self.record['seed']}"
        return f"Run({', '.join([self.method.name, seed, *scores, *place])})"

    @property
    def key(self) -> str:
        """Digest of what determines the run: configuration, seed, identities, rows."""
        parts = ("seed", "identities", "field", "class_counts", "splits")
        used = {part: self.record[part] for part in parts}
        if "extra" in self.record:
            used["extra"] = self.record["extra"]["digest"]
        return digest([self.method.to_dict(), used])

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return float32 (n, C) for raw features (n, v, D) or (n, D); the mean over crops.

        A head on tokens takes (n, v, T, D).
        """
        tensor = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
        if tensor.ndim == 2:
            tensor = tensor[:, None]
        rows, crops = tensor.shape[:2]
        flat = tensor.flatten(0, 1)
        if flat.shape[-1] != self.head.dim:
            raise FitError(f"the head takes {self.head.dim} dimensions, not {flat.shape[-1]}")
        logits = predict_logits(self.head, self.transform(flat))
        return logits.reshape(rows, crops, -1).mean(dim=1).numpy()

    def save(self, out: str | Path, overwrite: bool = False) -> Path:
        """Write the run as a directory.

        Raises:
            UsageError: something else is there, and it is not a run or ``overwrite`` is false.
        """
        out = Path(out)
        require_run_place(out, self.key, overwrite)
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
        record = {"format": FORMAT, "method": self.method.name, "key": self.key, **self.record}
        write_json(directory / "run.json", record)
        write_json(directory / "config.json", self.method.to_dict())
        write_json(directory / "metrics.json", self.metrics_record())
        lines = "".join(canonical_json(entry) + "\n" for entry in self.history)
        (directory / "history.jsonl").write_text(lines, encoding="utf-8")
        write_classes(directory / "per_class.csv", self.record, self.class_names, self.metrics)

    def metrics_record(self) -> dict[str, Any]:
        """Return what stands in metrics.json."""
        named = ("seed", "identities", "tuned_on", "group_scheme", "cost", "stale")
        return {
            "method": self.method.name,
            **{name: self.record[name] for name in named},
            "splits": {split: metrics.to_dict() for split, metrics in self.metrics.items()},
        }


def open_run(path: str | Path) -> Run:
    """Read a run.

    Raises:
        UsageError: there is no run. FitError: a file of it is damaged.
    """
    path = result_folder(path)
    if not (path / "run.json").is_file():
        raise UsageError(f"no run here: {not_what_is_asked(path, PlaceKind.RUN)}")
    try:
        record = json.loads((path / "run.json").read_text(encoding="utf-8"))
        method = Method.from_dict(json.loads((path / "config.json").read_text(encoding="utf-8")))
        numbers = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
        lines = (path / "history.jsonl").read_text(encoding="utf-8").splitlines()
        tensors = load_file(path / "head.safetensors")
        with open(path / "per_class.csv", newline="", encoding="utf-8") as file:
            names = tuple(row["name"] for row in csv.DictReader(file))
        if missing := sorted(_RECORDED - set(record)):
            raise ValueError(f"run.json lacks {', '.join(missing)}")
        rest = load_arrays(path / "rest.safetensors") if record["field"] == "tokens" else {}
        metrics = {split: Metrics.from_dict(plain) for split, plain in numbers["splits"].items()}
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
    for name in ("format", "method", "key"):
        record.pop(name, None)
    return Run(method, head, transform, record, history, metrics, names, rest, path)


def _rebuild(
    method: Method,
    record: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    rest: Mapping[str, np.ndarray],
) -> tuple[Head, FeatureTransform]:
    def under(prefix: str) -> dict[str, torch.Tensor]:
        return {n[len(prefix) + 1 :]: v for n, v in tensors.items() if n.startswith(prefix + ".")}

    kept = {name.rpartition("context_")[2]: v for name, v in tensors.items() if "context_" in name}
    context = HeadContext(
        dim=record["dim"],
        num_classes=len(record["class_counts"]),
        class_counts=torch.tensor(record["class_counts"]),
        logit_scale=record["logit_scale"],
        tokens=token_map(record["identities"]["encoder"], rest) if rest else None,
        **{name: kept[name] for name in _KEPT if name in kept},
    )
    head = build_head(method.stages, record["choices"], context)
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


def require_run_place(out: Path, key: str, overwrite: bool) -> None:
    """Refuse to replace what is not a run, or a run of other content unless told to.

    Raises:
        UsageError: with what is there.
    """
    out = result_folder(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / "run.json").is_file():
        raise UsageError(f"{out} exists and is not a run; choose another --out")
    try:
        there = json.loads((out / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        there = {}
    there = there if isinstance(there, dict) else {}
    if there.get("key") != key and not overwrite:
        raise UsageError(
            f"{out} holds another run (method {there.get('method')!r}, seed {there.get('seed')}); "
            "choose another --out, or pass --overwrite"
        )


def check_features(run: Run, cache: Cache, allow_stale: Collection[str] = ()) -> tuple[str, ...]:
    """Refuse a cache whose features do not fit a run; warn where only last bits may differ.

    Returns:
        Identity fields that differ and were let pass.

    Raises:
        IdentityError: encoder, classes, view or prompts differ.
    """
    from ltcache.cache import check_identities

    expected = run.record["identities"]
    prompts = cache.prompts(run.record["prompts"]) if "prompts" in expected else None
    found = cache.identities(run.method.feature.eval_view, prompts)
    with telling_classes(run.class_names, cache.classes.names):
        stale, loose = check_identities(expected, found, allow_stale)
    if loose:
        warnings.warn(
            f"the features were computed otherwise ({', '.join(loose)}); logits can differ in "
            "their last digits",
            stacklevel=2,
        )
    return tuple(stale)


def require_labels(cache: Cache, split: str) -> np.ndarray:
    """Return the labels of a split, int64 (n,), at least one of them known.

    Raises:
        CacheError: there is no such split, or none of its rows has a label.
    """
    labels = cache.labels(split)
    if not (labels >= 0).any():
        raise CacheError(f"{cache.path}: {unlabelled_split(split, len(labels))}")
    return labels


def score(run: Run, cache: Cache, split: str, stale: tuple[str, ...] = ()) -> Metrics:
    """Score the labelled rows of one split of a cache; intervals are over its ``unit`` column.

    Raises:
        CacheError: there is no such split, or none of its rows has a label.
    """
    labels = require_labels(cache, split)
    features = cache.features(split, run.record["field"], run.method.feature.eval_view)
    units = cache.column("unit", split)
    keep = labels >= 0
    metrics = evaluate_logits(
        run.logits(features[keep]),
        labels[keep],
        np.array(run.record["class_counts"]),
        groups=run.record["groups"],
        units=None if units is None else units[keep],
    )
    return metrics.marked(stale)


def write_classes(
    path: Path,
    record: Mapping[str, Any],
    names: Sequence[str],
    splits: Mapping[str, Metrics],
) -> None:
    """Write per_class.csv: count and group of each class, its rows and accuracy in each split.

    Args:
        record: with ``class_counts`` and ``groups``. names: of the classes, or empty.
    """
    counts = np.array(record["class_counts"])
    groups = GroupScheme.from_mapping(record["groups"]).assign(counts)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        header = [f"{split}_{what}" for split in splits for what in ("rows", "accuracy")]
        writer.writerow(["label", "name", "train_rows", "group", *header])
        for label, count in enumerate(counts):
            cells: list[Any] = []
            for metrics in splits.values():
                accuracy = metrics.per_class[label]
                shown = "-" if accuracy is None else f"{accuracy:.6g}"
                cells += [metrics.per_class_rows[label], shown]
            name = names[label] if names else ""
            writer.writerow([label, name, count, groups[label], *cells])
