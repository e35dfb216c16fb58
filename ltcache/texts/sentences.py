"""Templates and sentences about classes: text only, keyed by label.

Class names are not unique (ImageNet has two of ``missile`` and of ``sunglasses``), so sentences
belong to labels; a file keyed by names is translated, or refused where names are ambiguous.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ltcache.errors import UsageError, did_you_mean
from ltcache.records import JsonObject

__all__ = [
    "class_sentences",
    "fill",
    "holds_class_sentences",
    "read_class_sentences",
    "read_templates",
]

_PLACEHOLDER = re.compile(r"\{(?:c|classname)?\}")


def fill(template: str, name: str) -> str:
    """Return ``template`` with the class name for ``{}``, ``{c}`` or ``{classname}``.

    Underscores in a name become spaces, as CLIP's own class lists have it.
    """
    return _PLACEHOLDER.sub(lambda match: name.replace("_", " "), template)


def class_sentences(
    templates: Sequence[str],
    names: Sequence[str],
    descriptions: Mapping[int, Sequence[str]] | None = None,
) -> list[list[str]]:
    """Return the sentences of each class, C lists in label order.

    Args:
        templates: each with a placeholder for the name.
        names: C class names.
        descriptions: label -> sentences that stand in place of the templates (placeholders in
            them are filled too); a class without any keeps the templates.

    Raises:
        UsageError: a template without a placeholder, no template at all, or an unknown label.
    """
    if not templates and len(descriptions or {}) < len(names):
        raise UsageError("no templates: give at least one, such as 'a photo of a {}.'")
    for template in templates:
        if not _PLACEHOLDER.search(template):
            raise UsageError(f"template {template!r} has no place for the class: write {{}}")
    own = descriptions or {}
    if unknown := sorted(set(own) - set(range(len(names)))):
        raise UsageError(
            f"descriptions name label {unknown[0]}, but there are {len(names)} classes"
        )
    return [
        [fill(sentence, name) for sentence in own.get(label) or templates]
        for label, name in enumerate(names)
    ]


def read_templates(path: str | Path, dataset: str | None = None) -> tuple[str, ...]:
    """Read templates: one a line (blank lines and ``#`` lines are skipped), or JSON.

    Args:
        path: ``.json`` holds a list, or ``{dataset: [templates]}`` as CLIP_benchmark has it; any
            other file is text.
        dataset: which of several lists in a JSON file.

    Raises:
        UsageError: unreadable, empty, or a template without a place for the class; the message
            names the file and the line or the position.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        entries = _json_templates(path, dataset)
        places = [f"entry {number}" for number in range(1, len(entries) + 1)]
    else:
        lines = [(f"line {n}", line.strip()) for n, line in enumerate(_read(path).splitlines(), 1)]
        kept = [(place, line) for place, line in lines if line and not line.startswith("#")]
        places, entries = [place for place, _ in kept], [line for _, line in kept]
    for place, entry in zip(places, entries, strict=True):
        if not isinstance(entry, str) or not _PLACEHOLDER.search(entry):
            raise UsageError(
                f"{path}, {place}: {entry!r} has no place for the class name; write {{}}, {{c}} "
                "or {classname}"
            )
    if not entries:
        raise UsageError(f"{path}: no templates")
    return tuple(entries)


def holds_class_sentences(path: str | Path) -> bool:
    """Whether a file is of sentences per class, a JSON object, rather than of templates.

    Raises:
        UsageError: a JSON file that cannot be read.
    """
    path = Path(path)
    return path.suffix.lower() == ".json" and path.exists() and _read(path).lstrip().startswith("{")


def read_class_sentences(path: str | Path, names: Sequence[str]) -> dict[int, tuple[str, ...]]:
    """Read sentences of every class from JSON, ``{label or name: [sentences]}`` (as CuPL has it).

    Args:
        path: the JSON file; keys are all labels or all names.
        names: the C class names.

    Returns:
        label -> sentences, for every label.

    Raises:
        UsageError: unreadable, unknown or ambiguous keys, or classes without sentences (listed).
    """
    path = Path(path)
    content = _read_json(path)
    if not isinstance(content, dict) or not content:
        raise UsageError(f"{path}: not an object of label or name -> list of sentences")
    labels = _labels_of(path, list(content), names)
    result: dict[int, tuple[str, ...]] = {}
    for key, label in labels.items():
        sentences = content[key]
        if (
            not isinstance(sentences, list)
            or not sentences
            or not all(isinstance(text, str) and text.strip() for text in sentences)
        ):
            raise UsageError(f"{path}: {key!r} has no list of sentences")
        result[label] = tuple(text.strip() for text in sentences)
    missing = [f"{label} ({names[label]})" for label in range(len(names)) if label not in result]
    if missing:
        raise UsageError(f"{path}: no sentences for {_some(missing)}")
    return dict(sorted(result.items()))


def _labels_of(path: Path, keys: list[str], names: Sequence[str]) -> dict[str, int]:
    """Return key -> label, reading the keys as labels if all of them are numbers."""
    if all(key.isdecimal() for key in keys):
        if len({int(key) for key in keys}) < len(keys):
            raise UsageError(f"{path}: a label is there twice")
        outside = [key for key in keys if int(key) >= len(names)]
        by_name = set(keys) <= set(names)
        if by_name and any(names[int(key)] != key for key in keys if int(key) < len(names)):
            raise UsageError(
                f"{path}: {keys[0]!r} and others are labels and names of other classes"
            )
        if outside and not by_name:
            raise UsageError(f"{path}: label {outside[0]}, but there are {len(names)} classes")
        if not outside:
            return {key: int(key) for key in keys}
    found = {key: _label_of_name(path, key, names) for key in keys}
    first: dict[int, str] = {}
    for key, label in found.items():
        if first.setdefault(label, key) != key:
            raise UsageError(
                f"{path}: {first[label]!r} and {key!r} are both class {label} ({names[label]}): "
                "put its sentences into one list"
            )
    return found


def _label_of_name(path: Path, key: str, names: Sequence[str]) -> int:
    exact = [label for label, name in enumerate(names) if name == key]
    loose = [label for label, name in enumerate(names) if _loose(name) == _loose(key)]
    found = exact or loose
    if len(found) > 1:
        raise UsageError(
            f"{path}: the name {key!r} belongs to the classes {', '.join(map(str, found))}; "
            "key the file by labels"
        )
    if not found:
        hint = did_you_mean(key, names, lead="; ")
        raise UsageError(f"{path}: no class is named {key!r}{hint}")
    return found[0]


def _loose(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _json_templates(path: Path, dataset: str | None) -> list[Any]:
    content = _read_json(path)
    if isinstance(content, dict):
        if dataset is None and len(content) != 1:
            raise UsageError(
                f"{path}: templates of {_some(sorted(content))}; name one of them, or, if these "
                "are sentences per class, add them to a finished cache with ltcache prompts"
            )
        key = dataset if dataset is not None else next(iter(content))
        if key not in content:
            raise UsageError(f"{path}: no templates of {key!r}, only of {_some(sorted(content))}")
        content = content[key]
    if not isinstance(content, list):
        raise UsageError(f"{path}: neither a list of templates nor an object of lists")
    return content


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text") from None


def _read_json(path: Path) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> JsonObject:
        content = dict(pairs)
        if len(content) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise UsageError(f"{path}: {twice!r} is there twice; key the file by labels")
        return content

    text = _read(path)
    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None


def _some(items: Sequence[str], shown: int = 5) -> str:
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(items[:shown]) + more
