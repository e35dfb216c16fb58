"""The file forms of tables, each read into columns that know their lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ltcache.errors import ManifestError
from ltcache.manifest.columns import TableColumns
from ltcache.manifest.long_texts import text_array, whole_texts
from ltcache.manifest.roots.parquet import class_names, image_column, open_parquet
from ltcache.manifest.text import parse_json, read_cells, read_lines
from ltcache.records import JsonObject


def _read_csv(path: Path) -> TableColumns:
    found = read_cells(path, "\t" if path.suffix.lower() == ".tsv" else ",")
    header = _header(path, found[0][1] if found else [])
    for line, row in found:
        if len(row) != len(header):
            raise ManifestError(f"{path} line {line}: {len(row)} fields, expected {len(header)}")
    cells = list(zip(*(row for _, row in found[1:]), strict=True)) or [()] * len(header)
    arrays = [text_array(list(column)) for column in cells]
    values = dict(zip(header, arrays, strict=True))
    return TableColumns(values, [line for line, _ in found[1:]], spelled=header)


def _header(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Return column names in lower case -> as they are spelled; refuses repeated ones."""
    plain = [name.strip().lower() for name in names]
    if len(set(plain)) < len(plain):
        repeated = next(name for name in plain if plain.count(name) > 1)
        raise ManifestError(f"{path}: the column {repeated!r} is given twice")
    return {name: spelled.strip() for name, spelled in zip(plain, names, strict=True)}


def _read_jsonl(path: Path) -> TableColumns:
    records: list[JsonObject] = []
    lines: list[int] = []
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            record = parse_json(line, f"{path} line {number}")
            if not isinstance(record, dict):
                raise ManifestError(f"{path} line {number}: not a JSON object")
            records.append(record)
            lines.append(number)
    original = list(dict.fromkeys(name for record in records for name in record))
    header = _header(path, original)
    arrays = [json_array(str(path), [record.get(name) for record in records]) for name in original]
    return TableColumns(dict(zip(header, arrays, strict=True)), lines, spelled=header)


def json_array(where: str, values: list[Any]) -> pa.Array:
    """Return JSON values as a column; mixed ones as texts."""
    try:
        try:
            return pa.array(values)
        except (pa.ArrowException, OverflowError):
            texts = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
            return text_array(texts)
    except UnicodeEncodeError as error:
        raise ManifestError(
            f"{where}: holds a text that is not Unicode: {error.object!r}"
        ) from None


def _read_parquet(path: Path) -> TableColumns:
    """Read all columns but that of the images: they may be gigabytes."""
    file = open_parquet(path)
    try:
        images = image_column(file.schema_arrow)
        names = [name for name in file.schema_arrow.names if name != images]
        table = file.read(columns=names)
        header = _header(path, table.column_names)
        arrays = [whole_texts(column) for column in table.columns]
        named = {n.lower(): found for n in names if (found := class_names(file.schema_arrow, n))}
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(f"{path}: cannot be read as Parquet: {error}") from None
    finally:
        file.close()
    lines = range(1, file.metadata.num_rows + 1)
    return TableColumns(dict(zip(header, arrays, strict=True)), lines, named, header)


TABLE_FORMS: dict[str, Callable[[Path], TableColumns]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".parquet": _read_parquet,
    ".pq": _read_parquet,
}
"""Suffix -> what reads such a table into columns."""
