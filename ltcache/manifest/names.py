"""The forms in which class names are published: text, CSV and JSON."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ltcache.errors import ManifestError
from ltcache.manifest.classes import ClassList, composed, readable_name
from ltcache.manifest.text import read_cells, read_json, read_lines

_WORDNET_ID = re.compile(r"n[0-9]{8}")
_NUMBER = re.compile(r"[0-9]{1,9}")


def read_classes(path: Path, *, folders: Collection[str] = (), dataset: str = "") -> ClassList:
    """Return the classes of a file in label order.

    Forms: ``.csv`` with ``label,name[,source_id]``; ``.json`` with a list, ``{dataset: [names]}``,
    ``{label: name}`` or ``{name: label}``; text with one name a line, ``name label``,
    ``id<TAB>name``, or ``id name`` where the first word is a WordNet id, the label, the name as a
    folder, or one of ``folders``.

    Args:
        folders: names of class folders in the lists, to tell ids from names.
        dataset: which entry of ``{dataset: [names]}`` to take where there are several.

    Raises:
        ManifestError: labels that repeat, leave gaps or are out of order, empty names, or a form
            that is none of these; names file and line.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            classes = _from_csv(path)
        elif suffix == ".json":
            classes = _from_json(path, dataset)
        else:
            classes = _from_text(path, folders)
    except ManifestError as error:  # a class list itself knows of no file
        raise error if str(path) in str(error) else ManifestError(f"{path}: {error}") from None
    if not len(classes):
        raise ManifestError(f"{path}: lists no classes")
    return classes


def _from_csv(path: Path) -> ClassList:
    lines = read_cells(path, ",")
    header = [cell.strip().lower() for cell in lines[0][1]] if lines else []
    if not {"label", "name"} <= set(header):
        raise ManifestError(
            f"{path}: the first line must be label,name[,source_id], not {','.join(header)!r}"
        )
    labels, names, ids = [], [], []
    for line, row in lines[1:]:
        if len(row) != len(header):
            raise ManifestError(f"{path} line {line}: {len(row)} fields, expected {len(header)}")
        cells = dict(zip(header, (cell.strip() for cell in row), strict=True))
        if not cells["name"]:
            raise ManifestError(f"{path} line {line}: the class has no name")
        labels.append((line, cells["label"]))
        names.append(cells["name"])
        ids.append(cells.get("source_id") or None)
    _check_labels(path, labels)
    return ClassList(tuple(names), tuple(ids))


def _check_labels(path: Path, labels: Sequence[tuple[int, str]]) -> None:
    """Refuse labels that are not 0, 1, 2... in this order."""
    seen: dict[int, int] = {}
    for expected, (line, text) in enumerate(labels):
        if not _NUMBER.fullmatch(text):
            raise ManifestError(f"{path} line {line}: the label {text!r} is not a number from 0 up")
        label = int(text)
        if label in seen:
            raise ManifestError(
                f"{path} line {line}: label {label} is already given at line {seen[label]}"
            )
        if label != expected:
            gap = any(int(t) == expected for _, t in labels if _NUMBER.fullmatch(t))
            why = "sort the classes by label" if gap else f"label {expected} is missing"
            raise ManifestError(f"{path} line {line}: label {label} where {expected} is due; {why}")
        seen[label] = line


def _from_json(path: Path, dataset: str) -> ClassList:
    value = read_json(path)
    if isinstance(value, dict) and value and all(_NUMBER.fullmatch(key) for key in value):
        _check_labels(path, [(1, str(key)) for key in sorted(map(int, value))])
        value = [value[key] for key in sorted(value, key=int)]
    elif isinstance(value, dict) and value and all(type(label) is int for label in value.values()):
        _check_labels(path, [(1, str(label)) for label in sorted(value.values())])
        value = [[name, name] for name in sorted(value, key=value.__getitem__)]
    elif isinstance(value, dict):
        chosen = dataset if dataset in value else next(iter(value), "")
        if dataset not in value and len(value) != 1:
            known = ", ".join(map(repr, value))
            raise ManifestError(f"{path}: holds several lists ({known}), none called {dataset!r}")
        value = value[chosen]
    if not isinstance(value, list):
        raise ManifestError(f"{path}: expected a list of names or {{dataset: [names]}}")
    pairs = [_json_class(path, label, item) for label, item in enumerate(value)]
    return ClassList(tuple(name for _, name in pairs), tuple(source for source, _ in pairs))


def _json_class(path: Path, label: int, item: Any) -> tuple[str | None, str]:
    """Return (source id or None, name) of one entry: a name, or [id, name]."""
    pair = [None, item] if isinstance(item, str) else item
    if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], str):
        source, name = pair[0], readable_name(pair[1])
        if name.strip() and (source is None or isinstance(source, str)):
            return source, name
    raise ManifestError(f"{path}: class {label} is {item!r}, not a name")


def _from_text(path: Path, folders: Collection[str]) -> ClassList:
    lines = [line.strip() for line in read_lines(path)]
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise ManifestError(
            f"{path} line {lines.index('') + 1}: a blank line among the names would shift labels"
        )
    separator = "\t" if lines and all("\t" in line for line in lines) else None
    if (named := _before_labels(path, lines, separator)) is not None:
        return ClassList(tuple(map(readable_name, named)), tuple(named))
    pairs = [line.split(separator, 1) for line in lines]
    if not separator and not _first_words_are_ids(pairs, folders):
        return ClassList(tuple(readable_name(line) for line in lines), tuple(lines))
    ids = [pair[0].strip() for pair in pairs]
    names = [readable_name(pair[1].strip()) for pair in pairs]
    if ids and ids[0] in ("0", "1") and all(map(_NUMBER.fullmatch, ids)):
        start = int(ids[0])
        _check_labels(path, [(n, str(int(t) - start)) for n, t in enumerate(ids, start=1)])
    elif len(set(ids)) < len(ids):
        line = next(n for n, text in enumerate(ids) if text in ids[:n])
        raise ManifestError(
            f"{path} line {line + 1}: the id {ids[line]!r} is already given at line "
            f"{ids.index(ids[line]) + 1}"
        )
    return ClassList(tuple(names), tuple(ids))


def _before_labels(path: Path, lines: Sequence[str], separator: str | None) -> list[str] | None:
    """Return the names of lines ``name label``; None where the last words are not the labels.

    Names that end in a number (``class 0``, ``class 1``) would be the same without it.

    Raises:
        ManifestError: the labels are not in order.
    """
    pairs = [line.rsplit(separator, 1) for line in lines]
    if len(pairs) < 2 or any(len(pair) < 2 or not _NUMBER.fullmatch(pair[1]) for pair in pairs):
        return None
    names, labels = [pair[0].strip() for pair in pairs], [int(pair[1]) for pair in pairs]
    start = min(labels)
    if start > 1 or sorted(labels) != list(range(start, start + len(labels))):
        return None
    if len(set(names)) < len(names) or all(map(_NUMBER.fullmatch, names)):
        return None
    _check_labels(path, [(line, str(label - start)) for line, label in enumerate(labels, start=1)])
    return names


def _first_words_are_ids(pairs: Sequence[Sequence[str]], folders: Collection[str]) -> bool:
    """Return whether every line is ``id name`` rather than a name of several words."""
    if not pairs or any(len(pair) < 2 for pair in pairs):
        return False
    ids = [pair[0] for pair in pairs]
    known = set(map(composed, folders))
    if all(map(_WORDNET_ID.fullmatch, ids)) or all(composed(name) in known for name in ids):
        return True
    if all(map(_NUMBER.fullmatch, ids)):
        return [int(text) - int(ids[0]) for text in ids] == list(range(len(ids)))
    echoes = sum(readable_name(raw).lower() == readable_name(name).lower() for raw, name in pairs)
    return 2 * echoes > len(pairs)
