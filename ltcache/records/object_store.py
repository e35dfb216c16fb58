"""A folder of an object store, such as ``s3://bucket/cache``, or of a web server, through fsspec.

An object appears whole or not at all, and an upload that is interrupted leaves nothing under its
name: that is the stores' own promise. What several processes must agree on is *created*, by a put
that the store refuses where the name is taken (``If-None-Match: *``), so that the first one wins.
Only S3 and fsspec's own memory are known here to keep that promise; elsewhere files are only read.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ltcache.errors import CacheError, UsageError
from ltcache.extras import how_to_install
from ltcache.records.identity import READ_BLOCK

T = TypeVar("T")
_WRITTEN = ("s3", "s3a", "memory")
_CONFLICT_TRIES = 20  # S3 answers 409 while another put to the same name is under way


class ObjectStore:
    """The files below an address.

    Args:
        address: such as ``s3://bucket/cache`` or ``https://host/cache``.

    Raises:
        UsageError: fsspec does not know the protocol, or the library for it is not installed.
    """

    def __init__(self, address: str) -> None:
        import fsspec

        self.address = address.rstrip("/")
        protocol = address.partition("://")[0].lower()
        listings = {} if protocol in ("http", "https") else {"use_listings_cache": False}
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.address, **listings)
        except ImportError as error:
            raise UsageError(f"{address}: {error}: {how_to_install('s3')}") from None
        except ValueError as error:
            raise UsageError(f"{address}: {error}") from None
        self.writable = protocol in _WRITTEN

    def __truediv__(self, name: str) -> str:
        """Return the address of a file, for messages."""
        return f"{self.address}/{name}"

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None where there is none."""
        return self._there(name, lambda: bytes(self._fs.cat_file(self._path(name))))

    def size(self, name: str) -> int | None:
        """Return the bytes of a file; None where there is none."""
        return self._there(name, lambda: int(self._fs.size(self._path(name))))

    def digest(self, name: str) -> str | None:
        """Return the SHA-256 of a file, which is read for it; None where there is none."""
        return self._there(name, lambda: self._digest(name))

    def fetch(self, name: str, path: Path) -> bool:
        """Write a file to a local path; returns False where there is none."""

        def get() -> bool:
            self._fs.get_file(self._path(name), str(path))
            return True

        return self._there(name, get) or False

    def names(self) -> list[str]:
        """Return the names of all files, sorted; none where nothing is there."""
        found = self._there("", lambda: list(self._fs.find(self._root))) or []
        return sorted(name[len(self._root.rstrip("/")) + 1 :] for name in found)

    @contextlib.contextmanager
    def receiving(self, name: str) -> Iterator[Path]:
        """Yield a local path to write to; on leaving, the file is created."""
        with tempfile.TemporaryDirectory(prefix="ltcache-") as folder:
            path = Path(folder, "file")
            yield path
            self.create(name, path)

    def create(self, name: str, data: bytes | Path) -> bool:
        """Create a file unless there is one, in one step even against other processes.

        Returns:
            Whether this call created it.
        """
        for _ in range(_CONFLICT_TRIES):
            try:
                self._put(name, data, "create")
                return True
            except FileExistsError:
                return False
            except Exception as error:  # every file system has errors of its own
                code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
                if code == "PreconditionFailed":
                    return False
                if code != "ConditionalRequestConflict":
                    raise self._failed(name, "written", error) from None
        raise CacheError(f"{self / name}: other processes write it all the time")

    def write(self, name: str, data: bytes | Path) -> None:
        """Write a file, in the place of one that is there."""
        try:
            self._put(name, data, "overwrite")
        except Exception as error:
            raise self._failed(name, "written", error) from None

    def move(self, name: str, to: str) -> None:
        """Give a file another name, in the place of a file there; nothing where there is none."""

        def move() -> None:
            self._fs.cp_file(self._path(name), self._path(to))
            self._fs.rm_file(self._path(name))

        self._there(name, move)

    def remove(self, name: str) -> None:
        """Remove a file that may be there."""
        self._there(name, lambda: self._fs.rm_file(self._path(name)))

    def require_writable(self) -> None:
        """Refuse a place in which two processes could not agree who was first.

        Raises:
            UsageError: another protocol, or a store that lets a name be created twice.
        """
        if not self.writable:
            raise UsageError(
                f"{self.address}: caches are written to folders of this machine and to s3:// "
                "addresses; write it to a folder and copy that with the storage's own tool"
            )
        probe = ".created-once"
        if self.create(probe, b""):
            twice = self.create(probe, b"")
            self.remove(probe)
            if twice:
                raise UsageError(
                    f"{self.address}: this store does not keep a name for the first who creates it "
                    "(If-None-Match: *), so that processes could replace each other's files; write "
                    "the cache to a folder and copy that with the storage's own tool"
                )

    def _put(self, name: str, data: bytes | Path, mode: str) -> None:
        if isinstance(data, Path):
            self._fs.put_file(str(data), self._path(name), mode=mode)
        else:
            self._fs.pipe_file(self._path(name), data, mode=mode)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _digest(self, name: str) -> str:
        sha = hashlib.sha256()
        with self._fs.open(self._path(name), "rb") as file:
            while block := file.read(READ_BLOCK):
                sha.update(block)
        return sha.hexdigest()

    def _there(self, name: str, call: Callable[[], T]) -> T | None:
        try:
            return call()
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._failed(name, "read", error) from None

    def _failed(self, name: str, what: str, error: Any) -> CacheError:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return CacheError(f"{self / name}: cannot be {what}: {reason}")
