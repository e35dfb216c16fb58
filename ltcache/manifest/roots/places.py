"""Paths, addresses of fsspec and patterns of shards: what a person writes for a root."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from ltcache.errors import ManifestError
from ltcache.manifest.image_files import HEAD_BYTES
from ltcache.manifest.text import some

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")  # Path() makes one / of two
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]{1,9})\.\.([0-9]{1,9})")
_MOST_SHARDS = 1_000_000


@dataclass(frozen=True)
class RemotePlace:
    """A file or folder behind an address of fsspec, such as ``s3://bucket/photos``.

    Raises:
        ManifestError: on first use, where fsspec does not know the protocol or lacks a library.
    """

    uri: str

    def __str__(self) -> str:
        """The address."""
        return self.uri

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.uri.rstrip("/").rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The suffix of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> RemotePlace:
        """The folder that holds it."""
        return RemotePlace(self.uri.rstrip("/").rpartition("/")[0])

    @cached_property
    def _place(self) -> tuple[Any, str]:
        import fsspec

        try:
            return fsspec.core.url_to_fs(self.uri)
        except (ImportError, ValueError, OSError) as error:
            raise ManifestError(f"{self.uri}: cannot be reached: {error}") from None

    def __truediv__(self, uri: str) -> RemotePlace:
        """What lies at ``uri`` below it."""
        return RemotePlace(f"{self.uri.rstrip('/')}/{uri}")

    def exists(self) -> bool:
        """Return whether there is such a file or folder."""
        fs, path = self._place
        return bool(self._try(fs.exists, path))

    def is_dir(self) -> bool:
        """Return whether it is a folder."""
        fs, path = self._place
        return bool(self._try(fs.isdir, path))

    def files(self) -> list[str]:
        """Return the paths of all files below it, sorted."""
        fs, path = self._place
        start = len(path.rstrip("/")) + 1
        return sorted(name[start:] for name in self._try(fs.find, path))

    def heads(self, names: Sequence[str]) -> list[bytes]:
        """Return the first bytes of files below it, asked for together; none where that fails."""
        fs, _ = self._place
        paths = [(self / name)._place[1] for name in names]
        count = len(paths)
        found = self._try(fs.cat_ranges, paths, [0] * count, [HEAD_BYTES] * count, None, "return")
        return [head if isinstance(head, bytes) else b"" for head in found]

    def names(self) -> list[str]:
        """Return the names of the files directly in it, sorted."""
        fs, path = self._place
        found = self._try(fs.ls, path, True)
        return sorted(
            e["name"].rstrip("/").rpartition("/")[2] for e in found if e["type"] == "file"
        )

    def size(self) -> int:
        """Return the size of the file in bytes."""
        fs, path = self._place
        return int(self._try(fs.size, path))

    def open(self) -> BinaryIO:
        """Open the file for reading."""
        fs, path = self._place
        return self._try(fs.open, path, "rb")

    def read(self, start: int | None = None, stop: int | None = None) -> bytes:
        """Return the bytes of the file from ``start`` to ``stop``; OSError if that fails."""
        fs, path = self._place
        return bytes(fs.cat_file(path, start, stop))

    def _try(self, call: Any, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except Exception as error:  # every file system has errors of its own
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ManifestError(f"{self.uri}: cannot be read: {reason}") from None


@dataclass(frozen=True)
class ShardedRoot:
    """Several archives or tables that are one root, in order; their names differ.

    Raises:
        ManifestError: two of them bear one name.
    """

    places: tuple[Path | RemotePlace, ...]

    def __post_init__(self) -> None:
        names = [place.name for place in self.places]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ManifestError(f"several files are called {some(twice)}: uris begin with the name")

    def __str__(self) -> str:
        """The first few."""
        return some(self.places, 3)

    def exists(self) -> bool:
        """Return whether all of them are there."""
        return all(place.exists() for place in self.places)

    def is_dir(self) -> bool:
        """Return False: shards are files."""
        return False


Place = Path | RemotePlace
Root = Path | RemotePlace | ShardedRoot


def as_root(value: str | Path | RemotePlace | ShardedRoot) -> Root:
    """Return what a person's words for a root mean: a path, an address or a pattern of shards.

    Raises:
        ManifestError: a pattern with an endless or reversed range.
    """
    if isinstance(value, (RemotePlace, ShardedRoot)):
        return value
    text = os.fspath(value)
    if "\0" in text:
        raise ManifestError(f"{text!r} is not a path")
    address = _ADDRESS.match(text)
    if not address and "{" not in text:
        return Path(value)
    if _there(Path(text)):
        return Path(text)
    places = [_place(part) for part in expand_braces(text)]
    return one_root(places)


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _place(text: str) -> Place:
    address = _ADDRESS.match(text)
    if not address:
        return Path(text)
    protocol, rest = address.group(1).lower(), text[address.end() :]
    if protocol in ("file", "local"):
        return Path("/" + rest)
    return RemotePlace(text if "://" in text else f"{protocol}://{rest}")


def expand_braces(pattern: str) -> list[str]:
    """Return the texts of a pattern: ``{000..002}`` counts, ``{a,b}`` lists; several multiply.

    Raises:
        ManifestError: a range that runs backwards, or more than a million texts.
    """
    parts: list[Sequence[str]] = []
    position = 0
    total = 1
    for brace in _BRACES.finditer(pattern):
        choices = _choices(pattern, brace.group(1))
        parts += [[pattern[position : brace.start()]], choices]
        position = brace.end()
        total *= len(choices)
        if total > _MOST_SHARDS:
            raise ManifestError(f"{pattern}: names more than {_MOST_SHARDS} files")
    parts.append([pattern[position:]])
    return ["".join(chosen) for chosen in itertools.product(*parts)]


def _choices(pattern: str, inner: str) -> Sequence[str]:
    numbers = _RANGE.fullmatch(inner)
    if not numbers:
        return inner.split(",") if "," in inner else [f"{{{inner}}}"]
    first, last = int(numbers.group(1)), int(numbers.group(2))
    if last < first or last - first >= _MOST_SHARDS:
        raise ManifestError(f"{pattern}: the range {{{inner}}} runs backwards or is too long")
    width = len(numbers.group(1))
    return [f"{number:0{width}d}" for number in range(first, last + 1)]


def places_of(root: Root) -> tuple[Place, ...]:
    """Return the files of a root in order."""
    return root.places if isinstance(root, ShardedRoot) else (root,)


def root_name(root: Root) -> str:
    """Return a short name for messages: of a folder its last part, of files their stem."""
    if isinstance(root, Path) and root.is_dir():
        return root.resolve().name
    return places_of(root)[0].stem


def one_root(places: Sequence[Place]) -> Root:
    """Return a file or several as one root."""
    return places[0] if len(places) == 1 else ShardedRoot(tuple(places))


def open_place(place: Place) -> BinaryIO:
    """Open a file for reading.

    Raises:
        ManifestError: names the file.
    """
    if isinstance(place, RemotePlace):
        return place.open()
    try:
        return open(place, "rb")
    except OSError as error:
        raise ManifestError(f"{place}: cannot be read: {error.strerror}") from None


def stamp(place: Place) -> tuple[int, int]:
    """Return size in bytes and time of change (0 where it is remote) of a file.

    Raises:
        ManifestError: names the file.
    """
    if isinstance(place, RemotePlace):
        return place.size(), 0
    try:
        status = place.stat()
    except OSError as error:
        raise ManifestError(f"{place}: cannot be read: {error.strerror}") from None
    return status.st_size, status.st_mtime_ns
