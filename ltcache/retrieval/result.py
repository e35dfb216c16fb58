"""The result of a retrieval: which images of a pool were chosen for which class, and which not.

    RETRIEVED/{retrieved.parquet, retrieved.csv, features.safetensors, retrieve.json}

It is written beside its place and renamed, so that a result that exists is whole. It stands alone:
the features of all candidates are in it, so that a fit needs no pool.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ltcache.errors import CacheError, UsageError
from ltcache.records import (
    PlaceKind,
    counted,
    html_table,
    not_what_is_asked,
    require_replaceable,
    result_folder,
    whole_folder,
    write_json,
)
from ltcache.retrieval.record import RetrievalRecord, RetrievedClass

ACCEPTED, REJECTED = "accepted", "rejected"

_UNREADABLE = (
    OSError, CacheError, UsageError, ValueError, KeyError, TypeError, AttributeError,
    SafetensorError, pa.ArrowException,
)  # fmt: skip
COLUMNS = {
    "pool_row": "row_id in the pool's cache; of several pools, counted through all of them",
    "key": "key in the pool's cache; after the name of its pool and a colon where a candidate of "
    "another pool has the same",
    "uri": "where the image is, relative to the pool's root",
    "label": "the class it was chosen for, or was a candidate of",
    "class_name": "its name",
    "p": "p_k, softmax over all classes",
    "log_odds": "log(p / (1 - p)), which ranks where p rounds to 1",
    "margin": "log p_k - log p of the runner-up; negative where another class is more probable",
    "runner_up": "label of the best other class",
    "runner_up_name": "its name",
    "rank": "1 = the class's best candidate by log-odds",
    "status": "accepted or rejected",
    "reason": "why it was rejected, a key of ltcache.retrieval.guards.verdicts.REASONS; else empty",
    "duplicate_of": "key of the image that it repeats; else empty",
    "train_row": "row_id of the nearest training image, -1 where there is none",
    "train_key": "its key",
    "train_label": "its label",
    "train_similarity": "cosine to it",
    "held_out_key": "key of the nearest image of the other splits",
    "held_out_similarity": "cosine to it, -1 where there is none",
    "sha256": "of the image's bytes",
    "width": "in pixels",
    "height": "in pixels",
    "source": "where the pool has it from",
    "url": "as the pool names it",
    "caption": "as the pool names it",
    "licence": "as the pool names it",
}
"""Columns of retrieved.parquet, one row per class and candidate, by label and then by rank."""

POOL = "pool"
"""One more column where several pools were given: the name of each candidate's."""


@dataclass(eq=False, repr=False)
class RetrievalResult:
    """Candidates of the tail classes with what became of them.

    Attributes:
        table: columns of :data:`COLUMNS`.
        record: what stands in retrieve.json.
        features: field -> (m, v, D) as the pool stores them, of the distinct pool rows in
            ``feature_rows``.
        feature_rows: int64 (m,), ascending.
        path: its directory, or None where it was not written.
        cache_path: directory of the cache whose classes were searched for, or None: read again.
    """

    table: pa.Table
    record: RetrievalRecord
    features: dict[str, np.ndarray] = field(default_factory=dict)
    feature_rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    path: Path | None = None
    cache_path: Path | None = None

    def __repr__(self) -> str:
        """Return how many images were taken for how many classes and where, on one line."""
        place = "" if self.path is None else f", at {self.path}"
        taken = f"{self.accepted.num_rows} of {self.table.num_rows} candidates accepted"
        return f"RetrievalResult({taken}, {counted(len(self.classes), 'class')}{place})"

    def _repr_html_(self) -> str:
        """Return the images that were taken for each class, as a table for notebooks."""
        counts = self.counts()
        rows = [[entry.name, counts[entry.label]] for entry in self.classes]
        return html_table(repr(self), ["class", "accepted"], rows)

    @property
    def key(self) -> str:
        """See :attr:`ltcache.retrieval.record.RetrievalRecord.key`."""
        return self.record.key

    @property
    def accepted(self) -> pa.Table:
        """The rows that were taken."""
        return self.table.filter(pc.equal(self.table["status"], ACCEPTED))

    def counts(self) -> dict[int, int]:
        """Return label -> images taken, for every class that was asked for."""
        taken = self.accepted["label"].to_numpy()
        return {entry.label: int((taken == entry.label).sum()) for entry in self.classes}

    @property
    def classes(self) -> tuple[RetrievedClass, ...]:
        """The classes that images were asked for."""
        return self.record.classes

    def features_of(self, rows: np.ndarray, name: str = "embedding") -> np.ndarray:
        """Return float32 (n, v, D): features of pool rows that are candidates.

        Raises:
            UsageError: no such field, or a row that was no candidate.
        """
        if name not in self.features:
            raise UsageError(f"the result has no field {name!r}, only {', '.join(self.features)}")
        if not len(rows):
            return np.zeros((0, *self.features[name].shape[1:]), np.float32)
        place = np.searchsorted(self.feature_rows, rows)
        if not np.isin(rows, self.feature_rows).all():
            raise UsageError("a row was no candidate, so the result has no features of it")
        return self.features[name][place].astype(np.float32)

    def save(self, out: str | Path, overwrite: bool = False, keep: Collection[str] = ()) -> Path:
        """Write the result as a directory.

        Args:
            keep: files of the result that it replaces which stay.

        Raises:
            UsageError: something else is there, and it is no result or ``overwrite`` is false.
        """
        out = require_replaceable(out, PlaceKind.RETRIEVED, key=self.key, overwrite=overwrite)
        with whole_folder(out) as partial:
            self._write(partial)
            for name in keep:
                if (out / name).is_file():
                    (partial / name).parent.mkdir(exist_ok=True)
                    shutil.copy2(out / name, partial / name)
        self.path = out
        return out

    def _write(self, directory: Path) -> None:
        pq.write_table(self.table, directory / "retrieved.parquet")
        pcsv.write_csv(self.table, directory / "retrieved.csv")
        tensors = {f"field.{name}": value for name, value in self.features.items()}
        tensors["rows"] = self.feature_rows
        save_file(
            {name: np.ascontiguousarray(value) for name, value in tensors.items()},
            directory / "features.safetensors",
        )
        write_json(directory / "retrieve.json", self.record.to_dict())


def open_retrieved(path: str | Path) -> RetrievalResult:
    """Read a result.

    Raises:
        UsageError: there is none. CacheError: a file of it is damaged.
    """
    path = result_folder(path)
    if not (path / "retrieve.json").is_file():
        raise UsageError(
            f"no result of retrieve-tail here: {not_what_is_asked(path, PlaceKind.RETRIEVED)}"
        )
    try:
        stored = json.loads((path / "retrieve.json").read_text(encoding="utf-8"))
        record = RetrievalRecord.from_dict(stored)
        table = pq.read_table(path / "retrieved.parquet")
        table.validate(full=True)
        if missing := [name for name in COLUMNS if name not in table.column_names]:
            raise ValueError(f"retrieved.parquet lacks {', '.join(missing)}")
        tensors = load_file(path / "features.safetensors")
        rows = tensors.pop("rows")
    except _UNREADABLE as error:
        raise CacheError(f"{path}: the result cannot be read ({error})") from None
    features = {name.removeprefix("field."): value for name, value in tensors.items()}
    return RetrievalResult(table, record, features, rows, path)


def pool_folders(path: Path, pools: Sequence[str]) -> list[Path]:
    """Return the folders that say where the images of each pool are.

    Args:
        path: of a result. pools: what its record calls them.
    """
    if not pools:
        return [path]
    return [path / "pools" / str(number) for number, _ in enumerate(pools, 1)]


def tallied(entry: RetrievedClass, table: pa.Table) -> RetrievedClass:
    """Return a class with what became of its candidates in a table: taken, rejected by reason."""
    mine = table.filter(pc.equal(table["label"], entry.label))
    counted = Counter(mine["reason"].to_pylist())
    accepted = counted.pop("", 0)
    rejected = dict(sorted(counted.items()))
    return replace(entry, candidates=mine.num_rows, accepted=accepted, rejected=rejected)
