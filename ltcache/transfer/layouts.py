"""How features lie on disk, by whoever wrote them, read into one value.

- ``arrays``: one file or a folder of files. Names say what an array is (``features``, ``labels``,
  ``text_features``...), alone or with a split (``train_features``, ``features_test``, ``val.npy``).
- ``clip-retrieval``: ``img_emb/img_emb_N.npy`` with ``metadata/metadata_N.parquet``
  (rom1504/clip-retrieval, ``clip_retrieval/clip_inference/writer.py``).
- ``tip-adapter``: ``keys_Kshots.pt`` (D, N), ``values_Kshots.pt`` (N, C), ``SPLIT_f.pt`` and
  ``SPLIT_l.pt`` (gaopengcuhk/Tip-Adapter, ``utils.py``).
- ``ltcache``: what ``ltcache export`` wrote, with everything that a cache knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ltcache.errors import UsageError
from ltcache.manifest import (
    SPLIT_WORDS,
    SPLITS,
    ClassList,
    known_split,
    read_lines,
    some,
    split_in,
)
from ltcache.records import one_line
from ltcache.transfer.arrays import SUFFIXES, read_arrays
from ltcache.transfer.columns import texts_of_array

_NAMES: Mapping[str, tuple[str, ...]] = {
    "features": (
        "features", "feature", "feats", "embeddings", "embedding", "image_features",
        "image_embeddings", "image_embeds", "img_emb", "x",
    ),
    "pooled": ("pooled",),
    "labels": ("labels", "label", "targets", "target", "y"),
    "keys": ("keys", "paths", "path", "filenames", "image_path"),
    "splits": ("splits", "split"),
    "classes": ("classes", "class_names", "classnames", "names"),
    "text": ("text", "text_features", "text_embeddings", "text_embeds", "class_embeddings"),
    "projection": ("projection",),
}  # fmt: skip
_MEANING = {name: meaning for meaning, names in _NAMES.items() for name in names}
_TIP_SCALE = 100.0  # Tip-Adapter's logits are 100 times the cosine


@one_line
@dataclass
class ImportedSplit:
    """Rows of one split.

    Args:
        split: its name, or None where the source does not say.
        fields: field -> (n, D) or (n, v, D).
        labels: (n,) numbers or class names (also as bytes), or (n, C) one-hot; None: unlabelled.
        keys: a name for each row, or None.
        splits: the split of each row, where one array mixes them.
    """

    split: str | None
    fields: dict[str, np.ndarray] = field(default_factory=dict)
    labels: np.ndarray | None = None
    keys: np.ndarray | None = None
    splits: np.ndarray | None = None


@one_line
@dataclass
class ImportedFeatures:
    """What a source holds.

    Args:
        parts: in the order of the rows.
        files: that the features came from; their digest becomes the encoder's identity.
        classes: in label order, or None.
        text: (C, D) or (C, M, D) embeddings of the classes, or None.
        projection: (P, D) from pooled to embedding, or None.
        logit_scale: of the zero-shot logits, or None.
        notes: what was not taken over.
    """

    parts: list[ImportedSplit]
    files: list[Path]
    classes: ClassList | None = None
    text: np.ndarray | None = None
    projection: np.ndarray | None = None
    logit_scale: float | None = None
    notes: list[str] = field(default_factory=list)


def guess_layout(path: Path) -> str:
    """Return the layout that the files of a source look like."""
    if (path / "export.json").is_file():
        return "ltcache"
    if (path / "img_emb").is_dir():
        return "clip-retrieval"
    if path.is_dir() and any(path.glob("keys_*shots.pt")):
        return "tip-adapter"
    return "arrays"


def read_layout(path: Path, layout: str) -> ImportedFeatures:
    """Read a source of one of :data:`LAYOUTS`.

    Raises:
        UsageError: no such layout, or the files are not of it.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"unknown layout {layout!r}; known: {', '.join(LAYOUTS)}, ltcache")
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    return LAYOUTS[layout](path)


def read_named_arrays(path: Path) -> ImportedFeatures:
    """Read one file, or all files of a folder, whose arrays are named by what they are."""
    files = sorted(f for f in path.iterdir() if _is_array_file(f)) if path.is_dir() else [path]
    if not files:
        raise UsageError(f"{path}: no {', '.join(SUFFIXES)} in this folder")
    lone = len(files) == 1
    parts: dict[str | None, ImportedSplit] = {}
    found = ImportedFeatures([], [])
    placed: dict[tuple[str | None, str], tuple[str, str]] = {}
    for file in files:
        arrays = read_arrays(file)
        if lone and len(arrays) == 1:
            arrays = {_feature_name(name): array for name, array in arrays.items()}
        for name, array in arrays.items():
            split, meaning = _meaning(name, folder=not lone)
            if meaning is None:
                found.notes.append(f"{file.name}: {name!r} was not taken over")
                continue
            if meaning in ("features", "pooled") and file not in found.files:
                found.files.append(file)
            first = placed.setdefault((split, meaning), (file.name, name))
            if first != (file.name, name):
                raise UsageError(
                    f"{path}: {first[1]!r} in {first[0]} and {name!r} in {file.name} are both the "
                    f"{meaning}{f' of {split}' if split else ''}; move one away"
                )
            _place(found, parts, split, meaning, array)
    found.parts = [parts[split] for split in _in_order(parts) if parts[split].fields]
    if not found.parts:
        known = ", ".join(_NAMES["features"])
        raise UsageError(f"{path}: no array is named as features are ({known})")
    _require_features(path, parts, placed)
    return found


def _require_features(
    path: Path,
    parts: Mapping[str | None, ImportedSplit],
    placed: Mapping[tuple[str | None, str], tuple[str, str]],
) -> None:
    """Refuse labels, keys or splits of rows whose features are not there, but others are."""
    for (split, meaning), (file, name) in placed.items():
        if meaning in ("labels", "keys", "splits") and not parts[split].fields:
            there = ", ".join(
                f"of {of}" if of else "of no split" for of in parts if parts[of].fields
            )
            raise UsageError(
                f"{path}: {name!r} in {file} is the {meaning} of {split or 'no split'}, and there "
                f"are features {there} alone; name both alike, such as train_features and "
                "train_labels, or move it away"
            )


def _is_array_file(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _feature_name(name: str) -> str:
    """A single array is features, whatever it is called."""
    split, meaning = _meaning(name, folder=True)
    if meaning is not None:
        return name
    return "features" if split is None else f"{split}_features"


def _meaning(name: str, *, folder: bool) -> tuple[str | None, str | None]:
    """Return the split that an array's name says, and what the array is; None: not said."""
    lowered = name.lower()
    if lowered in _MEANING:
        return None, _MEANING[lowered]
    split, rest = split_in(lowered.replace("/", "."))
    if split is None:  # trainX
        begun = max((word for word in SPLIT_WORDS if lowered.startswith(word)), key=len, default="")
        split, rest = SPLIT_WORDS.get(begun), lowered.removeprefix(begun)
        if rest not in _MEANING:
            return None, None
    if folder and known_split(lowered):
        return split, "features"
    return split, _MEANING.get(rest.removeprefix("set_").removesuffix("_set"))


def _place(
    found: ImportedFeatures,
    parts: dict[str | None, ImportedSplit],
    split: str | None,
    meaning: str,
    array: np.ndarray,
) -> None:
    if meaning in ("text", "projection"):
        setattr(found, meaning, np.asarray(array, dtype=np.float32))
    elif meaning == "classes":
        found.classes = ClassList(tuple(texts_of_array("classes", array)))
    else:
        part = parts.setdefault(split, ImportedSplit(split))
        if meaning in ("features", "pooled"):
            part.fields["embedding" if meaning == "features" else "pooled"] = array
        else:
            setattr(part, meaning, array)


def _in_order(parts: Mapping[str | None, ImportedSplit]) -> list[str | None]:
    return sorted(parts, key=lambda split: SPLITS.index(split) if split in SPLITS else -1)


def read_clip_retrieval(path: Path) -> ImportedFeatures:
    """Read the folder of ``clip-retrieval inference``: image embeddings with their metadata."""
    import pyarrow.parquet as pq

    files = sorted((path / "img_emb").glob("*.npy"), key=_number)
    if not files:
        raise UsageError(f"{path}: no img_emb/*.npy")
    found = ImportedFeatures([], files)
    lacking = []
    for file in files:
        part = ImportedSplit(None, {"embedding": next(iter(read_arrays(file).values()))})
        table = path / "metadata" / f"metadata_{_digits(file)}.parquet"
        if not table.is_file():
            lacking.append(table.name)
        else:
            columns = set(pq.read_schema(table).names)
            rows = pq.read_table(table, columns=sorted(columns & {"image_path", "label", "split"}))
            for column, name in (("image_path", "keys"), ("label", "labels"), ("split", "splits")):
                if column in rows.column_names:
                    setattr(part, name, rows[column].to_numpy(zero_copy_only=False))
        found.parts.append(part)
    if lacking:
        found.notes.append(f"metadata lacks {some(lacking)}: those rows have no names and labels")
    if any((path / "text_emb").glob("*.npy")):
        found.notes.append("text_emb holds captions of images, not class texts: not taken over")
    return found


def _digits(path: Path) -> str:
    """Return the number in a file's name as it is written: of ten parts or more it is ``07``."""
    digits = re.findall(r"\d+", path.stem)
    return digits[-1] if digits else "0"


def _number(path: Path) -> int:
    return int(_digits(path))


def read_tip_adapter(path: Path) -> ImportedFeatures:
    """Read a ``cache_dir`` of Tip-Adapter: keys and values are the training rows."""
    keys = sorted(path.glob("keys_*shots.pt"), key=_number)
    if len(keys) != 1:
        there = ", ".join(file.name for file in keys) or "none"
        raise UsageError(f"{path}: expected one keys_Kshots.pt, found {there}; move others away")
    values = path / keys[0].name.replace("keys", "values")
    found = ImportedFeatures([], [keys[0]], logit_scale=_TIP_SCALE)
    # (D, N) and (N, C): the keys are stored as the matrix that a product needs
    train = ImportedSplit("train", {"embedding": _only(keys[0]).T}, labels=_only(values))
    found.parts.append(train)
    for split in ("val", "test"):
        file = path / f"{split}_f.pt"
        if file.is_file():
            part = ImportedSplit(
                split, {"embedding": _only(file)}, labels=_only(path / f"{split}_l.pt")
            )
            found.parts.append(part)
            found.files.append(file)
    for name in ("text_weights.pt", "clip_weights.pt"):
        if (path / name).is_file():
            found.text = np.asarray(_only(path / name), dtype=np.float32).T  # (D, C)
    found.notes.append("training rows are means over augmented crops, of unit length")
    return found


def _only(path: Path) -> np.ndarray:
    if not path.is_file():
        raise UsageError(f"{path}: missing")
    arrays = read_arrays(path)
    if len(arrays) != 1:
        raise UsageError(f"{path}: expected one tensor, found {len(arrays)}")
    return next(iter(arrays.values()))


LAYOUTS: Mapping[str, Callable[[Path], ImportedFeatures]] = {
    "arrays": read_named_arrays,
    "clip-retrieval": read_clip_retrieval,
    "tip-adapter": read_tip_adapter,
}
"""Layout -> reader; ``ltcache`` is read by :mod:`ltcache.transfer.importing`."""


def read_column(path: Path, what: str) -> np.ndarray:
    """Return one value per row from a file: an array, or a text file with one value a line.

    Raises:
        UsageError: unreadable, or with more than one array in it.
        ManifestError: text that is not UTF-8.
    """
    if path.suffix.lower() in SUFFIXES:
        return _only(path)
    if not path.is_file():
        raise UsageError(f"{path}: the {what} cannot be read (no such file)")
    return np.array([line.strip() for line in read_lines(path)], dtype=object)
