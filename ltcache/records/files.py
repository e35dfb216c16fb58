"""How a file or a folder appears: whole or not at all, on this machine, readable as the umask says.

A file is written under a unique temporary name in its own directory, flushed to disk, renamed, and
the directory is flushed. A folder is filled under such a name, and all of it is flushed; then it is
renamed where nothing is in its place, else the two are exchanged in one step. A process that is
killed leaves the old or the new, whole, and at most a temporary one, which nobody reads and the
next writer in the same container removes.

Where system or file system cannot exchange two folders, the old one is renamed to
``.NAME.replaced`` and the new one takes its place. A kill between these two steps leaves nothing
under the name; :func:`mend`, which every reader and writer of folders calls first, then puts the
old one back.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ltcache.errors import UsageError

_TEMPORARY = re.compile(r"^\.(?P<name>.+)\.tmp-(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{8}$")
_ASIDE = re.compile(r"^\.(?P<name>.+)\.replaced$")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)(::[A-Za-z0-9+.-]+)*:/")  # Path() takes one / away
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


def require_local(place: str | Path) -> Path:
    """Return a place to write to or to read results from, which lies on this machine.

    Raises:
        UsageError: it is an address, such as ``s3://bucket/run`` or what :class:`Path` makes of it.
    """
    if address := address_of(place):
        raise UsageError(
            f"{address}: results are written to and read from folders of this machine only, not "
            f"{address.partition(':')[0]}:// addresses. Name a local folder; ltcache copy brings a "
            "cache to an address or here, and the storage's own tool anything else (a local folder "
            "of such a name: give its absolute path)"
        )
    return Path(place)


def address_of(place: str | Path) -> str | None:
    """Return the address that a place is, such as ``s3://bucket/cache``; None of a local path.

    :class:`Path` takes one of the two slashes away, which is put back.
    """
    text = os.fspath(place)
    found = _ADDRESS.match(text)
    return found and f"{text[: found.end() - 1]}//{text[found.end() :].lstrip('/')}"


@contextlib.contextmanager
def committed(path: Path, named: Callable[[Path], Path] | None = None) -> Iterator[Path]:
    """Yield a temporary path to write to; on leaving, flush it and rename it to ``path``.

    An exception inside removes the temporary file and leaves ``path`` as it was.

    Args:
        named: returns the path, in the same folder, for a file that is named by its content.
    """
    require_local(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_dead(path.parent, path.name)
    temporary = temporary_path(path)
    try:
        mode = _created(temporary)
        yield temporary
        _set_mode(temporary, mode)
        _flush(temporary)
        os.replace(temporary, named(temporary) if named else path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error  # name the file
        raise
    _flush(path.parent)


def write_whole(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds all of it or is as it was before."""
    with committed(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_whole(path, (text + "\n").encode())


def create_whole(path: Path, data: bytes) -> bool:
    """Write ``data`` unless ``path`` exists, in one step even against other processes.

    Returns:
        Whether this call created the file.
    """
    require_local(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        temporary.write_bytes(data)
        _flush(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            return _create_exclusively(path, data)
    finally:
        temporary.unlink(missing_ok=True)
    _flush(path.parent)
    return True


@contextlib.contextmanager
def whole_folder(out: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a folder to fill; on leaving it becomes ``out``, in the place of a folder there.

    An exception inside leaves ``out`` as it was. A link is followed: what it names is replaced.

    Args:
        replace: whether what is there may go; an empty folder may in any case.

    Raises:
        UsageError: something is there and may not be replaced, or the place is an address.
    """
    out = Path(os.path.realpath(require_local(out)))
    mend(out)
    if not replace:
        require_vacant(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_dead(out.parent, out.name)
    _discard(_aside(out))  # ``out`` is there, so its replacement was complete
    partial = temporary_path(out)
    try:
        partial.mkdir()
        yield partial
        _settle(partial)
        _publish(partial, out, replace)
        _flush(out.parent)
    finally:
        _discard(partial)  # after an exchange: the old folder


def result_folder(place: str | Path) -> Path:
    """Return a folder of results to be read or replaced, mended where a writer was killed.

    Raises:
        UsageError: the place is an address.
    """
    folder = require_local(place)
    mend(folder)
    return folder


def require_vacant(place: str | Path) -> Path:
    """Return a place for a new folder.

    Raises:
        UsageError: a file or a folder with something in it is there, or the place is an address.
    """
    out = result_folder(place)
    if not is_vacant(out):
        raise UsageError(f"{out} exists already: choose another --out")
    return out


def is_vacant(place: Path) -> bool:
    """Whether nothing is at a place, or an empty folder."""
    return not place.exists() or (place.is_dir() and not any(place.iterdir()))


def mend(folder: Path) -> None:
    """Put back a folder whose replacement was killed after it was moved aside.

    To be called before a folder that :func:`whole_folder` writes is looked for.
    """
    folder = Path(os.path.realpath(folder))
    if not os.path.lexists(folder) and _aside(folder).is_dir():
        with contextlib.suppress(OSError):  # its writer lives, and was quicker
            os.rename(_aside(folder), folder)


def mend_below(root: Path) -> None:
    """:func:`mend` every folder below one."""
    for path in root.rglob(".*.replaced"):
        if match := _ASIDE.match(path.name):
            mend(path.with_name(match["name"]))


def remove_leftovers(root: Path) -> None:
    """Remove what processes of this container that are no longer alive left below a folder."""
    for directory in [root, *(path for path in root.glob("**/") if path != root)]:
        remove_dead(directory)


def _publish(partial: Path, out: Path, replace: bool) -> None:
    try:
        os.rename(partial, out)
        return
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
    if not replace:
        require_vacant(out)
    if not _exchange(partial, out):
        _move_in(partial, out)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where system or file system cannot."""
    call = _exchange_call()
    return call is not None and call(os.fsencode(one), os.fsencode(other)) == 0


@cache
def _exchange_call() -> Callable[[bytes, bytes], int] | None:
    here, exchange_flag, swap_flag = -100, 2, 2  # AT_FDCWD, RENAME_EXCHANGE, RENAME_SWAP
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            rename = library.renamex_np
            rename.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint]
            return lambda one, other: int(rename(one, other, swap_flag))
        rename = library.renameat2
        number, text = ctypes.c_int, ctypes.c_char_p
        rename.argtypes = [number, text, number, text, ctypes.c_uint]
        return lambda one, other: int(rename(here, one, here, other, exchange_flag))
    except (AttributeError, OSError, TypeError):  # another system, or an old C library
        return None


def _move_in(partial: Path, out: Path) -> None:
    """Put a folder in the place of another, by two renames that :func:`mend` stands behind."""
    old = _aside(out)
    while True:
        if os.path.lexists(out):
            _discard(old)
            os.rename(out, old)
        try:
            os.rename(partial, out)
            break
        except OSError as error:
            if error.errno not in _TAKEN:  # else a reader has mended meanwhile
                mend(out)
                raise
        except BaseException:
            mend(out)
            raise
    _flush(out.parent)
    _discard(old)


def _settle(folder: Path) -> None:
    """Give everything in a folder the umask's mode, and flush it."""
    probe = folder / f".{secrets.token_hex(8)}"
    mode, folder_mode = _created(probe), stat.S_IMODE(folder.stat().st_mode)
    probe.unlink()
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(place, name)
            if path.is_file() and not path.is_symlink():
                _set_mode(path, mode)
                _flush(path)
        _set_mode(Path(place), folder_mode)
        _flush(Path(place))


def _created(path: Path) -> int:
    """Create an empty file; returns its mode, which umask and folder determine."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def _set_mode(path: Path, mode: int) -> None:
    """Set a mode where a library has chosen its own (safetensors: 0600)."""
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)


def _create_exclusively(path: Path, data: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return True


def remove_dead(directory: Path, name: str = "*") -> None:
    """Remove what dead processes of this container left in a folder, beside one name or all."""
    pattern = name if name == "*" else glob.escape(name)
    for path in directory.glob(f".{pattern}.tmp-*"):
        match = _TEMPORARY.match(path.name)
        if match and match["host"] == _host() and not _alive(int(match["pid"])):
            _discard(path)


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _aside(out: Path) -> Path:
    return out.with_name(f".{out.name}.replaced")


def temporary_path(path: Path) -> Path:
    unique = f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.name}.tmp-{unique}")


@cache
def _host() -> str:
    """Return where a process number means what it means here: in this boot, this container.

    Containers of one machine may have the same host name, and machines of one image, too: to each
    of them the processes of the others seem dead. What was left before the machine or the container
    began anew is therefore nobody's, and stays.
    """
    name = re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname()) or "localhost"
    seen = ""
    with contextlib.suppress(OSError):  # not on every system
        seen += Path("/proc/sys/kernel/random/boot_id").read_text()
        seen += os.readlink("/proc/self/ns/pid")
    return f"{name}.{hashlib.sha256(seen.encode()).hexdigest()[:8]}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _flush(path: Path) -> None:
    """Flush a file or a directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
