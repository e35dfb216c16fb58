"""``import_features``: features from elsewhere become a cache that every later stage accepts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ltcache.cache import (
    EncoderState,
    Plan,
    PromptEmbeddings,
    claim_plan,
    commit_shard,
    finalise,
    open_cache,
    read_record,
)
from ltcache.cache.fingerprint import bytes_digest, digest, file_digest
from ltcache.cache.layout import index_path, remove_leftovers
from ltcache.cache.shards import stored
from ltcache.errors import UsageError
from ltcache.manifest import ClassList, Manifest, read_classes, read_manifest
from ltcache.transfer.arrays import Stack
from ltcache.transfer.exported import read_export
from ltcache.transfer.layouts import Found, Part, guess_layout, read_column, read_layout

CENTER = "center"
SHARD_SIZE = 1024
NONE = "none"
_UNLABELLED = ("", "None")  # how a list of class names says that a row has none


@dataclass(frozen=True)
class ImportReport:
    """What an import made.

    Args:
        path: of the cache.
        layout: that the source was read as.
        rows: split -> rows. failed: rows whose features are not finite or zero throughout.
        classes: C. fields: field -> dimension.
        prompts: names of the sets of class texts.
        restored: the encoder's identity is that of an export whose files are unchanged.
        notes: what was not taken over, and what to know.
    """

    path: Path
    layout: str
    rows: Mapping[str, int]
    failed: int
    classes: int
    fields: Mapping[str, int]
    prompts: tuple[str, ...]
    restored: bool
    notes: tuple[str, ...]

    @property
    def exit_status(self) -> int:
        """0, or 3 where some rows failed."""
        return 3 if self.failed else 0


@dataclass
class Content:
    """Everything that goes into a cache; n rows are n items.

    Args:
        manifest: of the n rows.
        stacks: field -> features, n rows each.
        encoder: what is known of the encoder.
        prompts: sets of class texts.
        errors: row -> why it failed already where it comes from.
        sources: columns ``sha256``, ``width`` and ``height`` of the images, where they are known.
    """

    manifest: Manifest
    stacks: Mapping[str, Stack]
    encoder: EncoderState
    prompts: list[PromptEmbeddings]
    errors: Mapping[int, str] = field(default_factory=dict)
    sources: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def import_features(
    source: str | Path,
    out: str | Path,
    *,
    layout: str = "auto",
    name: str | None = None,
    feature_field: str = "embedding",
    split: str = "train",
    labels: str | Path | np.ndarray | None = None,
    splits: str | Path | Sequence[str] | None = None,
    classes: str | Path | Sequence[str] | None = None,
    text: str | Path | np.ndarray | None = None,
    manifest: str | Path | Manifest | None = None,
    encoder_of: str | Path | None = None,
    logit_scale: float | None = None,
    shard_size: int = SHARD_SIZE,
) -> ImportReport:
    """Write features from elsewhere as a cache; float16, float32 where a value does not fit.

    The encoder's identity is the name and the SHA-256 of the files that hold the features, so a
    run on one import refuses another one: import all splits at once, or say by ``encoder_of`` that
    they come from the same encoder. What ``ltcache export`` wrote and nobody changed gets its own
    identity back. An interrupted import goes on where it stopped.

    Args:
        source: a file or folder, see :mod:`ltcache.transfer.layouts`.
        out: the cache's directory.
        layout: ``arrays``, ``clip-retrieval``, ``tip-adapter``, ``ltcache``; ``auto`` looks.
        name: what to call the encoder.
        feature_field: ``embedding`` (the space of the class texts) or ``pooled`` (before the
            projection): what the source's features are.
        split: of rows for which nothing says it.
        labels: one for each row in order: numbers, or class names. -1 = unlabelled.
        splits: one for each row. classes: names in label order, or a file of them.
        text: class embeddings (C, D) or (C, M, D), or a file of them.
        manifest: a list of the rows in the same order, in place of labels, splits and classes.
        encoder_of: a cache whose encoder made these features: its identity is taken, on your word.
        logit_scale: of zero-shot logits (CLIP: 100).

    Raises:
        UsageError: unreadable, or rows, labels, classes and texts that do not fit each other.
        IdentityError: ``out`` holds something else (status 4).
    """
    source, out = Path(source), Path(out)
    if feature_field not in ("embedding", "pooled"):
        raise UsageError(f"field {feature_field!r} is neither embedding nor pooled")
    if shard_size < 1:
        raise UsageError(f"the shard size must be at least 1, not {shard_size}")
    check_place(out)
    kind = guess_layout(source) if layout == "auto" else layout
    notes: list[str] = []
    if kind == "ltcache":
        exported = read_export(source)
        content = Content(
            exported.manifest, exported.stacks, exported.encoder, exported.prompts,
            exported.errors, exported.sources,
        )  # fmt: skip
        if not exported.unchanged:
            notes.append("files were changed since the export: the features get a new identity")
            content.encoder = _state(
                exported.stacks, _digest_files(exported.files), name or source.name, {}, None
            )  # its texts belong to the old identity
            content.prompts = []
    else:
        found = read_layout(source, kind)
        _override(found, labels, splits, classes, text)
        _rename_field(found, feature_field)
        notes += found.notes
        stacks = _stacks(found)
        rows = _manifest(found, manifest, name or source.stem, split)
        content = _content(found, stacks, rows, name or source.stem, logit_scale)
    if encoder_of is not None:
        content = _on_your_word(content, encoder_of)
    written = write_cache(out, content, shard_size)
    counts = Counter(written["split"].to_pylist())
    return ImportReport(
        path=out,
        layout=kind,
        rows={name: counts[name] for name in content.manifest.splits},
        failed=written["status"].to_pylist().count("failed"),
        classes=content.manifest.num_classes,
        fields={name: stack.dim for name, stack in content.stacks.items()},
        prompts=tuple(prompts.name for prompts in content.prompts),
        restored=kind == "ltcache" and not notes,
        notes=tuple(notes),
    )


def check_place(out: Path) -> None:
    """Refuse a place that holds something else than a cache."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: choose another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / "plans").is_dir():
        raise UsageError(f"{out} is not empty and not a cache: choose another --out")


def write_cache(out: Path, content: Content, shard_size: int) -> pa.Table:
    """Write a cache, or go on with one; returns its rows with the columns of extraction."""
    plan = Plan(
        encoder=content.encoder.identity,
        numerics=content.encoder.numerics,
        manifest=content.manifest.identity(),
        views=(CENTER,),
        fields={name: stack.dim for name, stack in content.stacks.items()},
        items=len(content.manifest),
        shard_size=shard_size,
        micro_batch=shard_size,
        images=_values_digest(content.stacks),
    )
    claim_plan(out, plan)
    if index_path(out).exists():
        return open_cache(out).manifest.rows
    remove_leftovers(out)
    for shard in plan.shards:
        if read_record(out, CENTER, shard) is None:
            _write_shard(out, shard, plan.item_range(shard), content)
    items = np.arange(plan.items, dtype=np.int64)
    return finalise(out, [plan], content.manifest, items, content.encoder, content.prompts)


def _values_digest(stacks: Mapping[str, Stack], block: int = 4096) -> str:
    """Return a digest of the features as they will be stored: an import of others is another."""
    parts = [
        [name, start, bytes_digest(np.ascontiguousarray(stored(rows)).data.cast("B"))]
        for name, stack in sorted(stacks.items())
        for start in range(0, len(stack), block)
        if (rows := stack.block(start, min(start + block, len(stack)))).size
    ]
    return digest(parts)


def _write_shard(out: Path, shard: int, items: range, content: Content) -> None:
    features = {name: s.block(items.start, items.stop) for name, s in content.stacks.items()}
    errors = {row - items.start: content.errors[row] for row in items if row in content.errors}
    for values in features.values():
        for text, bad in (
            ("the imported features are not finite", ~np.isfinite(values).all(axis=(1, 2))),
            ("the imported features are zero", (values == 0).all(axis=2).any(axis=1)),
        ):
            for row in np.flatnonzero(bad).tolist():
                errors.setdefault(row, text)
    for values in features.values():
        values[list(errors)] = np.nan
    blank: dict[str, Any] = {"sha256": "", "width": 0, "height": 0}
    columns = {
        name: list(content.sources[name][items.start : items.stop])
        if name in content.sources
        else [empty] * len(items)
        for name, empty in blank.items()
    }
    commit_shard(
        out, CENTER, shard, features,
        first=items.start, count=len(items), micro_batch=len(items), content=columns["sha256"],
        width=columns["width"], height=columns["height"], errors=errors,
    )  # fmt: skip


def _override(
    found: Found,
    labels: str | Path | np.ndarray | None,
    splits: str | Path | Sequence[str] | None,
    classes: str | Path | Sequence[str] | None,
    text: str | Path | np.ndarray | None,
) -> None:
    """Put what was named beside the source in place of what the source says."""
    for what, value in (("labels", labels), ("splits", splits)):
        if value is None:
            continue
        column = read_column(Path(value), what) if isinstance(value, (str, Path)) else value
        _spread(found.parts, what, np.asarray(column))
    if isinstance(classes, (str, Path)):
        found.classes = list(read_classes(Path(classes)).names)
    elif classes is not None:
        found.classes = list(classes)
    if text is not None:
        array = read_column(Path(text), "text") if isinstance(text, (str, Path)) else text
        found.text = np.asarray(array, dtype=np.float32)


def _spread(parts: Sequence[Part], what: str, column: np.ndarray) -> None:
    """Give each part its share of a column over all rows."""
    rows = sum(_length(part) for part in parts)
    if len(column) != rows:
        raise UsageError(f"{len(column)} {what} for {rows} rows of features")
    start = 0
    for part in parts:
        setattr(part, what, column[start : start + _length(part)])
        start += _length(part)


def _length(part: Part) -> int:
    return len(next(iter(part.fields.values())))


def _rename_field(found: Found, feature_field: str) -> None:
    for part in found.parts:
        if feature_field == "pooled" and "pooled" not in part.fields:
            part.fields = {"pooled": part.fields["embedding"]}


def _stacks(found: Found) -> dict[str, Stack]:
    names = set(found.parts[0].fields)
    for part in found.parts:
        if set(part.fields) != names:
            raise UsageError(f"not every split has the same fields: {sorted(names)}, then "
                             f"{sorted(part.fields)}")  # fmt: skip
    stacks = {
        name: Stack([part.fields[name] for part in found.parts], name) for name in sorted(names)
    }
    if len({(len(stack), stack.crops) for stack in stacks.values()}) != 1:
        raise UsageError("embedding and pooled have different numbers of rows or crops")
    if not len(next(iter(stacks.values()))):
        raise UsageError("there are no rows of features")
    return stacks


def _manifest(
    found: Found, manifest: str | Path | Manifest | None, name: str, split: str
) -> Manifest:
    rows = sum(_length(part) for part in found.parts)
    if manifest is not None:
        listed = manifest if isinstance(manifest, Manifest) else read_manifest(manifest)
        if len(listed) != rows:
            raise UsageError(f"the manifest lists {len(listed)} rows for {rows} rows of features")
        return listed
    split_of = np.concatenate([_splits_of(part, split) for part in found.parts])
    labels, classes = _labels(found)
    keys = [key for part in found.parts for key in _keys_of(part)]
    if not all(keys) or len(set(keys)) != rows:
        keys = [f"{of}/{row:08d}" for row, of in enumerate(split_of.tolist())]
    table = pa.table(
        {
            "row_id": pa.array(np.arange(rows), pa.int64()),
            "key": pa.array(keys, pa.string()),
            "uri": pa.array(keys, pa.string()),
            "label": pa.array(labels, pa.int64()),
            "split": pa.array(split_of.tolist(), pa.string()),
        }
    )
    return Manifest(name, table, classes, templates=(), card={"title": f"imported {name}"})


def _splits_of(part: Part, split: str) -> np.ndarray:
    if part.splits is not None:
        if len(part.splits) != _length(part):
            raise UsageError(f"{len(part.splits)} splits for {_length(part)} rows of features")
        return np.asarray(part.splits, dtype=object)
    return np.full(_length(part), part.split or split, dtype=object)


def _keys_of(part: Part) -> list[str]:
    if part.keys is None or len(part.keys) != _length(part):
        return [""] * _length(part)
    return [str(key) for key in part.keys.tolist()]


def _labels(found: Found) -> tuple[np.ndarray, ClassList]:
    """Return labels, int64 (n,), and the class list they count into."""
    columns = []
    for part in found.parts:
        column = np.full(_length(part), -1) if part.labels is None else np.asarray(part.labels)
        if column.ndim == 2:
            column = _from_one_hot(column)
        if column.shape != (_length(part),):
            raise UsageError(f"labels {column.shape} for {_length(part)} rows of features")
        columns.append(column)
    named = any(column.dtype.kind in "OUS" for column in columns)
    names = found.classes
    if named and names is None:
        named_by = {str(v) for c in columns if c.dtype.kind in "OUS" for v in c.tolist()}
        names = sorted(named_by - set(_UNLABELLED))
    labels = np.concatenate([_numbered(column, names) for column in columns])
    most = int(labels.max(initial=-1)) + 1
    of_text = 0 if found.text is None else len(found.text)
    if names is None:
        names = [f"class {label}" for label in range(max(most, of_text))]
    if most > len(names) or labels.min() < -1 or (of_text and of_text != len(names)):
        raise UsageError(
            f"labels run from {labels.min()} to {most - 1}, but there are {len(names)} classes"
            + (f" and {of_text} class texts" if of_text else "")
        )
    return labels, ClassList(tuple(names), (None,) * len(names))


def _from_one_hot(column: np.ndarray) -> np.ndarray:
    """Return labels (n,) of one-hot rows (n, C), as Tip-Adapter's values, or of a column (n, 1)."""
    if column.shape[1] == 1:
        return column[:, 0]
    if column.dtype.kind in "OUS" or not np.array_equal((column == 1).sum(1), (column != 0).sum(1)):
        raise UsageError(f"labels {column.shape} are not one-hot")
    if not ((column != 0).sum(axis=1) == 1).all():
        raise UsageError(f"labels {column.shape} are not one-hot")
    return np.asarray(column.argmax(axis=1))


def _numbered(column: np.ndarray, names: Sequence[str] | None) -> np.ndarray:
    if column.dtype.kind not in "OUS":
        if column.dtype.kind == "f" and not (column == np.floor(column)).all():
            raise UsageError("labels are not whole numbers")
        return column.astype(np.int64)
    known = {name: label for label, name in enumerate(names or ())}
    if len(known) != len(names or ()):
        raise UsageError("labels are names, but two classes bear the same name: give numbers")
    known = dict.fromkeys(_UNLABELLED, -1) | known
    missing = sorted({str(value) for value in column.tolist()} - set(known))
    if missing:
        raise UsageError(f"label {missing[0]!r} is not in the class list")
    return np.array([known[str(value)] for value in column.tolist()], dtype=np.int64)


def _content(
    found: Found, stacks: dict[str, Stack], rows: Manifest, name: str, logit_scale: float | None
) -> Content:
    scale = logit_scale if logit_scale is not None else found.logit_scale
    tensors = {} if found.projection is None else {"projection": found.projection}
    if found.projection is not None and {"embedding", "pooled"} <= set(stacks):
        wanted = (stacks["pooled"].dim, stacks["embedding"].dim)
        if found.projection.shape != wanted:
            raise UsageError(f"the projection is {found.projection.shape}, not {wanted}")
    text = None if found.text is None else _sentences(found.text, rows, stacks)
    encoder = _state(stacks, _digest_files(found.files), name, tensors, scale, text)
    prompts = [] if text is None else [_prompts(text, rows, encoder.identity)]
    return Content(rows, stacks, encoder, prompts)


def _digest_files(files: Sequence[Path]) -> str:
    return digest(sorted([file.name, file_digest(file)] for file in files))


def _state(
    stacks: Mapping[str, Stack],
    files: str,
    name: str,
    tensors: Mapping[str, np.ndarray],
    logit_scale: float | None,
    text: np.ndarray | None = None,
) -> EncoderState:
    """Return what there is to say of an encoder that nobody can load."""
    identity = {
        "imported": {"name": name, "files": files},
        "architecture": {"name": f"imported {name}", "config": {"text": None}, "activation": None},
        "towers": {
            "image": files,
            "text": NONE if text is None else bytes_digest(text.data.cast("B")),
        },
        "tokenizer": None,
        "preprocessing": None,
        "dims": {field: stack.dim for field, stack in stacks.items()},
    }
    return EncoderState(
        identity=identity,
        numerics={"precision": "unknown", "device": "unknown"},
        provenance={"model": None, "pretrained": None, "activation": None, "imported": name},
        logit_scale=logit_scale,
        logit_bias=None,
        projection=tensors.get("projection"),
        projection_bias=None,
    )


def _sentences(text: np.ndarray, rows: Manifest, stacks: Mapping[str, Stack]) -> np.ndarray:
    """Return class texts as unit rows, float32 (C, M, D)."""
    text = text[:, None] if text.ndim == 2 else text
    dim = stacks["embedding"].dim if "embedding" in stacks else text.shape[-1]
    if text.ndim != 3 or len(text) != rows.num_classes or text.shape[2] != dim:
        raise UsageError(
            f"class texts {text.shape} do not fit {rows.num_classes} classes of {dim} dimensions"
        )
    norms = np.linalg.norm(text, axis=2, keepdims=True)
    if not np.isfinite(norms).all() or not norms.all():
        raise UsageError("class texts hold zero rows or values that are not finite")
    return np.ascontiguousarray(text / norms, dtype=np.float32)


def _prompts(text: np.ndarray, rows: Manifest, identity: Mapping[str, Any]) -> PromptEmbeddings:
    mean = text.mean(axis=1)
    return PromptEmbeddings(
        name="default",
        texts=[[f"(imported) {name}"] * text.shape[1] for name in rows.classes.names],
        sentences=text,
        count=np.full(len(text), text.shape[1], dtype=np.int64),
        mean=mean / np.linalg.norm(mean, axis=1, keepdims=True),
        identity={
            "text_tower": identity["towers"]["text"],
            "text_architecture": {"activation": None, "config": None},
            "tokenizer": identity["tokenizer"],
            "classes": digest(rows.classes.identity()),
            "sentences": bytes_digest(text.data.cast("B")),
        },
    )


def _on_your_word(content: Content, encoder_of: str | Path) -> Content:
    """Return the content with the encoder of another cache, whose dimensions must be the same."""
    other = open_cache(encoder_of)
    dims = {name: stack.dim for name, stack in content.stacks.items()}
    theirs = other.field_dims()
    if any(theirs.get(name) != dim for name, dim in dims.items()):
        raise UsageError(f"{encoder_of} has {theirs}, the imported features {dims}")
    encoder = EncoderState(
        identity=other.encoder,
        numerics=other.numerics,
        provenance=other.provenance,
        logit_scale=other.logit_scale,
        logit_bias=other.logit_bias,
        projection=other.projection,
        projection_bias=other.projection_bias,
    )
    prompts = [_prompts(p.sentences, content.manifest, other.encoder) for p in content.prompts]
    return Content(
        content.manifest, content.stacks, encoder, prompts, content.errors, content.sources
    )
