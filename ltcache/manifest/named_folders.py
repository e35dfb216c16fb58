"""Whether images lie in folders that are named after another class than theirs.

A class list in another order, of another data set or shifted by one fits the labels as well as the
right one, and every number computed with it is right but for the names. The folders of the images
often tell.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.manifest.classes import ClassList, composed, readable_name
from ltcache.manifest.text import some

_FOLDER = r"^(?:.*/)?(?P<folder>[^/]+)/[^/]+$"
_ROWS = 200_000  # that are looked at
_PURE = 0.95  # share of one label among the images of a folder that stands for a class


def misnamed_classes(uris: pa.ChunkedArray, labels: np.ndarray, classes: ClassList) -> list[str]:
    """Return a sentence where images of a class lie in folders named after another class.

    A folder counts that holds images of one class alone and is called as just one class of the
    list, by its name or its source id; numbers do not count, for they number other things, too. Of
    long lists, 200,000 rows spread evenly are looked at.

    Args:
        uris: n paths.
        labels: int64 (n,), -1 for unlabelled.
    """
    chosen = np.flatnonzero(labels >= 0)
    chosen = chosen[:: -(-len(chosen) // _ROWS) or 1]
    named = _label_of(classes)
    if not len(chosen) or not named:
        return []
    folders = pc.struct_field(pc.extract_regex(uris.take(chosen), _FOLDER), "folder")
    coded = folders.combine_chunks().dictionary_encode()
    owners = _owners(coded, labels[chosen], len(classes))
    misnamed = [
        (label, folder, other)
        for folder, label in zip(coded.dictionary.to_pylist(), owners.tolist(), strict=True)
        if label >= 0 and (other := named.get(_word(folder), label)) != label
    ]
    if not misnamed:
        return []
    shown = some(
        f"label {label} ({classes.names[label]}) has images in {folder!r}, the name of label "
        f"{other}"
        for label, folder, other in sorted(misnamed)
    )
    return [f"the class names may be those of other labels: {shown}"]


def _label_of(classes: ClassList) -> dict[str, int]:
    """Return what just one class is called -> its label."""
    found: dict[str, int] = {}
    for label, called in enumerate(zip(classes.names, classes.source_ids, strict=True)):
        for word in {_word(name) for name in called if name is not None and not name.isdigit()}:
            found[word] = label if found.get(word, label) == label else -1
    return {word: label for word, label in found.items() if label >= 0}


def _word(name: str) -> str:
    return readable_name(composed(name)).casefold()


def _owners(folders: pa.DictionaryArray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the one class whose images a folder holds, -1 where it holds several; int64 (F,)."""
    codes = pc.fill_null(folders.indices, -1).to_numpy(zero_copy_only=False)
    inside = codes >= 0
    pairs, counts = np.unique(
        codes[inside].astype(np.int64) * num_classes + labels[inside], return_counts=True
    )
    owners = np.full(len(folders.dictionary), -1, dtype=np.int64)
    total = np.bincount(pairs // num_classes, counts, minlength=len(owners))
    pure = counts >= _PURE * total[pairs // num_classes]
    owners[pairs[pure] // num_classes] = pairs[pure] % num_classes
    return owners
