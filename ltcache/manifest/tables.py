"""CSV, TSV, JSON Lines and Parquet lists with a path column and, mostly, a label column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ltcache.errors import ManifestError
from ltcache.manifest.class_columns import read_class_columns
from ltcache.manifest.classes import ClassList
from ltcache.manifest.columns import TableColumns, text_column
from ltcache.manifest.draft import ManifestRequest, SourceDraft
from ltcache.manifest.image_files import is_image
from ltcache.manifest.labels import RowLabels, read_labels
from ltcache.manifest.lists import folder_of_lists, names_beside
from ltcache.manifest.long_texts import mapped_texts, numbered_texts
from ltcache.manifest.manifest import COLUMNS
from ltcache.manifest.names import read_classes
from ltcache.manifest.roots.parquet import image_column, open_parquet
from ltcache.manifest.roots.places import Root, one_root
from ltcache.manifest.rows import Listing
from ltcache.manifest.splits import canonical_split, split_in
from ltcache.manifest.table_forms import TABLE_FORMS
from ltcache.manifest.text import some

PATH_COLUMNS = ("path", "uri", "image", "filepath", "file_name", "filename")
LABEL_COLUMNS = ("label", "class", "target")
TAKEN = (*COLUMNS.names, "item", "sha256", "width", "height", "status", "error")
"""Columns that a manifest has or a cache adds; those of a user are called ``user_NAME``."""


def read_tables(paths: Sequence[Path], request: ManifestRequest) -> SourceDraft:
    """Return the rows of one or several tables of one dataset.

    Raises:
        ManifestError: a table cannot be parsed, has no path column, or mixes kinds of labels.
    """
    listings = [read_table(path, request) for path in paths]
    dataset = next((name for path in paths if (name := split_in(path.stem)[1])), "")
    folder = paths[0].resolve().parent
    classes = _classes(paths, dataset, request)
    warnings = []
    for path, listing in zip(paths, listings, strict=True):
        if isinstance(listing.split, str) and split_in(path.stem)[0] is None:
            warnings.append(
                f"{path.name}: neither a column nor its name tells the split; "
                f"its rows are taken as {listing.split!r}"
            )
        if moved := [name for name in listing.extra if name.removeprefix("user_") in TAKEN]:
            warnings.append(f"{path.name}: columns carried along under new names: {some(moved)}")
    return SourceDraft(
        dataset or folder.name,
        listings,
        _root(paths, request),
        classes,
        warnings=tuple(warnings),
    )


def _root(paths: Sequence[Path], request: ManifestRequest) -> Root:
    """Return the tables themselves where they hold the images, else the folder of the first."""
    inside = [images_inside(path) for path in paths]
    if all(inside):
        return one_root(paths)
    if any(inside):
        raise ManifestError(f"{some(paths)}: some hold the images themselves, some only paths")
    return folder_of_lists(paths, request)


def read_table(path: Path, request: ManifestRequest, *, split: str | None = None) -> Listing:
    """Return the rows of one table.

    Args:
        split: the split of its rows; by default its column, else what the file's name tells,
            else train (pool without labels).
    """
    columns = TABLE_FORMS[path.suffix.lower()](path)
    values = dict(columns.values)
    if images_inside(path):
        uris = numbered_texts(f"{path.name}/", len(columns.lines))
        return known_rows(str(path), columns, values, uris, request, split=split)
    uri = _pick(values, PATH_COLUMNS)
    if uri is None:
        found = some(map(repr, columns.values), 12) or "no columns at all"
        raise ManifestError(
            f"{path}: no column of paths ({', '.join(PATH_COLUMNS)}) among {found}"
            f"{_without_header(columns)}"
        )
    uris = text_column(str(path), columns, uri, values.pop(uri))
    return known_rows(str(path), columns, values, uris, request, split=split)


def _without_header(columns: TableColumns) -> str:
    """Return the remedy where the names of columns are those of images: the first row."""
    if not any(map(is_image, columns.values)):
        return ""
    return "; its first line seems to be a row: write the names of columns above it, path,label"


def known_rows(
    where: str,
    columns: TableColumns,
    values: dict[str, pa.Array],
    uris: pa.Array,
    request: ManifestRequest,
    *,
    split: str | None = None,
) -> Listing:
    """Return rows of a table whose uris are known.

    Args:
        where: the file, for messages; its name may tell the split.
        values: the columns besides that of the uris, n values each. uris: n texts.

    Raises:
        ManifestError: a column of labels, splits or keys that is none, or several that could be
            that of the labels; or several classes of one row.
    """
    label = _label_column(where, columns, values, request)
    labels = RowLabels(np.full(len(uris), -1, dtype=np.int64))
    if label is not None:
        column = values.pop(label)
        if request.labelled is not False:
            labels = read_labels(where, label, column)
    hot = None
    if label is None and request.labelled is not False:
        hot = read_class_columns(where, columns, values)
    if hot is not None:
        values = {name: column for name, column in values.items() if name not in hot.columns}
        note = f"{where}: the classes are the columns of 0 and 1: {some(hot.names, 12)}"
        labels = RowLabels(list(hot.labels), (note,))
    unlabelled = label is None and hot is None
    told = split or split_in(Path(where).stem)[0] or ("pool" if unlabelled else "train")
    splits: str | pa.Array = told
    if split is None and "split" in values:
        texts = text_column(where, columns, "split", values["split"], numbers=True)
        splits = mapped_texts(texts, canonical_split)
    values.pop("split", None)
    keys = None
    if "key" in values:
        keys = text_column(where, columns, "key", values.pop("key"), numbers=True)
    notes = labels.notes
    if unlabelled and values and request.labelled is None:
        notes = (
            f"{where}: no column of labels ({', '.join(LABEL_COLUMNS)}) among {some(values, 12)}: "
            "its rows are unlabelled; --label-column names another column",
        )
    return Listing(
        where,
        uris,
        labels.values,
        splits,
        columns.lines,
        keys,
        renamed(values),
        class_names=hot.names if hot else columns.class_names.get(label or ""),
        notes=notes,
    )


def _label_column(
    where: str, columns: TableColumns, values: Mapping[str, pa.Array], request: ManifestRequest
) -> str | None:
    """Return the column of labels: the one asked for, else a usual name, else the only ClassLabel.

    Raises:
        ManifestError: the one asked for is not there, or several would do.
    """
    if request.label_column is not None:
        name = request.label_column.strip().lower()
        if name not in values:
            raise ManifestError(
                f"{where}: no column {request.label_column!r} to take labels from among "
                f"{some(values, 12) or 'no columns'}; correct --label-column"
            )
        return name
    usual = _pick(values, LABEL_COLUMNS)
    found = [name for name in values if name in columns.class_names]
    if usual is not None or request.labelled is False or not found:
        return usual
    if len(found) > 1:
        raise ManifestError(
            f"{where}: {len(found)} columns hold class labels ({some(found, 12)}); choose one "
            "with --label-column"
        )
    return found[0]


def renamed(values: Mapping[str, pa.Array]) -> dict[str, pa.Array]:
    """Return user columns with those that a manifest or a cache needs as ``user_NAME``."""
    return {f"user_{name}" if name in TAKEN else name: v for name, v in values.items()}


def images_inside(path: Path) -> bool:
    """Return whether a table is a Parquet file that holds the images themselves."""
    if TABLE_FORMS[path.suffix.lower()] is not TABLE_FORMS[".parquet"]:
        return False
    with open_parquet(path) as file:
        return image_column(file.schema_arrow) is not None


def has_path_column(path: Path) -> bool:
    """Return whether a table can be a list; a broken one counts, so that it is complained about."""
    try:
        columns = TABLE_FORMS[path.suffix.lower()](path).values
    except ManifestError:
        return True
    return _pick(columns, PATH_COLUMNS) is not None or images_inside(path)


def _classes(paths: Sequence[Path], dataset: str, request: ManifestRequest) -> ClassList | None:
    """Return the class list given or lying beside, or None."""
    if isinstance(request.classes, ClassList):
        return request.classes
    path = request.classes or (None if request.labelled is False else names_beside(paths[0]))
    return None if path is None else read_classes(path, dataset=dataset)


def _pick(columns: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in columns), None)
