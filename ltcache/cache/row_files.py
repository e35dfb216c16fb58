"""The rows of a cache's manifest on disk: one Parquet file, or several where they are many.

Parquet keeps what it knows of a file's pieces in memory until the file is closed, and some file
systems hand out single files of tens of gigabytes slowly or not at all. A list of up to eight
million rows is one file, as it always was; a longer one is several, in the order of its rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ltcache.errors import CacheError
from ltcache.manifest import with_room
from ltcache.records import committed, file_digest

_FILE = 1 << 23  # rows of one file
_ROW_GROUP = 1 << 13  # rows whose columns Parquet holds twice while it writes them
_BLOCK = 1 << 17  # rows in memory at a time


def row_files(index: Mapping[str, Any]) -> list[str]:
    """Return the names of the files that hold the rows, in order."""
    named = index["manifest"]
    return [named] if isinstance(named, str) else list(named)


def write_rows(cache: Path, blocks: Iterable[pa.Table]) -> list[str]:
    """Write rows under names that say their content; returns these.

    Args:
        blocks: at least one table; of no more than one are the rows held here.
    """
    files = groupby(_pieces(blocks), key=itemgetter(0))
    return [_write_file(cache, (piece for _, piece in pieces)) for _, pieces in files]


def _pieces(blocks: Iterable[pa.Table]) -> Iterator[tuple[int, pa.Table]]:
    """Yield the number of a file and rows that go there."""
    start = 0
    for block in blocks:
        end = start + block.num_rows
        if start and start == end:
            continue
        cuts = [start, *range((start // _FILE + 1) * _FILE, end, _FILE), end]
        for first, stop in pairwise(cuts):
            yield first // _FILE, block.slice(first - start, stop - first)
        start = end


def _write_file(cache: Path, pieces: Iterable[pa.Table]) -> str:
    names = []

    def named(path: Path) -> Path:
        names.append(f"manifest-{file_digest(path)[:8]}.parquet")
        return cache / names[0]

    with committed(cache / "manifest.parquet", named) as temporary, ExitStack() as stack:
        writer = None
        for piece in pieces:
            writer = writer or stack.enter_context(pq.ParquetWriter(temporary, piece.schema))
            writer.write_table(piece, row_group_size=_ROW_GROUP)
    return names[0]


def read_rows(
    paths: Sequence[Path], names: Sequence[str] = (), coded: Sequence[str] = ()
) -> pa.Table:
    """Return columns (all by default) of all rows.

    Args:
        coded: columns as dictionaries: of few texts, ten million are read in 0.1 s.

    Raises:
        CacheError: a file has no such column, or is damaged.
    """
    parts = []
    for path in paths:
        with _opened(path, coded, ahead=True) as file:
            parts.append(file.read(list(names) or None))
            parts[-1].validate(full=True)
        _require_columns(path, names, parts[-1].column_names)
    rows = _joined(paths, parts)
    return pa.table([with_room(column) for column in rows.columns], names=rows.column_names)


def read_blocks(paths: Sequence[Path], names: Sequence[str]) -> Iterator[pa.Table]:
    """Yield columns of the rows, a bounded number of rows at a time.

    Raises:
        CacheError: as :func:`read_rows` does.
    """
    for path in paths:
        with _opened(path) as file:
            _require_columns(path, names, file.schema_arrow.names)
            for batch in file.iter_batches(_BLOCK, columns=list(names)):
                batch.validate(full=True)
                yield pa.Table.from_batches([batch])


def count_rows(paths: Sequence[Path]) -> int:
    """Return how many rows files hold; raises :class:`CacheError` of a damaged one."""
    count = 0
    for path in paths:
        with _opened(path) as file:
            count += int(file.metadata.num_rows)
    return count


def column_names(path: Path) -> list[str]:
    """Return the columns of a file; raises :class:`CacheError` of a damaged one."""
    with _opened(path) as file:
        names: list[str] = file.schema_arrow.names
    return names


@contextmanager
def _opened(
    path: Path, coded: Sequence[str] = (), *, ahead: bool = False
) -> Iterator[pq.ParquetFile]:
    """Yield a file; ``ahead``: its columns are read into memory before they are asked for."""
    try:
        # read_table would import pandas
        with pq.ParquetFile(path, read_dictionary=list(coded), pre_buffer=ahead) as file:
            yield file
    except (OSError, ValueError, pa.ArrowException) as error:
        raise CacheError(f"{path}: cannot be read ({error})") from None


def _joined(paths: Sequence[Path], parts: Sequence[pa.Table]) -> pa.Table:
    try:
        return pa.concat_tables(parts)
    except pa.ArrowException as error:
        names = f"{paths[0]} to {paths[-1].name}"
        raise CacheError(f"{names}: their columns differ: damaged ({error})") from None


def _require_columns(path: Path, names: Collection[str], there: Collection[str]) -> None:
    if missing := set(names) - set(there):
        raise CacheError(f"{path}: no column {min(missing)!r}: damaged")
