"""Which split a file, a folder, an array or a value stands for: the one vocabulary of splits."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

SPLITS = ("train", "val", "test", "pool")
"""The usual splits, in the order in which they are listed."""

_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "dev", "devel"),
    "test": ("test", "testing"),
    "pool": ("pool", "unlabeled", "unlabelled"),
}
SPLIT_WORDS = {
    f"{word}{end}": split
    for split, words in _NAMES.items()
    for word in words
    for end in ("", "set", "split")
}
"""Word in lower case -> the split that it stands for (``trainset`` -> ``train``)."""

_DECORATION = re.compile(
    "sets?|splits?|subset|part|data|dataset|images?|imgs?|photos?|pictures?|examples?|samples?"
)
_ALMOST = ("trainval", "traindev", "eval", "evaluation", "holdout", "heldout", "fold", "folds")
_SHARD = re.compile(r"[-_.]?[0-9]{3,}(-of-[0-9]{3,})?(-[0-9a-f]{8,})?$")  # train-00000-of-00004
_WORDS = re.compile(r"[A-Za-z]+")
_ONLY_WORDS = re.compile(r"[A-Za-z]+([-_. ]+[A-Za-z]+)*")


def known_split(name: str) -> str | None:
    """Return the split that ``name`` as a whole stands for, or None.

    ``valid`` -> ``val``, ``training_set`` and ``train images`` -> ``train``.
    """
    name = name.strip().lower()
    if not _ONLY_WORDS.fullmatch(name):
        return None
    words = _bare_words(name)
    return SPLIT_WORDS.get(words[0]) if len(words) == 1 else None


def _bare_words(name: str) -> list[str]:
    """Return the words of a name in lower case, without those that say nothing (``set``)."""
    words = _WORDS.findall(name.lower())
    return [word for word in words if not _DECORATION.fullmatch(word)]


def says_nothing(name: str) -> bool:
    """Return whether a folder's name says no more than that it holds data (``images``)."""
    return bool(_ONLY_WORDS.fullmatch(name.strip())) and not _bare_words(name)


def canonical_split(name: str) -> str:
    """Return the usual name of a split, or the name itself where there is none."""
    return known_split(name) or name.strip()


def looks_like_split(name: str) -> bool:
    """Return whether a person would take ``name`` for a split: ``train2017``, ``trainval``."""
    words = _bare_words(name)
    only = name.isascii() and all(word in SPLIT_WORDS or word in _ALMOST for word in words)
    return bool(words) and only


def splits_of(names: Collection[str]) -> dict[str, str] | None:
    """Return name -> split for names that are splits all of them, else None.

    Each is one as a whole, or all are splits with the same words or numbers around them
    (``train2017`` beside ``val2017``).
    """
    known = {name: known_split(name) for name in names}
    if all(known.values()):
        return {name: str(split) for name, split in known.items()}
    told = {name: split_in(name) for name in names}
    splits = [split for split, _ in told.values() if split]
    one_name = len({around for _, around in told.values()}) == 1
    if len(names) > 1 and one_name and len(set(splits)) == len(names):
        return {name: str(split) for name, (split, _) in told.items()}
    return None


def split_in(stem: str) -> tuple[str | None, str]:
    """Return the split that a file name tells and the name of the dataset around it.

    ``Places_LT_train`` -> (``train``, ``Places_LT``); the last such word counts, and the numbers
    of shards (``train-00000-of-00004``) do not. ``train_val`` is the name of neither.
    """
    if shard := _SHARD.search(stem):
        numberless = stem[: shard.start()]
        if any(word.lower() in SPLIT_WORDS for word in _WORDS.findall(numberless)):
            stem = numberless
    found = [word for word in _WORDS.finditer(stem) if word.group().lower() in SPLIT_WORDS]
    if not found or _joined(stem, found[-2:]):
        return None, stem
    word = found[-1]
    around = (stem[: word.start()].rstrip("_-. "), stem[word.end() :].lstrip("_-. "))
    return SPLIT_WORDS[word.group().lower()], "_".join(part for part in around if part)


def _joined(stem: str, words: list[re.Match[str]]) -> bool:
    """Return whether two words are one name for training and validation rows (``train_val``)."""
    if {SPLIT_WORDS[word.group().lower()] for word in words} != {"train", "val"}:
        return False
    return not stem[words[0].end() : words[1].start()].strip("-_+. &")


def in_order(found: Sequence[str]) -> tuple[str, ...]:
    """Return splits: train, val, test and pool first, then others as they appear."""
    first = [split for split in SPLITS if split in found]
    return tuple(first + [split for split in found if split not in first])
