"""What one of several processes has found in its part of a piece of work, as a file.

Parts are made apart, on one machine or on many, and merged by one more command. Nothing passes
between them: each file says which part it is and what determines the whole, so that parts of
different work are never merged.

    FOLDER/part-2-of-4.npz
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from ltcache.errors import CacheError, UsageError
from ltcache.records.files import committed, require_local
from ltcache.records.identity import canonical_json, require_equal
from ltcache.records.json_value import JsonObject
from ltcache.records.place_kind import kind_of
from ltcache.records.printing import one_line

if TYPE_CHECKING:
    import numpy as np

_RECORD, _FORMAT, _SHOWN = "record", 1, 5
_UNREADABLE = (
    OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, BadZipFile, zlib.error,
)  # fmt: skip


@one_line
@dataclass(frozen=True, eq=False)
class PartialResult:
    """What was found in one part.

    Args:
        command: that made it and that merges it, such as ``retrieve-tail``.
        part, parts: which one it is, from 1, and how many there are.
        whole: what determines the work, the same in all its parts.
        found: in this part, as JSON. arrays: and as numbers.
    """

    command: str
    part: int
    parts: int
    whole: Mapping[str, Any]
    found: JsonObject
    arrays: Mapping[str, np.ndarray]

    def save(self, folder: Path) -> Path:
        """Write the file into a folder, in the place of the same part that was made before."""
        import numpy as np  # slow to import, and this package is imported by every command

        path = folder / f"part-{self.part}-of-{self.parts}.npz"
        said = {name: value for name, value in vars(self).items() if name != "arrays"}
        text = canonical_json({"format": _FORMAT, **said}).encode()
        stored: Mapping[str, Any] = {**self.arrays, _RECORD: np.frombuffer(text, np.uint8)}
        with committed(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **stored)
        return path


def parts_folder(out: str | Path) -> Path:
    """Return a folder for parts, before any is made.

    Raises:
        UsageError: a file or something that ltcache wrote is there, or the place is an address.
    """
    folder = require_local(out)
    if (kind := kind_of(folder)) is not None or folder.is_file():
        there = "a file" if kind is None else kind.value
        raise UsageError(f"{folder} is {there}: parts go into a folder of their own")
    return folder


def read_parts(places: Sequence[str | Path], command: str) -> list[PartialResult]:
    """Read all parts of one piece of work, in their order.

    Args:
        places: files, or folders that hold them. command: that merges them.

    Raises:
        UsageError: no part, one that is missing or there twice, or a file that is no such part.
        IdentityError: parts of different work; names the file and what differs (status 4).
        CacheError: a file is damaged.
    """
    files = [file for place in places for file in _files_at(Path(place), command)]
    if not files:
        raise UsageError(f"nothing to merge: give what ltcache {command} --part has written")
    return joined_parts({file: _read(file, command) for file in dict.fromkeys(files)})


def joined_parts(read: Mapping[Path, PartialResult]) -> list[PartialResult]:
    """Return all parts of one piece of work in their order.

    Args:
        read: what names a part in messages -> the part; at least one.

    Raises:
        UsageError: a part is missing or there twice.
        IdentityError: parts of different work; names what differs (status 4).
    """
    (first, model), *others = read.items()
    made: dict[int, Path] = {model.part: first}
    for file, found in others:
        if found.parts != model.parts:
            raise UsageError(
                f"{file} is one of {found.parts} parts and {first} one of {model.parts}: merge the "
                "parts of one division"
            )
        require_equal(
            f"work of {file}",
            model.whole,
            found.whole,
            remedy=f"it is compared with {first}: make all parts of the same caches with the same "
            "settings, or leave out what does not belong to them",
        )
        if (twin := made.setdefault(found.part, file)) != file:
            raise UsageError(f"part {found.part} of {found.parts} is there twice: {twin}, {file}")
    if missing := [number for number in range(1, model.parts + 1) if number not in made]:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise UsageError(
            f"of {model.parts} parts, these are missing: "
            f"{', '.join(map(str, missing[:_SHOWN]))}{more}; make them with the same command as "
            f"the others, --part {missing[0]}/{model.parts}"
        )
    return sorted(read.values(), key=lambda found: found.part)


def _files_at(place: Path, command: str) -> list[Path]:
    if not place.is_dir():
        return [place]
    found = sorted(place.glob("part-*-of-*.npz"))
    if not found:
        raise UsageError(f"{place} holds no part that ltcache {command} --part has written")
    return found


def _read(file: Path, command: str) -> PartialResult:
    import numpy as np

    try:
        with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        said = json.loads(arrays.pop(_RECORD).tobytes())
        form = said.pop("format")
        found = PartialResult(**said, arrays=arrays)
    except FileNotFoundError:
        raise UsageError(f"{file} does not exist: give what --part has written") from None
    except _UNREADABLE as error:
        raise CacheError(
            f"{file} cannot be read as a part of ltcache {command} ({error}): where it is one, it "
            "is damaged, and the same --part makes it again"
        ) from None
    if form > _FORMAT:
        raise UsageError(f"{file} was written by a later version of ltcache: merge it with that")
    if found.command != command:
        raise UsageError(f"{file} is a part of ltcache {found.command}, not of {command}")
    return found
