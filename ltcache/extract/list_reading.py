"""A long list is read by one process of each machine; the others map the list file that it writes.

Without this every process would read the same table and hold its rows: eight of a machine, with
forty million rows each, take tens of gigabytes. The file lies in the machine's own temporary
folder, so that it can be removed while others map it (over NFS they would crash), and its name is
the digest of what decides the list: the files of the source as they are now, and how they are to be
read. So a list that has changed is another file, whatever an earlier command has left.

Nothing is locked. A process whose first one is dead or late reads the source by itself, as it would
read a short list, and a list file that is not whole is refused as any other one.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from ltcache.errors import ManifestError
from ltcache.manifest import (
    CARD,
    Manifest,
    ShardedRoot,
    as_root,
    is_names_file,
    read_manifest,
    write_list,
)
from ltcache.process import LaunchedProcess
from ltcache.records import address_of, at_work, digest, private_folder, wait_for_others

_LONG = 1 << 24  # bytes of the files of a source from which on it is read once
_PATIENCE = 10.0  # seconds to wait until the first process begins


@dataclass(frozen=True)
class ListReading:
    """How a list is read; the arguments of :func:`ltcache.manifest.read_manifest`."""

    root: str | Path | None = None
    classes: str | Path | None = None
    labelled: bool | None = None
    label_column: str | None = None

    def manifest(self, source: str | Path) -> Manifest:
        """Return the manifest of a source, read here and now."""
        return read_manifest(
            source,
            root=self.root,
            classes=self.classes,
            labelled=self.labelled,
            label_column=self.label_column,
        )


def read_once(source: str | Path, part: LaunchedProcess, reading: ListReading) -> Manifest:
    """Return the manifest of a source, whose rows are mapped where several processes need them.

    Args:
        part: which of the processes this one is.

    Raises:
        ManifestError: as :func:`ltcache.manifest.read_manifest` does.
    """
    file = _list_file(source, reading) if _has_company(part) else None
    if file is None:
        return reading.manifest(source)
    if part.local_rank:
        wait_for_others(file, file.exists, _PATIENCE)
        return _mapped(file) or reading.manifest(source)
    if (found := _mapped(file)) is not None:
        _remove_at_exit(file)
        return found
    with at_work(file):
        return _written(file, reading.manifest(source))


def _has_company(part: LaunchedProcess) -> bool:
    """Whether other processes of this machine read the same list; srun does not tell how many."""
    return part.local_size > 1 or (part.launcher == "srun" and part.size != 1)


def _written(file: Path, manifest: Manifest) -> Manifest:
    """Write the list file and return the manifest that it holds, or the given one if it cannot."""
    _remove_at_exit(file)
    try:
        write_list(manifest, file)
    except OSError:  # no room: others read the source by themselves
        return manifest
    found = _mapped(file)
    if found is None:
        return manifest
    warnings = manifest.warnings
    del manifest
    pa.default_memory_pool().release_unused()
    return replace(found, warnings=warnings)


def _mapped(file: Path) -> Manifest | None:
    """Return the manifest of a list file; None where there is none, or a damaged one."""
    if not file.exists():
        return None
    try:
        return read_manifest(file)
    except ManifestError:
        file.unlink(missing_ok=True)
        return None


def _remove_at_exit(file: Path) -> None:
    """Let the first process remove the file when it ends; others have it mapped by then."""
    atexit.register(file.unlink, missing_ok=True)


def _list_file(source: str | Path, reading: ListReading) -> Path | None:
    """Return where the list file of a source is on this machine; None: it is to be read directly.

    Only lists and tables that are files of this machine are told from what they were by size and
    time. A folder of images has no such stamp, and a list file is mapped as it is.
    """
    files = [] if Path(source).suffix == ".arrow" else _files_of(source)
    if not files or sum(os.stat(file).st_size for file in files) < _LONG:
        return None
    folder = private_folder()
    if folder is None:
        return None
    beside = {path for file in files for path in file.parent.iterdir() if is_names_file(path.name)}
    named = [Path(reading.classes)] if reading.classes and Path(reading.classes).is_file() else []
    stamps = [_stamp(path) for path in [*files, *sorted(beside), *named]]
    how = [reading.labelled, reading.label_column, *map(_absolute, (reading.root, reading.classes))]
    key = digest([1, _absolute(source), how, stamps])
    return folder / f"list-{key[:32]}.arrow"


def _files_of(source: str | Path) -> list[Path]:
    """Return the files that a list or table consists of; none where it is anything else."""
    if address_of(source):
        return []
    root = as_root(source)
    if isinstance(root, ShardedRoot):
        places = [place for place in root.places if isinstance(place, Path)]
        return places if len(places) == len(root.places) and _all_files(places) else []
    if not isinstance(root, Path) or root.is_dir():
        return []
    if root.is_file():
        return [] if root.name == CARD else [root]  # which names others
    return sorted(_beginning_with(root))


def _beginning_with(root: Path) -> Iterator[Path]:
    """Yield the files of all splits that ``DIR/NAME`` may stand for."""
    if root.name and root.parent.is_dir():
        for path in root.parent.iterdir():
            if path.name.startswith(root.name) and path.is_file():
                yield path


def _all_files(places: list[Path]) -> bool:
    return all(place.is_file() for place in places)


def _stamp(path: Path) -> list[Any]:
    status = path.stat()
    return [os.path.abspath(path), status.st_size, status.st_mtime_ns, status.st_ino]


def _absolute(named: str | Path | None) -> str | None:
    return None if named is None else address_of(named) or os.path.abspath(named)
