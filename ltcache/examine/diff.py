"""What differs between two caches, or between a cache and a list of images.

Rows are compared by their key, contents by the SHA-256 that extraction stored, features by the
cosine between the two caches' embeddings of one row (of image-only encoders: pooled features).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.cache import Cache, as_json, cosines, open_cache
from ltcache.errors import ImageError
from ltcache.images import open_store
from ltcache.manifest import Manifest, place_among, read_manifest
from ltcache.metrics import GroupScheme
from ltcache.records import (
    JsonObject,
    JsonRecord,
    PlaceKind,
    bytes_digest,
    differences,
    kind_of,
    one_line,
)

FIRST = 5
"""How many examples a list of rows shows."""

_BLOCK = 8192


@dataclass(frozen=True)
class SharedRows:
    """Rows with something in common.

    Args:
        count: how many.
        first: the first five: keys, or keys with what they were and are.
    """

    count: int
    first: tuple[str, ...]


@dataclass(frozen=True)
class FeatureMovement:
    """How far features moved between two caches, for the rows that both have.

    Args:
        rows: how many were compared.
        mean, minimum: cosine between the two features of a row; ``worst`` is the minimum's key.
        classes: label -> mean cosine, the furthest moved first.
        groups: many, medium, few -> mean cosine over their rows.
        scheme: how classes are grouped.
    """

    rows: int
    mean: float
    minimum: float
    worst: str
    classes: Mapping[int, float]
    groups: Mapping[str, float]
    scheme: str


@one_line
@dataclass(frozen=True)
class DiffReport(JsonRecord):
    """What differs between A and B.

    Args:
        a, b: what was compared.
        rows: number of rows of each.
        identities: kind -> dotted field -> (of A, of B); what B does not have is not compared.
        names: of A's classes, in label order.
        added, removed: rows that only B or only A has.
        relabelled, moved: rows whose label or split differs.
        changed: rows whose content differs; None where one side does not know contents.
        unknown: shared rows whose content one side does not know, such as imported ones: nothing
            is said of theirs.
        encode: images of B that A does not know, in number of files to encode; those that failed in
            A are not among them (``extract --retry-failed``).
        features: how far they moved, or None, and then ``why`` says why.
    """

    a: str
    b: str
    rows: tuple[int, int]
    identities: Mapping[str, Mapping[str, tuple[Any, Any]]]
    names: tuple[str, ...]
    added: SharedRows
    removed: SharedRows
    relabelled: SharedRows
    moved: SharedRows
    changed: SharedRows | None
    encode: SharedRows
    features: FeatureMovement | None = None
    why: str = field(default="")
    unknown: int = 0

    @property
    def matched(self) -> int:
        """Rows of A whose key B has too."""
        return self.rows[0] - self.removed.count

    @property
    def same(self) -> bool:
        """Whether nothing differs but, perhaps, the features themselves."""
        lists = (self.added, self.removed, self.relabelled, self.moved, self.changed, self.encode)
        return not self.identities and not any(rows and rows.count for rows in lists)

    def to_dict(self) -> JsonObject:
        """Return the report as a value for JSON."""
        return {**super().to_dict(), "same": self.same, "matched": self.matched}


def diff(
    a: Cache | str | Path,
    b: Cache | Manifest | str | Path,
    *,
    root: str | Path | None = None,
    rehash: bool = False,
    label_column: str | None = None,
) -> DiffReport:
    """Compare a cache with another cache, or with a source of images.

    Args:
        a: a cache or its directory.
        b: a cache, a manifest, or whatever :func:`ltcache.manifest.read_manifest` takes.
        root: where B's images are, if not where the source says.
        rehash: read all of B's images, to know which have changed and which new ones have a
            content that A holds already.
        label_column: where B's labels are (see :func:`ltcache.manifest.read_manifest`).

    Raises:
        CacheError: not a cache, unfinished or damaged.
        ManifestError: B is neither a cache nor a source of images.
    """
    cache = open_cache(a)
    if isinstance(b, (str, Path)):
        b = (
            open_cache(b)
            if kind_of(b) is PlaceKind.CACHE
            else read_manifest(b, root=root, label_column=label_column)
        )
    other = b.manifest if isinstance(b, Cache) else b
    content = _contents(b, root, rehash=rehash)
    table = _joined(cache.manifest, other)
    features, why = _features(cache, b, table) if isinstance(b, Cache) else (None, "B is no cache")
    unknown = _unknown(cache, b, table)
    return DiffReport(
        a=str(cache.path),
        b=str(b.path) if isinstance(b, Cache) else b.name,
        rows=(len(cache.manifest), len(other)),
        identities=_identities(cache, b),
        names=tuple(cache.classes.names),
        added=_rows(other, np.flatnonzero(table.of_b < 0)),
        removed=_rows(cache.manifest, np.flatnonzero(table.of_a < 0)),
        relabelled=_changes(cache.manifest, other, table, "label"),
        moved=_changes(cache.manifest, other, table, "split"),
        changed=_changed(cache, other, table, content, unknown),
        encode=_to_encode(cache, other, content),
        features=features,
        why=why,
        unknown=0 if content is None else int(unknown.sum()),
    )


@dataclass(frozen=True, eq=False)
class _MatchedRows:
    """Rows of A and B matched by key: ``of_a`` (rows of A,) is the row of B or -1, and so on."""

    of_a: np.ndarray
    of_b: np.ndarray

    @property
    def shared(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of A that B has too, and the same rows in B."""
        rows = np.flatnonzero(self.of_a >= 0)
        return rows, self.of_a[rows]


def _joined(a: Manifest, b: Manifest) -> _MatchedRows:
    def find(of: Manifest, among: Manifest) -> np.ndarray:
        found = place_among(of.rows["key"], among.rows["key"])
        return np.asarray(pc.fill_null(found, -1).to_numpy().astype(np.int64))

    return _MatchedRows(find(a, b), find(b, a))


def _identities(a: Cache, b: Cache | Manifest) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Return kind -> differing fields, for every kind that both sides have."""
    found: dict[str, dict[str, tuple[Any, Any]]] = {}
    manifest = b.manifest if isinstance(b, Cache) else b
    found["classes"] = differences(a.classes.identity(), manifest.classes.identity())
    found["classes"] |= _names(a.classes.names, manifest.classes.names)
    mine, theirs = a.manifest.identity(), manifest.identity()
    settings = ("templates", "groups", "descriptions")
    found["manifest"] = differences(
        {name: mine[name] for name in settings}, {name: theirs[name] for name in settings}
    )
    if isinstance(b, Cache):
        found["encoder"] = differences(a.encoder, b.encoder)
        found["numerics"] = differences(a.numerics, b.numerics)
        found["views"] = differences(_views(a), _views(b))
        found["prompts"] = differences(_prompts(a), _prompts(b))
    return {kind: fields for kind, fields in found.items() if fields}


def _names(a: Sequence[str], b: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """Return the names that differ, label by label."""
    length = max(len(a), len(b))
    padded = ([*names, *[None] * (length - len(names))] for names in (a, b))
    return {
        f"name of {label}": pair
        for label, pair in enumerate(zip(*padded, strict=True))
        if pair[0] != pair[1]
    }


def _views(cache: Cache) -> JsonObject:
    return {
        view: {
            **{name: as_json(dims) for name, dims in cache.field_shapes(view).items()},
            **{k: v for k, v in cache.identities(view)["view"].items() if k != "name"},
        }
        for view in cache.views
    }


def _prompts(cache: Cache) -> JsonObject:
    return {name: dict(cache.prompts(name).identity) for name in cache.prompt_names}


def _contents(b: Cache | Manifest, root: str | Path | None, *, rehash: bool) -> list[str] | None:
    """Return the SHA-256 of each of B's images ("" where it cannot be read), or None."""
    if isinstance(b, Cache):
        return [text or "" for text in b.manifest.rows["sha256"].to_pylist()]
    if not rehash:
        return None
    store = open_store(root if root is not None else b.root)

    def hashed(uri: str) -> str:
        try:
            return bytes_digest(store.read(uri))
        except ImageError:
            return ""

    uris = b.rows["uri"].to_pylist()
    known = {uri: hashed(uri) for uri in dict.fromkeys(uris)}
    return [known[uri] for uri in uris]


def _to_encode(a: Cache, b: Manifest, content: Sequence[str] | None) -> SharedRows:
    """Return B's images that A does not know: by content where both know it, else by uri."""
    rows = a.manifest.rows
    contents, uris = set(rows["sha256"].to_pylist()), set(rows["uri"].to_pylist())
    blind = set(rows["uri"].filter(pa.array(_without_content(a))).to_pylist())
    wanted = b.rows["uri"].to_pylist()
    new: dict[str, str] = {}
    for uri, text in zip(wanted, content or [""] * len(wanted), strict=True):
        if uri in blind:
            continue
        if text not in contents if text else uri not in uris:
            new.setdefault(text or uri, uri)
    return SharedRows(len(new), tuple(list(new.values())[:FIRST]))


def _rows(manifest: Manifest, rows: np.ndarray) -> SharedRows:
    keys = manifest.rows["key"].take(pa.array(rows[:FIRST])).to_pylist()
    return SharedRows(len(rows), tuple(keys))


def _changes(a: Manifest, b: Manifest, joined: _MatchedRows, column: str) -> SharedRows:
    """Return the shared rows in which a column differs, with both values."""
    in_a, in_b = joined.shared
    before = a.rows[column].take(pa.array(in_a)).to_numpy(zero_copy_only=False)
    after = b.rows[column].take(pa.array(in_b)).to_numpy(zero_copy_only=False)
    where = np.flatnonzero(before != after)
    keys = a.rows["key"].take(pa.array(in_a[where[:FIRST]])).to_pylist()
    texts = [
        f"{key}: {_said(a, column, before[i])} -> {_said(b, column, after[i])}"
        for key, i in zip(keys, where[:FIRST], strict=True)
    ]
    return SharedRows(len(where), tuple(texts))


def _said(manifest: Manifest, column: str, value: Any) -> str:
    if column != "label":
        return str(value)
    return "unlabelled" if value < 0 else f"{value} ({manifest.classes.names[value]})"


def _changed(
    a: Cache,
    b: Manifest,
    joined: _MatchedRows,
    content: Sequence[str] | None,
    unknown: np.ndarray,
) -> SharedRows | None:
    in_a, in_b = joined.shared
    if content is None or (len(in_a) and unknown.all()):
        return None
    before = pc.fill_null(a.manifest.rows["sha256"], "").take(pa.array(in_a))
    after = pa.array(content, pa.string()).take(pa.array(in_b))
    return _rows(b, in_b[pc.not_equal(before, after).to_numpy() & ~unknown])


def _unknown(a: Cache, b: Cache | Manifest, joined: _MatchedRows) -> np.ndarray:
    """Return which shared rows have a content that A or B has never seen, bool (n,)."""
    in_a, in_b = joined.shared
    unknown = _without_content(a)[in_a]
    return unknown | _without_content(b)[in_b] if isinstance(b, Cache) else unknown


def _without_content(cache: Cache) -> np.ndarray:
    """Return which rows have features but no content, bool (rows,): they were imported."""
    rows = cache.manifest.rows
    lacks = pc.equal(pc.fill_null(rows["sha256"], ""), "")
    encoded = pc.fill_null(pc.equal(rows["status"], "ok"), True)
    return np.asarray(pc.and_(lacks, encoded).to_numpy())


def _features(a: Cache, b: Cache, joined: _MatchedRows) -> tuple[FeatureMovement | None, str]:
    """Compare features of the rows that both have, in blocks: embeddings, or else ``pooled``."""
    shared = [n for n in ("embedding", "pooled") if n in a.field_dims() and n in b.field_dims()]
    if not shared:
        fields = [", ".join(cache.field_dims()) for cache in (a, b)]
        return None, f"one has {fields[0]}, the other {fields[1]}"
    field = shared[0]
    dims = [cache.field_dims()[field] for cache in (a, b)]
    if dims[0] != dims[1]:
        what = "embeddings have" if field == "embedding" else f"{field} has"
        return None, f"{what} {dims[0]} and {dims[1]} dimensions"
    in_a, in_b = joined.shared
    both = np.isin(in_a, a.rows()) & np.isin(in_b, b.rows())
    in_a, in_b = in_a[both], in_b[both]
    if not len(in_a):
        return None, "no row has features in both"
    parts = [
        cosines(a.row_features(in_a[part], field)[:, 0], b.row_features(in_b[part], field)[:, 0])
        for part in (slice(i, i + _BLOCK) for i in range(0, len(in_a), _BLOCK))
    ]
    return _moved(a, in_a, np.concatenate(parts)), ""


def _moved(a: Cache, rows: np.ndarray, values: np.ndarray) -> FeatureMovement:
    """Summarise cosines of rows of A by class and group."""
    labels = a.manifest.rows["label"].to_numpy()[rows]
    known, size = labels >= 0, len(a.classes)
    counts = np.bincount(labels[known], minlength=size)
    means = np.bincount(labels[known], values[known], size) / np.maximum(counts, 1)
    classes = {int(label): float(means[label]) for label in np.flatnonzero(counts)}
    scheme = GroupScheme.from_dict(a.manifest.groups)
    training = a.manifest.class_counts("train")
    of_row = np.where(known, scheme.assign(training)[labels], "")
    groups = {
        name: float(values[of_row == name].mean())
        for name in ("many", "medium", "few")
        if (of_row == name).any()
    }
    worst = int(np.argmin(values))
    return FeatureMovement(
        rows=len(rows),
        mean=float(values.mean()),
        minimum=float(values[worst]),
        worst=str(a.manifest.rows["key"][int(rows[worst])].as_py()),
        classes=dict(sorted(classes.items(), key=lambda pair: pair[1])),
        groups=groups,
        scheme=scheme.describe(training),
    )
