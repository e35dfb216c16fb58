"""Images inside archives and tables, each read where it lies: nothing is ever unpacked."""

from __future__ import annotations

import threading
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pyarrow as pa

from ltcache.errors import ImageError, ManifestError
from ltcache.images.decoding import stable_text
from ltcache.images.limits import check_size, safe_uri
from ltcache.manifest import (
    Place,
    Root,
    TarIndex,
    image_column,
    open_parquet,
    open_place,
    places_of,
    read_range,
    saved_image_column,
    saved_splits,
    tar_index,
    zip_index,
)

_GROUPS = 2  # row groups of a Parquet file that are kept: reading runs over a border


class ZipStore:
    """Images as members of one zip file; each thread holds a handle of its own."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._local = threading.local()
        members = zip_index(place).members
        self._renamed = {uri: name for uri, name in members.items() if uri != name}

    def read(self, uri: str) -> bytes:
        """See :class:`ltcache.images.ImageStore`."""
        name = str(safe_uri(uri))
        try:
            archive = self._archive()
            member = archive.getinfo(self._renamed.get(name, name))
            check_size(member.file_size)
            return archive.read(member)
        except KeyError:
            raise ImageError("No such member in the zip file") from None
        except ImageError:
            raise
        except Exception as error:  # zlib, lzma and zipfile raise errors of their own
            raise ImageError(stable_text(error)) from None

    def _archive(self) -> zipfile.ZipFile:
        archive: zipfile.ZipFile | None = getattr(self._local, "archive", None)
        if archive is None:
            source: Any = self.place if isinstance(self.place, Path) else open_place(self.place)
            archive = self._local.archive = zipfile.ZipFile(source)
        return archive


class TarStore:
    """Images as members of tar shards: ``SHARD/MEMBER``, or ``MEMBER`` where one shard has it."""

    def __init__(self, root: Root) -> None:
        self._shards = {place.name: tar_index(place) for place in places_of(root)}

    def read(self, uri: str) -> bytes:
        """See :class:`ltcache.images.ImageStore`."""
        shard, name = self._find(str(safe_uri(uri)))
        start, size = shard.members[name]
        check_size(size)
        return read_range(shard.place, shard.stamp, start, size)

    def _find(self, uri: str) -> tuple[TarIndex, str]:
        first, _, rest = uri.partition("/")
        if first in self._shards and rest in self._shards[first].members:
            return self._shards[first], rest
        having = [shard for shard in self._shards.values() if uri in shard.members]
        if len(having) == 1:
            return having[0], uri
        if having:
            raise ImageError(f"{len(having)} shards have such a member; name it as SHARD/MEMBER")
        raise ImageError("No such member in the tar file")


class ParquetStore:
    """Images in a column of Parquet files: ``FILE/ROW``; two row groups are kept."""

    def __init__(self, root: Root) -> None:
        self._files = {place.name: _ParquetImages(place) for place in places_of(root)}

    def read(self, uri: str) -> bytes:
        """See :class:`ltcache.images.ImageStore`."""
        name, row = _row(uri)
        if name not in self._files:
            raise ImageError("No such table")
        return self._files[name].read(row)


class _ParquetImages:
    """One Parquet file and the row groups of it that were read last."""

    def __init__(self, place: Place) -> None:
        self.place = place
        with open_parquet(place) as file:
            column = image_column(file.schema_arrow)
            metadata = file.metadata
        if column is None:
            raise ManifestError(f"{place}: no column of images (binary, or struct with bytes)")
        self._column = column
        self._ends: list[int] = []
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            self._ends.append(rows + (self._ends[-1] if self._ends else 0))
        self._lock = threading.Lock()
        self._groups: OrderedDict[int, pa.ChunkedArray] = OrderedDict()

    def read(self, row: int) -> bytes:
        """Return the bytes of one row."""
        group = next((g for g, end in enumerate(self._ends) if row < end), None)
        if group is None:
            raise ImageError("No such row in the table")
        start = self._ends[group - 1] if group else 0
        with self._lock:
            values = self._group(group)
        return _bytes(values[row - start])

    def _group(self, group: int) -> pa.ChunkedArray:
        if group not in self._groups:
            try:
                with open_parquet(self.place) as file:
                    table = file.read_row_group(group, columns=[self._column])
            except (pa.ArrowException, OSError, ManifestError) as error:
                raise ImageError(stable_text(error)) from None
            self._groups[group] = table[self._column]
        self._groups.move_to_end(group)
        while len(self._groups) > _GROUPS:
            self._groups.popitem(last=False)
        return self._groups[group]


class SavedStore:
    """Images in a dataset that Hugging Face's ``datasets`` saved: ``SPLIT/ROW``."""

    def __init__(self, path: Path) -> None:
        self._splits = {
            name: part.select_columns([saved_image_column(path, part)])
            for name, part in saved_splits(path).items()
        }

    def read(self, uri: str) -> bytes:
        """See :class:`ltcache.images.ImageStore`."""
        split, row = _row(uri)
        if split not in self._splits:
            raise ImageError("No such split in the dataset")
        dataset = self._splits[split]
        if row >= len(dataset):
            raise ImageError("No such row in the dataset")
        try:
            (values,) = dataset[row].columns
        except Exception as error:  # Arrow's errors, according to what is damaged
            raise ImageError(stable_text(error)) from None
        return _bytes(values[0])


def _row(uri: str) -> tuple[str, int]:
    """Return table and row of ``TABLE/12``."""
    table, _, number = uri.rpartition("/")
    if not number.isdecimal() or not number.isascii() or len(number) > 15:
        raise ImageError("not the name of a row: TABLE/NUMBER")
    return table, int(number)


def _bytes(value: pa.Scalar) -> bytes:
    """Return the bytes of one image; a path in their place is not followed."""
    if isinstance(value, pa.StructScalar):
        value = value.get("bytes") if value.is_valid else None
    if value is None or not value.is_valid:
        raise ImageError("the row holds no image bytes; save the data with its images embedded")
    data = value.as_buffer()
    check_size(data.size)
    return bytes(data.to_pybytes())
