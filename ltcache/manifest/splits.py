"""Which split a file or folder name stands for."""

from __future__ import annotations

import re

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "pool": "pool",
    "unlabeled": "pool",
    "unlabelled": "pool",
}
_SHARD = re.compile(r"[-_.]?[0-9]{3,}(-of-[0-9]{3,})?(-[0-9a-f]{8,})?$")  # train-00000-of-00004
_WORDS = re.compile(r"[A-Za-z]+")


def known_split(name: str) -> str | None:
    """Return the split that ``name`` as a whole stands for (``valid`` -> ``val``), or None."""
    return SPLIT_WORDS.get(name.strip().lower())


def canonical_split(name: str) -> str:
    """Return the usual name of a split, or the name itself where there is none."""
    return known_split(name) or name.strip()


def split_in(stem: str) -> tuple[str | None, str]:
    """Return the split that a file name tells and the name of the dataset around it.

    ``Places_LT_train`` -> (``train``, ``Places_LT``); the last such word counts, and the numbers
    of shards (``train-00000-of-00004``) do not.
    """
    if shard := _SHARD.search(stem):
        numberless = stem[: shard.start()]
        if any(word.lower() in SPLIT_WORDS for word in _WORDS.findall(numberless)):
            stem = numberless
    found = [word for word in _WORDS.finditer(stem) if word.group().lower() in SPLIT_WORDS]
    if not found:
        return None, stem
    word = found[-1]
    around = (stem[: word.start()].rstrip("_-. "), stem[word.end() :].lstrip("_-. "))
    return SPLIT_WORDS[word.group().lower()], "_".join(part for part in around if part)
