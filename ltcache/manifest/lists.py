"""The field's ``path label`` text lists, read as they are (``Places_LT_train.txt``).

A line is split from the right, for paths hold blanks; the file's name tells the split; class names
come from a file beside the lists, else from the folders in the paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from os.path import commonprefix
from pathlib import Path

import numpy as np

from ltcache.errors import ManifestError
from ltcache.manifest.classes import NAME_NORMALISER, ClassList
from ltcache.manifest.derive import parent_folders
from ltcache.manifest.draft import ManifestRequest, SourceDraft
from ltcache.manifest.image_files import is_image
from ltcache.manifest.labels import RowLabels, read_labels, whole_number
from ltcache.manifest.long_texts import text_array
from ltcache.manifest.names import read_classes
from ltcache.manifest.rows import Listing
from ltcache.manifest.splits import split_in
from ltcache.manifest.text import read_lines
from ltcache.records import JsonObject

LIST_SUFFIXES = (".txt", ".lst", ".list")


def read_lists(paths: Sequence[Path], request: ManifestRequest) -> SourceDraft:
    """Return the rows of one or several text lists of one dataset.

    Raises:
        ManifestError: a line is not ``path label`` with a whole number; names file and line.
    """
    request.refuse_label_column(paths[0])
    listings = [read_list(path, request.labelled) for path in paths]
    dataset = next((name for path in paths if (name := split_in(path.stem)[1])), "")
    folder = paths[0].resolve().parent
    classes, card = _classes(paths, dataset, listings, request)
    root = folder_of_lists(paths, request)
    warnings = tuple(
        f"{path.name}: its name tells no split; its rows are taken as {listing.split!r}"
        for path, listing in zip(paths, listings, strict=True)
        if split_in(path.stem)[0] is None
    )
    return SourceDraft(
        dataset or folder.name, listings, root, classes, card=card, warnings=warnings
    )


def folder_of_lists(paths: Sequence[Path], request: ManifestRequest) -> Path:
    """Return the folder of some lists, which their paths are relative to.

    Raises:
        ManifestError: they lie in several, and no root is given: a path of the second list could
            be another image of the first one's folder.
    """
    folder = paths[0].parent
    for other in paths[1:]:
        if request.root is None and other.parent.resolve() != folder.resolve():
            raise ManifestError(
                f"{paths[0]} and {other} lie in different folders, so that it is not known where "
                "their paths begin: say it with --root, or give lists of one folder"
            )
    return folder


def read_list(path: Path, labelled: bool | None = None, split: str | None = None) -> Listing:
    """Return the rows of one text list; ``labelled=False`` takes lines that hold a path alone.

    Args:
        split: the split of its rows; by default what the file's name tells, else train.
    """
    lines = [line.strip() for line in read_lines(path)]
    numbers = [number for number, line in enumerate(lines, start=1) if line]
    kept = [line for line in lines if line]
    pairs = [line.rsplit(maxsplit=1) for line in kept]
    if labelled is False:
        uris, labels = _without_labels(kept, pairs), RowLabels(np.full(len(kept), -1, np.int64))
    else:
        uris, labels = _with_labels(path, numbers, pairs)
    told = split or split_in(path.stem)[0] or ("pool" if labelled is False else "train")
    return Listing(str(path), uris, labels.values, told, lines=numbers, notes=labels.notes)


def _with_labels(
    path: Path, numbers: Sequence[int], pairs: Sequence[Sequence[str]]
) -> tuple[list[str], RowLabels]:
    """Return paths and labels; refuses the first line that has not both."""
    texts = [pair[-1] if len(pair) == 2 else "" for pair in pairs]
    row = texts.index("") if "" in texts else None
    labels = read_labels(str(path), "label", text_array(texts))
    if row is None and not isinstance(labels.values, np.ndarray):
        row = next((row for row, text in enumerate(texts) if whole_number(text) is None), 0)
    if row is not None:
        raise ManifestError(
            f"{path} line {numbers[row]}: expected 'path label' with a whole number at the end, "
            f"found {' '.join(pairs[row])[:120]!r} (--unlabelled reads a list of paths alone)"
        )
    return [pair[0] for pair in pairs], labels


def _without_labels(lines: Sequence[str], pairs: Sequence[Sequence[str]]) -> list[str]:
    """Return the paths; a number behind an image's name is a label and is dropped."""
    have = all(len(pair) == 2 and pair[1].isdecimal() and is_image(pair[0]) for pair in pairs)
    return [pair[0] for pair in pairs] if have else list(lines)


def _classes(
    paths: Sequence[Path], dataset: str, listings: Sequence[Listing], request: ManifestRequest
) -> tuple[ClassList | None, JsonObject]:
    if isinstance(request.classes, ClassList):
        return request.classes, {}
    path = request.classes or (None if request.labelled is False else names_beside(paths[0]))
    if path is None:
        return None, {}
    folders = parent_folders(listings) if path.suffix.lower() not in (".csv", ".json") else ()
    classes = read_classes(path, folders=folders, dataset=dataset)
    return classes, {"class_names": NAME_NORMALISER} if path.suffix.lower() != ".csv" else {}


def is_names_file(name: str) -> bool:
    """Return whether a file's name says that it holds class names."""
    plain = name.lower().replace("_", "").replace("-", "")
    return plain.endswith(("classnames.txt", "classnames.json", "classes.txt", "classes.csv"))


def names_beside(path: Path) -> Path | None:
    """Return the file of class names beside a list that shares most of its name, or None.

    Raises:
        ManifestError: several would do equally well.
    """
    found = [other for other in sorted(path.parent.iterdir()) if is_names_file(other.name)]
    if not found:
        return None
    name = path.name.lower()
    shared = [len(commonprefix([other.name.lower(), name])) for other in found]  # noqa: RUF071
    best = [other for other, length in zip(found, shared, strict=True) if length == max(shared)]
    if len(best) > 1:
        raise ManifestError(
            f"{path}: several files of class names lie beside it "
            f"({', '.join(other.name for other in best)}); name one with --classes"
        )
    return best[0]
