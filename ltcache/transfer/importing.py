"""``import_features``: features from elsewhere become a cache that every later stage accepts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ltcache.cache import EncoderState, PromptEmbeddings, open_cache
from ltcache.errors import ManifestError, UsageError
from ltcache.manifest import Manifest
from ltcache.records import (
    PlaceKind,
    bytes_digest,
    digest,
    file_digest,
    one_line,
    require_local,
    require_replaceable,
)
from ltcache.transfer.arrays import StackedArrays
from ltcache.transfer.exported import read_export
from ltcache.transfer.layouts import ImportedFeatures, guess_layout, read_layout
from ltcache.transfer.rows import NamedBeside, manifest_of, put_named, rename_field, stacks_of
from ltcache.transfer.writing import ImportedContent, write_cache

SHARD_SIZE = 1024
NONE = "none"


@one_line
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
        labels: one for each row in order: whole numbers (also as text; -1 = unlabelled), or class
            names (also as bytes), which are sorted naturally where no ``classes`` are given. None,
            NaN and an empty text are no label; names beside ``text`` need ``classes``.
        splits: one for each row; ``valid``, ``training_set``... are known, numbers are names.
        classes: names in label order, or a file of them.
        text: class embeddings (C, D) or (C, M, D), or a file of them.
        manifest: a list of the rows in the same order, in place of labels, splits and classes.
        encoder_of: a cache whose encoder made these features: its identity is taken, on your word.
        logit_scale: of zero-shot logits (CLIP: 100).

    Raises:
        UsageError: unreadable, or rows, labels, classes and texts that do not fit each other.
        ManifestError: a label that is none of the classes, a split that cannot be one, or a list
            of rows or classes that breaks a rule.
        IdentityError: ``out`` holds something else (status 4).
    """
    source, out = require_local(source), require_local(out)
    if feature_field not in ("embedding", "pooled"):
        raise UsageError(f"field {feature_field!r} is neither embedding nor pooled")
    if encoder_of is not None and (name is not None or logit_scale is not None):
        raise UsageError("name and logit_scale have no effect beside encoder_of, which has its own")
    if shard_size < 1:
        raise UsageError(f"the shard size must be at least 1, not {shard_size}")
    require_replaceable(out, PlaceKind.CACHE)
    kind = guess_layout(source) if layout == "auto" else layout
    notes: list[str] = []
    with _naming(source):
        named = NamedBeside(labels, splits, classes, text, manifest, split)
        content = _read(source, kind, notes, name or source.stem, feature_field, named, logit_scale)
        if encoder_of is not None:
            content = _on_your_word(content, encoder_of)
    written = write_cache(out, content, shard_size)
    rows = written.table("split", "status")
    counts = pc.value_counts(rows["split"])
    rows_in = dict(zip(*(counts.field(i).to_pylist() for i in (0, 1)), strict=True))
    return ImportReport(
        path=out,
        layout=kind,
        rows={name: rows_in[name] for name in content.manifest.splits},
        failed=int(pc.sum(pc.equal(rows["status"], "failed")).as_py() or 0),
        classes=content.manifest.num_classes,
        fields={name: stack.dim for name, stack in content.stacks.items()},
        prompts=tuple(prompts.name for prompts in content.prompts),
        restored=kind == "ltcache" and not notes,
        notes=tuple(notes),
    )


@contextmanager
def _naming(source: Path) -> Iterator[None]:
    """Let every refusal name the source."""
    try:
        yield
    except (UsageError, ManifestError) as error:
        if source.name in str(error):
            raise
        raise type(error)(f"{source}: {error}") from None


def _read(
    source: Path,
    kind: str,
    notes: list[str],
    name: str,
    feature_field: str,
    named: NamedBeside,
    logit_scale: float | None,
) -> ImportedContent:
    """Return what a source holds, with what the caller said in place of it; adds to ``notes``."""
    if kind == "ltcache":
        exported = read_export(source)
        content = ImportedContent(
            exported.manifest, exported.stacks, exported.encoder, exported.prompts,
            exported.errors, exported.sources,
        )  # fmt: skip
        if not exported.unchanged:
            notes.append("files were changed since the export: the features get a new identity")
            content.encoder = _state(
                exported.stacks, _digest_files(exported.files), name, {}, None
            )  # its texts belong to the old identity
            content.prompts = []
        return content
    found = read_layout(source, kind)
    put_named(found, named)
    rename_field(found, feature_field)
    notes += found.notes
    stacks = stacks_of(found)
    rows = manifest_of(found, named.manifest, name, named.split)
    notes += rows.warnings
    return _content(found, stacks, rows, name, logit_scale)


def _content(
    found: ImportedFeatures,
    stacks: dict[str, StackedArrays],
    rows: Manifest,
    name: str,
    logit_scale: float | None,
) -> ImportedContent:
    scale = logit_scale if logit_scale is not None else found.logit_scale
    tensors = {} if found.projection is None else {"projection": found.projection}
    if found.projection is not None and {"embedding", "pooled"} <= set(stacks):
        wanted = (stacks["pooled"].dim, stacks["embedding"].dim)
        if found.projection.shape != wanted:
            raise UsageError(f"the projection is {found.projection.shape}, not {wanted}")
    text = None if found.text is None else _sentences(found.text, rows, stacks)
    encoder = _state(stacks, _digest_files(found.files), name, tensors, scale, text)
    prompts = [] if text is None else [_prompts(text, rows, encoder.identity)]
    return ImportedContent(rows, stacks, encoder, prompts)


def _digest_files(files: Sequence[Path]) -> str:
    return digest(sorted([file.name, file_digest(file)] for file in files))


def _state(
    stacks: Mapping[str, StackedArrays],
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


def _sentences(text: np.ndarray, rows: Manifest, stacks: Mapping[str, StackedArrays]) -> np.ndarray:
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


def _on_your_word(content: ImportedContent, encoder_of: str | Path) -> ImportedContent:
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
    return ImportedContent(
        content.manifest, content.stacks, encoder, prompts, content.errors, content.sources
    )
