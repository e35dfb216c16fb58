"""Recognises what a SOURCE is and has the one reader for it read it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from ltcache.errors import ManifestError
from ltcache.manifest.classes import ClassList
from ltcache.manifest.directory import CARD, read_directory
from ltcache.manifest.draft import ManifestRequest, SourceDraft, finish
from ltcache.manifest.folder import read_folder
from ltcache.manifest.image_files import is_image
from ltcache.manifest.lists import LIST_SUFFIXES, is_names_file, read_lists
from ltcache.manifest.manifest import Manifest
from ltcache.manifest.mapped_list import is_list_file, map_list
from ltcache.manifest.packaged import find_packaged, unknown_source
from ltcache.manifest.remote import fetching
from ltcache.manifest.roots.catalogue import root_format, root_suffixes
from ltcache.manifest.roots.places import Place, RemotePlace, Root, ShardedRoot, as_root, places_of
from ltcache.manifest.roots.saved_datasets import is_saved_dataset
from ltcache.manifest.saved import read_saved
from ltcache.manifest.splits import SPLITS, split_in
from ltcache.manifest.tables import TABLE_FORMS, has_path_column, read_tables
from ltcache.manifest.text import some
from ltcache.manifest.webdataset import read_tars

_SAMPLE = 1 << 16
_DELIMITER = re.compile(r"[,;\t|]")
_ORDER = (*SPLITS, None)


def read_manifest(
    source: str | Path | Sequence[str | Path],
    *,
    root: str | Path | Root | None = None,
    classes: str | Path | ClassList | None = None,
    splits: Sequence[str] | None = None,
    labelled: bool | None = None,
    verify_images: bool = False,
    label_column: str | None = None,
) -> Manifest:
    """Read any source of images and classes into the canonical form.

    Args:
        source: the name of a packaged manifest (``emoji_lt``); a manifest directory; a folder or
            archive of class folders, also under train/val/test; one or several ``path label``
            lists, CSV, TSV, JSON Lines or Parquet files, a directory of them, or their common
            beginning (``DIR/Places_LT``); tar shards (``DIR/train-{000..003}.tar``); Parquet
            files that hold the images; a saved Hugging Face dataset; a folder of unlabelled
            images. Any of these but a saved dataset may be an address of fsspec (``s3://...``).
            A list file (:func:`ltcache.manifest.write_list`) is mapped: no process holds its rows.
        root: what paths are relative to (see `ltcache.manifest.roots`); by default what the
            source says, else the folder of the list.
        classes: a file of class names (see `names.read_classes`) or a `ClassList`.
        splits: keep these only; the class list stays whole.
        labelled: False ignores or does without labels, True insists on them.
        verify_images: also compare the SHA-256 of a manifest directory's image archive.
        label_column: of tables, saved data sets and tar shards with .json files: the column (or
            field) of the labels; by default ``label``, ``class`` or ``target``, else the only one
            that its file calls a ``ClassLabel``.

    Returns:
        The manifest; what a user should know about it stands in ``warnings``.

    Raises:
        ManifestError: the source is not found, is none of these, or breaks a rule; the message
            names the file, the line where there is one, and the remedy.
    """
    request = ManifestRequest(
        root=_existing_root(root),
        classes=classes if isinstance(classes, ClassList) or classes is None else Path(classes),
        labelled=labelled,
        verify_images=verify_images,
        label_column=label_column,
    )
    if is_list_file(source):
        return map_list(Path(str(source)), request, splits)
    try:
        with fetching(source, lambda path: _holds_lists(path, request)) as (place, renamed):
            manifest = finish(renamed(_read(place, request)), request, splits)
            pa.default_memory_pool().release_unused()  # of intermediate columns; it would keep it
            return manifest
    except ManifestError as error:
        raise _with_source(error, source) from None
    except UnicodeEncodeError as error:
        raise ManifestError(f"{source}: a name is not UTF-8: {error.object!r}") from None
    except OSError as error:
        raise ManifestError(f"{source}: cannot be read: {error}") from None


def root_of(source: str | Path) -> Root | None:
    """Return where a source's images are, whatever there is to say about its labels.

    Raises:
        ManifestError: the source cannot be read.
    """
    try:
        return read_manifest(source).root
    except ManifestError:
        return read_manifest(source, labelled=False).root


def _with_source(error: ManifestError, source: object) -> ManifestError:
    """Return an error that names the source, where nothing in it does."""
    first = next(iter(source), "") if isinstance(source, (list, tuple)) else source
    name = str(first).rstrip("/").rpartition("/")[2]
    return error if name in str(error) else type(error)(f"{source}: {error}")


def _read(
    source: str | Path | Sequence[str | Path] | Root, request: ManifestRequest
) -> SourceDraft:
    if not isinstance(source, (str, Path, RemotePlace, ShardedRoot)):
        places = [place for item in source for place in places_of(as_root(item))]
        return _read_files(places, request)
    if isinstance(source, str) and (packaged := find_packaged(source)):
        return read_directory(packaged, request)
    path = as_root(source)
    if isinstance(path, ShardedRoot):
        return _read_files(path.places, request)
    if isinstance(path, RemotePlace):
        return read_folder(path, request) if path.is_dir() else _read_files([path], request)
    if path.is_dir():
        return _read_folder(path, request)
    if path.exists():
        return _with_notes(_read_files([path], request), _sisters_left_out(path))
    if begun := _beginning_with(path):
        return _read_files(begun, request)
    raise unknown_source(str(source))


def _read_folder(path: Path, request: ManifestRequest) -> SourceDraft:
    """Read a directory: a manifest, else lists in it, else tables, else images."""
    for recognises, read in FOLDER_READERS:
        if recognises(path):
            return read(path, request)
    if request.labelled is False:
        return read_folder(path, request)
    lists, others = _lists_in(path)
    if not lists:
        return _with_notes(read_folder(path, request), others)
    datasets: dict[str, list[Path]] = {}
    for file in lists:
        datasets.setdefault(split_in(file.stem)[1], []).append(file)
    if len(datasets) > 1:
        raise ManifestError(
            f"{path}: holds lists of several datasets ({some(file.name for file in lists)}); "
            f"give the beginning of one's name, such as {path / (min(datasets) or lists[0].stem)}"
        )
    return _with_notes(_read_files(lists, request), others)


def _with_notes(draft: SourceDraft, notes: Sequence[str]) -> SourceDraft:
    return replace(draft, warnings=(*draft.warnings, *notes))


def _read_files(paths: Sequence[Place], request: ManifestRequest) -> SourceDraft:
    """Read files of one kind, by their suffix."""
    if not paths:
        raise ManifestError("no files are given")
    readers = {_reader(path) for path in paths}
    if len(readers) > 1:
        raise ManifestError(f"the files are of different kinds: {some(p.name for p in paths)}")
    return readers.pop()(paths, request)


_Reader = Callable[[Any, ManifestRequest], SourceDraft]  # of files of one kind, or a folder


def _reader(path: Place) -> _Reader:
    if path.name == CARD:
        return _read_card
    suffixes = (*LIST_SUFFIXES, *TABLE_FORMS, *root_suffixes())
    tables = dict.fromkeys(TABLE_FORMS, read_tables)
    readers = {**dict.fromkeys(suffixes, _read_archive), **tables, **FILE_READERS}
    if path.suffix.lower() not in readers:
        raise ManifestError(
            f"{path}: not a list, table or archive by its suffix ({' '.join(readers)})"
        )
    return readers[path.suffix.lower()]


def _read_card(paths: Sequence[Path], request: ManifestRequest) -> SourceDraft:
    return read_directory(_only(paths).parent, request)


def _read_archive(paths: Sequence[Path], request: ManifestRequest) -> SourceDraft:
    return read_folder(_only(paths), request)


def _only(paths: Sequence[Any]) -> Any:
    if len(paths) > 1:
        raise ManifestError(f"give one of {some(paths)} at a time")
    return paths[0]


def _has_card(path: Path) -> bool:
    return (path / CARD).is_file()


FILE_READERS: dict[str, _Reader] = {**dict.fromkeys(LIST_SUFFIXES, read_lists), ".tar": read_tars}
"""Suffix -> reader; other files are tables (:data:`TABLE_FORMS`) or hold class folders."""
FOLDER_READERS: list[tuple[Callable[[Path], bool], _Reader]] = [
    (_has_card, read_directory),
    (is_saved_dataset, read_saved),
]
"""How a folder is recognised, and its reader; other folders hold lists, tables or class folders."""


def _holds_lists(path: Path, request: ManifestRequest) -> bool:
    """Return whether a directory is read by the card or the lists in it."""
    return _has_card(path) or (request.labelled is not False and bool(_lists_in(path)[0]))


def _lists_in(path: Path) -> tuple[list[Path], list[str]]:
    """Return the lists or, where there are none, the tables of a directory, by split.

    Besides, what to say of the others, which are left out.
    """
    files = [file for file in sorted(path.iterdir()) if file.is_file() and file.name[0] != "."]
    lists, others = _candidates(files, LIST_SUFFIXES, _looks_like_list)
    if not lists:
        lists, tables = _candidates(files, TABLE_FORMS, has_path_column)
        others = others + tables
    notes = _unread([file for file in files if file not in (*lists, *others)])
    if not others:
        return lists, notes
    names = some(file.name for file in others)
    left = f"{names}: left out, for the name tells no split (train, val, test, pool)"
    return lists, [left, *notes]


def _unread(files: Iterable[Path]) -> list[str]:
    """Return what to say of texts that name images and are no lists, as a table without header."""
    texts = [file for file in files if file.suffix.lower() in (*LIST_SUFFIXES, ".csv", ".tsv")]
    names = [file.name for file in texts if not is_names_file(file.name) and _names_images(file)]
    if not names:
        return []
    return [
        f"{some(names)}: not read, though images are named there: a list is a .csv whose first "
        "line names its columns (path,label), or a .txt of lines such as 'cat/1.jpg 0'"
    ]


def _candidates(
    files: Iterable[Path], suffixes: Collection[str], fits: Callable[[Path], bool]
) -> tuple[list[Path], list[Path]]:
    """Return the lists (those with a split in their name, or a lone one), and all the others."""
    fitting = [
        file
        for file in files
        if file.suffix.lower() in suffixes and not is_names_file(file.name) and fits(file)
    ]
    told = [file for file in fitting if split_in(file.stem)[0]]
    chosen = told or (fitting if len(fitting) == 1 else [])
    others = [file for file in fitting if file not in chosen]
    return sorted(chosen, key=lambda file: _ORDER.index(split_in(file.stem)[0])), others


def _looks_like_list(path: Path) -> bool:
    """Return whether the first line of a text file ends in a number behind a path.

    Where its name tells no split it may be any text, such as a licence with its year: there the
    path has to be that of an image.
    """
    with open(path, "rb") as file:
        lines = file.read(_SAMPLE).splitlines()
    words = next((line.split() for line in lines if line.strip()), [])
    if len(words) < 2 or not words[-1].isdigit():
        return False
    name = b" ".join(words[:-1]).decode(errors="replace")
    return split_in(path.stem)[0] is not None or is_image(name) or (path.parent / name).is_file()


def _names_images(path: Path) -> bool:
    """Return whether one of the first two lines of a text has several cells, one of them an image.

    One of two, for a header may stand above the first row.
    """
    with open(path, "rb") as file:
        lines = file.read(_SAMPLE).decode(errors="replace").splitlines()[:2]
    rows = [[cell.strip(' "') for cell in _DELIMITER.split(line)] for line in lines]
    return any(len(row) > 1 and any(map(is_image, row)) for row in rows)


def _beginning_with(path: Path) -> list[Path]:
    """Return the lists in a directory that begin with ``path``'s name (``DIR/Places_LT``)."""
    if not path.name or not path.parent.is_dir():
        return []
    lists, _ = _lists_in(path.parent)
    return [file for file in lists if split_in(file.stem)[1] == path.name]


def _sisters_left_out(path: Path) -> list[str]:
    """Return what to say where other lists, tables or shards of one dataset lie beside ``path``."""
    split, dataset = split_in(path.stem)
    suffix = path.suffix.lower()
    if split is None or suffix == ".zip":
        return []
    beside = [other for other in sorted(path.parent.iterdir()) if other.suffix.lower() == suffix]
    sisters = [
        other.name
        for other in beside
        if other.name != path.name and other.is_file()
        and split_in(other.stem)[0] and split_in(other.stem)[1] == dataset
        and (suffix not in LIST_SUFFIXES or _looks_like_list(other))
    ]  # fmt: skip
    if not sisters:
        return []
    together = path.parent / dataset
    if suffix == ".tar":
        stems = ",".join(Path(name).stem for name in sorted([path.name, *sisters]))
        together = path.parent / f"{{{stems}}}.tar"
    return [
        f"{path.name} alone is read; {some(sisters)} beside it belong(s) to it: give {together} "
        "to take all of them"
    ]


def _existing_root(root: str | Path | Root | None) -> Root | None:
    if root is None:
        return None
    place = as_root(root)
    root_format(place)
    return place
