"""A folder of class folders, also under train/val/test, or a folder of unlabelled images.

Class folders are sorted naturally (2 before 10), unlike torchvision's ImageFolder, and all splits
share one class list. Folders whose names differ in their Unicode form alone are one class.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.errors import ManifestError
from ltcache.manifest.annotation_folders import annotation_notes, refuse_annotation_folders
from ltcache.manifest.classes import NAME_NORMALISER, ClassList, composed
from ltcache.manifest.draft import ManifestRequest, SourceDraft
from ltcache.manifest.matching import one_class_notes
from ltcache.manifest.names import read_classes
from ltcache.manifest.roots.places import Root, root_name
from ltcache.manifest.rows import Listing
from ltcache.manifest.splits import (
    SPLITS,
    in_order,
    known_split,
    looks_like_split,
    says_nothing,
    splits_of,
)
from ltcache.manifest.text import natural_key, printable, some
from ltcache.manifest.tree import FileTree, read_tree


@dataclass(frozen=True)
class _SplitFolder:
    """One split of the tree: the folder that holds it (``""`` or ``train/``)."""

    prefix: str
    split: str
    labelled: bool


def read_folder(
    path: Root, request: ManifestRequest, *, named_by_split: bool = False
) -> SourceDraft:
    """Return the images below ``path`` (a directory or an archive) as a draft.

    Args:
        named_by_split: the name of ``path`` tells the split where no folder does: the caller sees
            to it, and nothing is said of a name that looks like one.

    Raises:
        ManifestError: no images, folder names that look like splits beside others, two folders
            for one split, or folders of images and of masks where classes are expected.
    """
    request.refuse_label_column(path)
    tree = read_tree(path)
    if not len(tree.images):
        raise ManifestError(": ".join([f"{path}", "no images below it", *tree.warnings]))
    warnings: list[str] = []
    if request.labelled is False:
        parts = [_SplitFolder("", "pool", False)]
        warnings += annotation_notes(_top_folders(tree.images))
    else:
        parts, warnings = _parts(path, tree, "" if named_by_split else root_name(path))
    folders = _class_folders(tree, parts)
    if request.classes is None:
        refuse_annotation_folders(path, [part.prefix for part in parts], sorted(folders))
    raw = _one_spelling(folders)
    warnings += one_class_notes(folders)
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
    return SourceDraft(
        root_name(path) or "images",
        listings,
        path,
        classes,
        card=card,
        warnings=(*tree.warnings, *warnings),
    )


def _parts(path: Root, tree: FileTree, name: str) -> tuple[list[_SplitFolder], list[str]]:
    """Return the splits of a tree, and what to warn of; ``name`` may look like a split."""
    prefix = _descend(tree)
    warnings = [f"the classes or splits are read below {prefix!r}"] if prefix else []
    inner = _below(tree.images, prefix)
    in_folder = pc.match_substring(inner, "/")
    tops = _top_folders(inner)
    if len(tops) == 1 and says_nothing(tops[0]):
        warnings.append(f"'{prefix}{tops[0]}/' is no class by its name: its images are unlabelled")
        return [_SplitFolder(prefix, "pool", False)], warnings
    if not tops:
        return [_SplitFolder(prefix, "pool", False)], warnings
    splits = splits_of(tops)
    if splits is None:
        _refuse_splits_beside_classes(path, tops, inner)
        return [_SplitFolder(prefix, "train", True)], [
            *warnings,
            *_not_splits(path, "" if prefix else name, tops),
            *_splits_inside(inner),
        ]
    parts: list[_SplitFolder] = []
    beside = _beside_others(inner, splits)
    for top, split in sorted(splits.items(), key=lambda pair: SPLITS.index(pair[1])):
        if any(part.split == split for part in parts):
            raise ManifestError(f"{path}: more than one folder for the split {split!r}: {tops}")
        within = _doubled(_below(inner, f"{top}/"), split)
        wrapper = _wrapper(_below(inner, f"{top}/{within}"), beside)
        if wrapper and split != "pool":
            within += wrapper
            where = f"{prefix}{top}/{within}"
            warnings.append(f"the images of the split {split!r} are read below {where!r}")
        below = _below(inner, f"{top}/{within}")
        nested = _any(pc.match_substring(below, "/"))
        parts.append(_SplitFolder(f"{prefix}{top}/{within}", split, nested and split != "pool"))
    if loose := inner.filter(pc.invert(in_folder)).to_pylist():
        warnings.append(f"{len(loose)} image(s) beside the splits are left out: {some(loose)}")
    return parts, warnings


def _not_splits(path: Root, name: str, tops: Sequence[str]) -> list[str]:
    """Return what to say of names that look like splits and are not taken as such."""
    found = []
    if (split := known_split(name)) not in (None, "train"):
        is_folder = path.is_dir()  # an archive is not read by way of the folder that holds it
        remedy = (
            "give the folder above it" if is_folder else f"put them into a folder {name}/ in it"
        )
        found.append(
            f"{path} has the name of a split, but its rows are taken as 'train'; {remedy} to take "
            f"them as {split!r}"
        )
    if classes := [top for top in tops if looks_like_split(top)]:
        found.append(
            f"class folder(s) whose names look like a split: {some(map(repr, classes))}; splits "
            "are folders called train, val, test or pool with no others beside them"
        )
    return found


def _splits_inside(inner: pa.StringArray) -> list[str]:
    """Return what to say where class folders hold folders of splits (``cat/test/1.jpg``)."""
    deep = inner.filter(pc.greater(pc.count_substring(inner, "/"), 1))
    folders = pc.unique(pc.replace_substring_regex(deep, "(?s)^([^/]*/[^/]*)/.*", r"\1"))
    found: dict[str, set[str]] = {}
    for folder in folders.to_pylist():
        top, _, name = folder.partition("/")
        if split := known_split(name):
            found.setdefault(top, set()).add(split)
    mixed = [top for top in sorted(found) if len(found[top]) > 1]
    if not mixed:
        return []
    first = in_order(sorted(found[mixed[0]]))
    return [
        f"class folder(s) hold folders of splits: {some(map(repr, mixed))} those of "
        f"{some(first)}; all their images are taken as 'train'. Put the folders of classes into "
        f"those of splits ({first[-1]}/{printable(mixed[0])}), or give a list with a column 'split'"
    ]


def _doubled(names: pa.StringArray, split: str) -> str:
    """Return ``training_set/`` where a split's folder holds nothing but that of the same split."""
    tops = pc.unique(_top(names)).to_pylist()
    if len(tops) != 1 or known_split(tops[0]) != split:
        return ""
    return f"{tops[0]}/" if pc.min(pc.count_substring(names, "/")).as_py() > 1 else ""


def _wrapper(names: pa.StringArray, beside: set[str]) -> str:
    """Return ``images/`` where a split's folder holds all in one that is no class by its name.

    Args:
        beside: folders that stand beside others in some split: they are classes.
    """
    tops = pc.unique(_top(names)).to_pylist()
    if len(tops) != 1 or not says_nothing(tops[0]) or tops[0] in beside:
        return ""
    return f"{tops[0]}/" if pc.min(pc.count_substring(names, "/")).as_py() > 0 else ""


def _beside_others(inner: pa.StringArray, splits: Iterable[str]) -> set[str]:
    """Return the folders that have others beside them in the folder of some split."""
    found: set[str] = set()
    for top in splits:
        names = _below(inner, f"{top}/")
        folders = pc.unique(_top(names.filter(pc.match_substring(names, "/")))).to_pylist()
        found |= set(folders) if len(folders) > 1 else set()
    return found


def _below(names: pa.StringArray, prefix: str) -> pa.StringArray:
    """Return the paths below a folder (``""`` or ``train/``), relative to it."""
    if not prefix:
        return names
    return pc.utf8_slice_codeunits(names.filter(pc.starts_with(names, prefix)), len(prefix))


def _top_folders(names: pa.StringArray) -> list[str]:
    """Return the first parts of the paths that lie in a folder, sorted."""
    found: list[str] = pc.unique(_top(names.filter(pc.match_substring(names, "/")))).to_pylist()
    return sorted(found)


def _top(names: pa.StringArray) -> pa.StringArray:
    """Return the first part of each path."""
    return pc.replace_substring_regex(names, "(?s)/.*", "")


def _any(mask: pa.Array) -> bool:
    return bool(pc.any(mask).as_py())


def _descend(tree: FileTree) -> str:
    """Return the one folder that wraps everything, as archives often have it (``images/``)."""
    prefix = ""
    while True:
        inner = _below(tree.images, prefix)
        tops = pc.unique(_top(inner)).to_pylist()
        if len(tops) > 1 or pc.min(pc.count_substring(inner, "/")).as_py() < 2:
            return prefix
        (top,) = tops
        if known_split(top):
            return prefix
        prefix += f"{top}/"


def _refuse_splits_beside_classes(path: Root, tops: Sequence[str], inner: pa.StringArray) -> None:
    """Refuse ``train/cat/1.jpg`` beside ``extra/1.jpg``; a class may be called ``train``."""
    for top in filter(known_split, tops):
        if not _any(pc.invert(pc.match_substring(_below(inner, f"{top}/"), "/"))):
            others = [other for other in tops if not known_split(other)]
            raise ManifestError(
                f"{path}: {top!r} looks like a split, but {some(others)} stand(s) beside it; "
                f"move the others away, or give {path}/{top}"
            )


def _class_folders(tree: FileTree, parts: Sequence[_SplitFolder]) -> set[str]:
    """Return the names of all class folders, empty ones included."""
    found: set[str] = set()
    for part in parts:
        if part.labelled:
            inner = _below(tree.images, part.prefix)
            found |= set(pc.unique(_top(inner.filter(pc.match_substring(inner, "/")))).to_pylist())
            bare = [n[len(part.prefix) :] for n in tree.bare if n.startswith(part.prefix)]
            found |= {name for name in bare if "/" not in name}
    return found


def _one_spelling(folders: set[str]) -> list[str]:
    """Return one name for each class, naturally sorted in composed form; that form wins."""
    spelt = {composed(name): name for name in sorted(folders)}
    return [name if name in folders else spelt[name] for name in sorted(spelt, key=natural_key)]


def _classes(path: Root, raw: Sequence[str], request: ManifestRequest) -> ClassList:
    if isinstance(request.classes, ClassList):
        return request.classes
    if request.classes is not None:
        return read_classes(request.classes, folders=raw, dataset=root_name(path))
    return ClassList.from_raw(raw)


def _listing(
    path: Root, tree: FileTree, part: _SplitFolder, raw: Sequence[str]
) -> tuple[Listing, list[str]]:
    """Return one split's images in class order, and those in no class folder."""
    images = tree.images.filter(pc.starts_with(tree.images, part.prefix))
    if not part.labelled:
        unlabelled = np.full(len(images), -1, dtype=np.int64)
        return Listing(str(path), images, unlabelled, part.split), []
    inner = _below(images, part.prefix)
    in_folder = pc.match_substring(inner, "/")
    loose = images.filter(pc.invert(in_folder)).to_pylist()
    folders = _top(inner.filter(in_folder)).dictionary_encode()
    rank = {composed(name): position for position, name in enumerate(raw)}
    found = folders.dictionary.to_pylist()
    ranks = np.array([rank[composed(name)] for name in found], dtype=np.int64)
    codes = ranks[folders.indices.to_numpy()]
    order = np.argsort(codes, kind="stable")
    labels: list[str | None] = [raw[code] for code in codes[order].tolist()]
    return Listing(
        str(path), images.filter(in_folder).take(pa.array(order)), labels, part.split
    ), loose
