"""CSV, TSV, JSON Lines and Parquet lists with a path column and, mostly, a label column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.errors import ManifestError
from ltcache.manifest.classes import NAME_NORMALISER, ClassList
from ltcache.manifest.derive import derived_classes
from ltcache.manifest.draft import Draft, Request
from ltcache.manifest.lists import names_beside
from ltcache.manifest.names import read_classes
from ltcache.manifest.parquet import class_names, image_column, open_parquet
from ltcache.manifest.roots import Root, one_root
from ltcache.manifest.rows import Listing
from ltcache.manifest.splits import canonical_split, split_in
from ltcache.manifest.table_forms import FORMS, Columns
from ltcache.manifest.text import some

PATH_COLUMNS = ("path", "uri", "image", "filepath", "file_name", "filename")
LABEL_COLUMNS = ("label", "class", "target")
RESERVED = ("row_id", "item", "sha256", "width", "height", "status", "error")
"""Columns that a cache adds; a user column of this name is carried along as ``user_NAME``."""

TABLE_SUFFIXES = tuple(FORMS)
_WHOLE = r"^-?[0-9]{1,18}$"
_WHOLE_AS_FLOAT = r"^(-?[0-9]{1,18})\.0*$"


def read_tables(paths: Sequence[Path], request: Request) -> Draft:
    """Return the rows of one or several tables of one dataset.

    Raises:
        ManifestError: a table cannot be parsed, has no path column, or mixes kinds of labels.
    """
    listings = [read_table(path, labelled=request.labelled) for path in paths]
    dataset = next((name for path in paths if (name := split_in(path.stem)[1])), "")
    folder = paths[0].resolve().parent
    classes, card = _classes(paths, dataset, listings, request)
    warnings = []
    for path, listing in zip(paths, listings, strict=True):
        if isinstance(listing.split, str) and split_in(path.stem)[0] is None:
            warnings.append(
                f"{path.name}: neither a column nor its name tells the split; "
                f"its rows are taken as {listing.split!r}"
            )
        if moved := [name for name in listing.extra if name.removeprefix("user_") in RESERVED]:
            warnings.append(f"{path.name}: columns carried along under new names: {some(moved)}")
    return Draft(
        dataset or folder.name,
        listings,
        _root(paths),
        classes,
        card=card,
        warnings=tuple(warnings),
    )


def _root(paths: Sequence[Path]) -> Root:
    """Return the tables themselves where they hold the images, else the folder of the first."""
    inside = [images_inside(path) for path in paths]
    if all(inside):
        return one_root(paths)
    if any(inside):
        raise ManifestError(f"{some(paths)}: some hold the images themselves, some only paths")
    return paths[0].parent


def read_table(path: Path, *, split: str | None = None, labelled: bool | None = None) -> Listing:
    """Return the rows of one table.

    Args:
        split: the split of its rows; by default its column, else what the file's name tells,
            else train (pool without labels).
    """
    columns = FORMS[path.suffix.lower()](path)
    values = dict(columns.values)
    if images_inside(path):
        uris = [f"{path.name}/{row}" for row in range(len(columns.lines))]
        return rows_of(str(path), columns, values, uris, split=split, labelled=labelled)
    uri = _pick(values, PATH_COLUMNS)
    if uri is None:
        raise ManifestError(
            f"{path}: no column of paths ({', '.join(PATH_COLUMNS)}) among "
            f"{some(columns.values, 12) or 'no columns at all'}"
        )
    uris = _texts(str(path), columns, uri, values.pop(uri))
    return rows_of(str(path), columns, values, uris, split=split, labelled=labelled)


def rows_of(
    where: str,
    columns: Columns,
    values: dict[str, pa.Array],
    uris: list[str],
    *,
    split: str | None = None,
    labelled: bool | None = None,
) -> Listing:
    """Return rows of a table whose uris are known.

    Args:
        where: the file, for messages; its name may tell the split.
        values: the columns besides that of the uris, n values each.
    """
    label = _pick(values, LABEL_COLUMNS)
    labels: np.ndarray | list[str | None] = np.full(len(uris), -1, dtype=np.int64)
    if label is not None and labelled is not False:
        labels = labels_of(where, columns, label, values[label])
    if label is not None:
        del values[label]
    told = split or split_in(Path(where).stem)[0] or ("pool" if label is None else "train")
    splits: str | list[str] = told
    if split is None and "split" in values:
        texts = _texts(where, columns, "split", values["split"])
        splits = [canonical_split(text) for text in texts]
    values.pop("split", None)
    keys = _texts(where, columns, "key", values.pop("key")) if "key" in values else None
    return Listing(where, uris, labels, splits, columns.lines, keys, renamed(values))


def renamed(values: Mapping[str, pa.Array]) -> dict[str, pa.Array]:
    """Return user columns with those that a manifest or a cache needs as ``user_NAME``."""
    return {f"user_{name}" if name in RESERVED else name: v for name, v in values.items()}


def images_inside(path: Path) -> bool:
    """Return whether a table is a Parquet file that holds the images themselves."""
    if FORMS[path.suffix.lower()] is not FORMS[".parquet"]:
        return False
    with open_parquet(path) as file:
        return image_column(file.schema_arrow) is not None


def has_path_column(path: Path) -> bool:
    """Return whether a table can be a list; a broken one counts, so that it is complained about."""
    try:
        columns = FORMS[path.suffix.lower()](path).values
    except ManifestError:
        return True
    return _pick(columns, PATH_COLUMNS) is not None or images_inside(path)


def _classes(
    paths: Sequence[Path], dataset: str, listings: Sequence[Listing], request: Request
) -> tuple[ClassList | None, dict[str, Any]]:
    """Return the class list given or lying beside; else one derived from numbers, else None."""
    if isinstance(request.classes, ClassList):
        return request.classes, {}
    path = request.classes or (None if request.labelled is False else names_beside(paths[0]))
    if path is not None:
        return read_classes(path, dataset=dataset), {}
    if names := _names_inside(paths[0]):
        return ClassList.from_raw(names), {"class_names": NAME_NORMALISER}
    if all(isinstance(listing.labels, np.ndarray) for listing in listings):
        return derived_classes(listings)
    return None, {}


def _names_inside(path: Path) -> list[str] | None:
    """Return the class names in the metadata of a Parquet file from Hugging Face, or None."""
    if FORMS[path.suffix.lower()] is not FORMS[".parquet"]:
        return None
    with open_parquet(path) as file:
        label = next((name for name in LABEL_COLUMNS if name in file.schema_arrow.names), "")
        return class_names(file.schema_arrow, label)


def _pick(columns: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in columns), None)


def _texts(where: str, columns: Columns, name: str, values: pa.Array) -> list[str]:
    """Return a column of texts without empty ones."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        if len(values) == 0:
            return []
        if values.null_count < len(values):
            raise ManifestError(f"{where}: the column {name!r} holds {values.type}, not text")
        values = values.cast(pa.string())
    empty = pc.fill_null(pc.equal(values, ""), True)
    if (row := pc.index(empty, True).as_py()) >= 0:
        raise ManifestError(f"{where} line {columns.lines[row]}: the column {name!r} is empty")
    return values.to_pylist()


def labels_of(
    where: str, columns: Columns, name: str, values: pa.Array
) -> np.ndarray | list[str | None]:
    """Return int64 labels (empty = -1), or class names where not all are whole numbers."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _text_labels(values.cast(pa.string()))
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if not numeric and not pa.types.is_null(kind):
        raise ManifestError(f"{where}: the column {name!r} holds {kind}, not labels")
    if pa.types.is_floating(kind):
        values = pc.if_else(pc.is_nan(values), None, values)
    try:
        return np.array(pc.fill_null(values.cast(pa.int64()), -1).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid as error:
        raise ManifestError(f"{where}: the column {name!r} is no label column: {error}") from None


def _text_labels(values: pa.Array) -> np.ndarray | list[str | None]:
    values = pc.utf8_trim_whitespace(values)
    values = pc.if_else(pc.equal(values, ""), None, values)
    numbers = pc.replace_substring_regex(values, _WHOLE_AS_FLOAT, r"\1")
    if not pc.all(pc.fill_null(pc.match_substring_regex(numbers, _WHOLE), True)).as_py():
        return values.to_pylist()
    return np.array(pc.fill_null(numbers.cast(pa.int64()), -1).to_numpy(zero_copy_only=False))
