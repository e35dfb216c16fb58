"""A manifest directory: dataset.json, classes.csv, descriptions.json and one list per split."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ltcache.errors import ManifestError
from ltcache.manifest.classes import ClassList
from ltcache.manifest.draft import ManifestRequest, SourceDraft
from ltcache.manifest.lists import LIST_SUFFIXES, read_list
from ltcache.manifest.manifest import DEFAULT_TEMPLATES
from ltcache.manifest.names import read_classes
from ltcache.manifest.rows import Listing
from ltcache.manifest.splits import canonical_split
from ltcache.manifest.tables import TABLE_FORMS, read_table
from ltcache.manifest.text import read_json
from ltcache.records import digest, file_digest

CARD = "dataset.json"
_HANDLED = ("name", "templates", "groups", "lists", "sha256")
_USUAL_LISTS = {"train": "train.csv", "val": "val.csv", "test": "test.csv"}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"[0-9]{1,9}")


def read_directory(path: Path, request: ManifestRequest) -> SourceDraft:
    """Return the draft of a manifest directory.

    ``dataset.json``: name, title, source, licence, templates, groups, ``lists`` {split: file},
    ``images`` (a folder or .zip file, relative to the directory, at most one ``..``), ``sha256``
    {file: hex}; other keys stay on the card. A card without lists may say in ``build`` how to get
    them. The digests are verified on reading, that of the
    images only if the request says so.

    Raises:
        ManifestError: a field of the wrong kind, a file that is missing or has another digest, a
            label without a class.
    """
    card = read_json(path / CARD)
    if not isinstance(card, dict):
        raise ManifestError(f"{path / CARD}: expected an object with name, lists, images...")
    _encodable(path, card)
    images = _images(path, card)
    _verify(path, card, images if request.verify_images else None)
    listings = [_listing(path, split, file, request) for split, file in _lists(path, card).items()]
    classes = _classes(path, request, listings)
    return SourceDraft(
        name=_text(path, card, "name") or path.resolve().name,
        listings=listings,
        root=images if images is not None else path,
        classes=classes,
        templates=_templates(path, card),
        groups=_groups(path, card),
        descriptions=_descriptions(path, len(classes)),
        card={key: value for key, value in card.items() if key not in _HANDLED},
    )


def _encodable(path: Path, card: Mapping[str, Any]) -> None:
    try:
        digest(card)
    except UnicodeEncodeError:
        raise ManifestError(f"{path / CARD}: holds a text that is not Unicode") from None


def _text(path: Path, card: Mapping[str, Any], field: str) -> str | None:
    value = card.get(field)
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise ManifestError(f"{path / CARD}: {field!r} must be a text, not {value!r}")
    return value


def _images(path: Path, card: Mapping[str, Any]) -> Path | None:
    """Return where the images lie; a packaged list may share those of its neighbour."""
    images = _text(path, card, "images")
    if images is None:
        return None
    parts = PurePosixPath(images.replace("\\", "/")).parts
    if not parts:  # "."
        return path
    if parts[:1] == ("/",) or ".." in parts[1:] or "\0" in images or ":" in parts[0]:
        raise ManifestError(
            f"{path / CARD}: 'images' is relative and leaves the directory by one '..' at most, "
            f"not {images!r}"
        )
    start = path.resolve().parent if parts[0] == ".." else path
    return start.joinpath(*(part for part in parts if part != ".."))


def _is_images(name: str, card: Mapping[str, Any]) -> bool:
    """Return whether a key of ``sha256`` means the images, by path or by bare file name."""
    images = str(card.get("images", "")).replace("\\", "/")
    return bool(images) and name in (images, PurePosixPath(images).name)


def _inside(path: Path, file: str, field: str) -> Path:
    """Return a file of the directory, refusing names that leave it."""
    parts = PurePosixPath(file.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in file or ":" in parts[0]:
        raise ManifestError(f"{path / CARD}: {field!r} names {file!r}, not a file in the directory")
    return path.joinpath(*parts)


def _lists(path: Path, card: Mapping[str, Any]) -> dict[str, Path]:
    """Return split -> list file."""
    lists = card.get("lists")
    if lists is None:
        found = {s: path / name for s, name in _USUAL_LISTS.items() if (path / name).is_file()}
        if not found and _is_text(card.get("build")):
            raise ManifestError(
                f"{path.name}: its lists or images may not be copied, so they do not come with "
                f"the package; build the manifest once: {card['build']}"
            )
        if not found:
            raise ManifestError(
                f"{path}: none of {', '.join(_USUAL_LISTS.values())}, and {CARD} names no 'lists'"
            )
        return found
    if not isinstance(lists, dict) or not lists or not all(_is_text(v) for v in lists.values()):
        raise ManifestError(f"{path / CARD}: 'lists' must be {{split: file}}, not {lists!r}")
    return {canonical_split(split): _inside(path, file, "lists") for split, file in lists.items()}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _listing(path: Path, split: str, file: Path, request: ManifestRequest) -> Listing:
    suffix = file.suffix.lower()
    if suffix in LIST_SUFFIXES:
        return read_list(file, request.labelled, split)
    if suffix in TABLE_FORMS:
        return read_table(file, request, split=split)
    raise ManifestError(f"{path / CARD}: the list {file.name!r} is none of .csv .jsonl .txt...")


def _classes(path: Path, request: ManifestRequest, listings: list[Listing]) -> ClassList:
    """Return the class list given or in the directory; none at all for unlabelled lists."""
    if isinstance(request.classes, ClassList):
        return request.classes
    file = request.classes or path / "classes.csv"
    if request.classes is not None or file.exists():
        return read_classes(file, dataset=path.name)
    for listing in listings:
        if any(label is not None and label != -1 for label in listing.labels):
            raise ManifestError(f"{file} is missing, but {listing.where} has labels")
    return ClassList(())


def _templates(path: Path, card: Mapping[str, Any]) -> tuple[str, ...]:
    templates = card.get("templates")
    if templates is None:
        return DEFAULT_TEMPLATES
    if not isinstance(templates, list) or not templates or not all(map(_is_text, templates)):
        raise ManifestError(f"{path / CARD}: 'templates' must be a list of texts")
    for template in templates:
        if "{}" not in template and "{c}" not in template:
            raise ManifestError(f"{path / CARD}: the template {template!r} has no '{{}}'")
    return tuple(templates)


def _groups(path: Path, card: Mapping[str, Any]) -> Mapping[str, Any] | None:
    groups = card.get("groups")
    if groups is not None and not isinstance(groups, dict):
        raise ManifestError(f"{path / CARD}: 'groups' must be an object, not {groups!r}")
    return groups


def _descriptions(path: Path, num_classes: int) -> dict[int, tuple[str, ...]] | None:
    """Return label -> sentences from descriptions.json, or None where it is not there."""
    file = path / "descriptions.json"
    if not file.exists():
        return None
    value = read_json(file)
    if not isinstance(value, dict):
        raise ManifestError(f"{file}: expected {{label: [sentences]}}")
    described = {}
    for label, sentences in value.items():
        if not _NUMBER.fullmatch(label) or int(label) >= num_classes:
            raise ManifestError(f"{file}: {label!r} is no label of the {num_classes} classes")
        if not isinstance(sentences, list) or not sentences or not all(map(_is_text, sentences)):
            raise ManifestError(f"{file}: label {label} needs a list of sentences")
        described[int(label)] = tuple(sentences)
    return dict(sorted(described.items()))


def _verify(path: Path, card: Mapping[str, Any], images: Path | None) -> None:
    """Compare the digests; that of the images only where ``images`` is given.

    Raises:
        ManifestError: naming the file, the expected and the found digest.
    """
    digests = card.get("sha256", {})
    if not isinstance(digests, dict):
        raise ManifestError(f"{path / CARD}: 'sha256' must be {{file: digest}}")
    for name, expected in digests.items():
        if not isinstance(expected, str) or not _DIGEST.fullmatch(expected.lower()):
            raise ManifestError(f"{path / CARD}: the SHA-256 of {name!r} is not 64 hex digits")
        if _is_images(name, card):
            if images is None:
                continue
            file = images
        else:
            file = _inside(path, name, "sha256")
        if (found := _digest_of(file)) != expected.lower():
            raise ManifestError(
                f"{file}: SHA-256 differs from the one in {CARD}: expected {expected}, "
                f"found {found}; the file was changed or is damaged"
            )


def _digest_of(file: Path) -> str:
    try:
        return file_digest(file)
    except OSError as error:
        raise ManifestError(f"{file}: cannot be read: {error.strerror}") from None
