"""A folder of class folders, also under train/val/test, or a folder of unlabelled images.

Class folders are sorted naturally (2 before 10), unlike torchvision's ImageFolder, and all splits
share one class list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ltcache.errors import ManifestError
from ltcache.manifest.classes import NAME_NORMALISER, ClassList
from ltcache.manifest.draft import Draft, Request
from ltcache.manifest.names import read_classes
from ltcache.manifest.roots import Root, root_name
from ltcache.manifest.rows import Listing
from ltcache.manifest.splits import known_split
from ltcache.manifest.text import natural_key, some
from ltcache.manifest.tree import IMAGE_SUFFIXES, Tree, read_tree


@dataclass(frozen=True)
class _Part:
    """One split of the tree: the folder that holds it (``""`` or ``train/``)."""

    prefix: str
    split: str
    labelled: bool


def read_folder(path: Root, request: Request) -> Draft:
    """Return the images below ``path`` (a directory or an archive) as a draft.

    Raises:
        ManifestError: no images, folder names that look like splits beside others, or two
            folders for one split.
    """
    tree = read_tree(path)
    if not tree.images:
        raise ManifestError(f"{path}: no images below it ({' '.join(IMAGE_SUFFIXES)})")
    warnings: list[str] = []
    if request.labelled is False:
        parts = [_Part("", "pool", False)]
    else:
        parts, warnings = _parts(path, tree)
    raw = sorted(_class_folders(tree, parts), key=natural_key)
    classes = _classes(path, raw, request)
    listings = []
    for part in parts:
        listing, loose = _listing(path, tree, part, raw)
        listings.append(listing)
        if loose:
            warnings.append(
                f"{len(loose)} image(s) beside the class folders are left out: {some(loose)}"
            )
    if raw != sorted(raw) and request.classes is None:
        warnings.append("class folders are in natural order (2 before 10), unlike ImageFolder's")
    if raw and all(name.isdecimal() for name in raw) and request.classes is None:
        shifted = [f"{name} = {k}" for k, name in enumerate(raw) if int(name) != k]
        if shifted:
            warnings.append(f"class folder numbers are not the labels: {some(shifted)}")
    card = {"class_names": NAME_NORMALISER} if raw and request.classes is None else {}
    return Draft(
        root_name(path) or "images", listings, path, classes, card=card, warnings=tuple(warnings)
    )


def _parts(path: Root, tree: Tree) -> tuple[list[_Part], list[str]]:
    """Return the splits of a tree, and what to warn of."""
    prefix = _descend(tree)
    warnings = [f"the classes or splits are read below {prefix!r}"] if prefix else []
    inner = [name[len(prefix) :] for name in tree.images]
    tops = sorted({name.partition("/")[0] for name in inner if "/" in name})
    if not tops:
        return [_Part(prefix, "pool", False)], warnings
    splits = {top: known_split(top) for top in tops}
    if not all(splits.values()):
        _refuse_splits_beside_classes(path, splits, inner)
        return [_Part(prefix, "train", True)], warnings
    parts: list[_Part] = []
    for top, split in sorted(splits.items(), key=lambda pair: _order(pair[1])):
        if any(part.split == split for part in parts):
            raise ManifestError(f"{path}: more than one folder for the split {split!r}: {tops}")
        nested = any("/" in name[len(top) + 1 :] for name in inner if name.startswith(f"{top}/"))
        parts.append(_Part(f"{prefix}{top}/", str(split), nested and split != "pool"))
    if loose := [name for name in inner if "/" not in name]:
        warnings.append(f"{len(loose)} image(s) beside the splits are left out: {some(loose)}")
    return parts, warnings


def _order(split: str | None) -> int:
    return ("train", "val", "test", "pool").index(str(split))


def _descend(tree: Tree) -> str:
    """Return the one folder that wraps everything, as archives often have it (``images/``)."""
    prefix = ""
    while True:
        inner = [name[len(prefix) :] for name in tree.images]
        tops = {name.partition("/")[0] for name in inner}
        if len(tops) > 1 or any(name.count("/") < 2 for name in inner):
            return prefix
        (top,) = tops
        if known_split(top):
            return prefix
        prefix += f"{top}/"


def _refuse_splits_beside_classes(
    path: Root, splits: dict[str, str | None], inner: Sequence[str]
) -> None:
    """Refuse ``train/cat/1.jpg`` beside ``extra/1.jpg``; a class may be called ``train``."""
    for top in [top for top, split in splits.items() if split]:
        below = [name[len(top) + 1 :] for name in inner if name.startswith(f"{top}/")]
        if all("/" in name for name in below):
            others = [other for other, split in splits.items() if not split]
            raise ManifestError(
                f"{path}: {top!r} looks like a split, but {some(others)} stand(s) beside it; "
                f"move the others away, or give {path}/{top}"
            )


def _class_folders(tree: Tree, parts: Sequence[_Part]) -> set[str]:
    """Return the names of all class folders, empty ones included."""
    found = set()
    for part in parts:
        if part.labelled:
            start = len(part.prefix)
            inner = [n[start:] for n in tree.images if n.startswith(part.prefix)]
            found |= {name.partition("/")[0] for name in inner if "/" in name}
            bare = [n[start:] for n in tree.bare if n.startswith(part.prefix)]
            found |= {name for name in bare if "/" not in name}
    return found


def _classes(path: Root, raw: Sequence[str], request: Request) -> ClassList:
    if isinstance(request.classes, ClassList):
        return request.classes
    if request.classes is not None:
        return read_classes(request.classes, folders=raw, dataset=root_name(path))
    return ClassList.from_raw(raw)


def _listing(path: Root, tree: Tree, part: _Part, raw: Sequence[str]) -> tuple[Listing, list[str]]:
    """Return one split's images in class order, and those in no class folder."""
    images = [name for name in tree.images if name.startswith(part.prefix)]
    if not part.labelled:
        unlabelled = np.full(len(images), -1, dtype=np.int64)
        return Listing(str(path), images, unlabelled, part.split), []
    start = len(part.prefix)
    loose = [name for name in images if "/" not in name[start:]]
    rank = {name: position for position, name in enumerate(raw)}
    pairs = [(name[start:].partition("/")[0], name) for name in images if "/" in name[start:]]
    pairs.sort(key=lambda pair: rank[pair[0]])
    labels: list[str | None] = [folder for folder, _ in pairs]
    return Listing(str(path), [name for _, name in pairs], labels, part.split), loose
