"""Where the members of many archives lie, as one Arrow file that the processes of a machine map.

A dictionary takes two hundred bytes a member in every process; of forty million members, eight
gigabytes. The file lies in the machine's temporary folder as long as the process lives that wrote
it. Its name says which archives it is of, as they are now, and the SHA-256 of its content, which
whoever maps it compares.
"""

from __future__ import annotations

import atexit
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from ltcache.manifest.long_texts import text_array
from ltcache.records import at_work, committed, file_digest, private_folder, wait_for_others

MANY = 1 << 17
"""Members from which on they are mapped."""

Spans = Mapping[str, tuple[int, int]]
"""Uri -> (offset, size) in bytes, in the archive's order."""

_SCHEMA = pa.schema(
    [
        ("uri", pa.large_string()),
        ("start", pa.int64()),
        ("size", pa.int64()),
        ("repeated", pa.bool_()),
        ("hash", pa.uint64()),  # ascending
        ("place", pa.int64()),  # of the member with this hash
    ]
)


class _TooFew(Exception):
    """Members that a process holds without harm."""


class MappedMembers(Spans):
    """The members of one archive, looked up by the hashes of their uris.

    Args:
        batch: of the file, whose columns stay where they are.
    """

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._uris = batch.column("uri")
        numbers = (batch.column(name).to_numpy() for name in ("start", "size", "hash", "place"))
        self._start, self._size, self._hash, self._place = numbers
        self.repeated = tuple(self._uris.filter(batch.column("repeated")).to_pylist())

    def __len__(self) -> int:
        """The number of members."""
        return len(self._uris)

    def __iter__(self) -> Iterator[str]:
        """Yield the uris in the archive's order."""
        for uri in self._uris:
            yield uri.as_py()

    def __getitem__(self, uri: str) -> tuple[int, int]:
        """Return offset and size of a member."""
        wanted = _hash(uri)
        position = int(np.searchsorted(self._hash, wanted))
        while position < len(self._hash) and self._hash[position] == wanted:
            place = int(self._place[position])
            if self._uris[place].as_py() == uri:
                return int(self._start[place]), int(self._size[place])
            position += 1
        raise KeyError(uri)


def mapped_members(
    key: str, archives: Iterable[tuple[Spans, Iterable[str]]]
) -> list[MappedMembers] | None:
    """Return the members of archives from the file of this machine, which is written if need be.

    Args:
        key: says which archives they are, and of what time.
        archives: members of each, and the uris that come more than once.

    Returns:
        None where they are few, where there is no room for the file, or where it has gone.
    """
    folder = private_folder()
    if folder is None:
        return None
    name = folder / f"tars-{key[:32]}.arrow"
    wait_for_others(name, lambda: _written(name) is not None)
    if (file := _written(name)) is None:
        with at_work(name):
            file = _write(name, archives)
    return None if file is None else _map(file)


def _written(name: Path) -> Path | None:
    """Return the file of a name where there is a whole one; a damaged one is removed."""
    for path in sorted(name.parent.glob(f"{name.stem}-*{name.suffix}")):
        with suppress(FileNotFoundError):  # whoever wrote it has ended
            if path == _with_digest(name, path):
                return path
            path.unlink()
    return None


def _with_digest(name: Path, content: Path) -> Path:
    return name.with_name(f"{name.stem}-{file_digest(content)[:32]}{name.suffix}")


def _write(name: Path, archives: Iterable[tuple[Spans, Iterable[str]]]) -> Path | None:
    written: list[Path] = []

    def named(path: Path) -> Path:
        written.append(_with_digest(name, path))
        return written[0]

    count = 0
    try:
        with committed(name, named) as temporary, pa.ipc.new_file(temporary, _SCHEMA) as writer:
            for members, repeated in archives:
                count += len(members)
                writer.write_batch(_batch(members, set(repeated)))
            if count < MANY:
                raise _TooFew
    except (_TooFew, OSError):
        return None
    atexit.register(written[0].unlink, missing_ok=True)
    return written[0]


def _batch(members: Spans, repeated: set[str]) -> pa.RecordBatch:
    uris = list(members)
    spans = np.array(list(members.values()), np.int64).reshape(-1, 2)
    hashes = np.array([_hash(uri) for uri in uris], np.uint64)
    order = np.argsort(hashes, kind="stable")
    columns = {
        "uri": text_array(uris).cast(pa.large_string()),
        "start": spans[:, 0],
        "size": spans[:, 1],
        "repeated": [uri in repeated for uri in uris],
        "hash": hashes[order],
        "place": order,
    }
    return pa.record_batch(columns, schema=_SCHEMA)


def _map(file: Path) -> list[MappedMembers] | None:
    """Return the members in a file; None where whoever wrote it has ended and taken it away."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(file)))
    except FileNotFoundError:
        return None
    return [MappedMembers(reader.get_batch(k)) for k in range(reader.num_record_batches)]


def _hash(uri: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(uri.encode(), digest_size=8).digest(), "big"))
