"""Class texts and their embeddings: one set per text tower, class list and sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ltcache.cache.layout import prompts_path
from ltcache.cache.shards import array_file, map_array
from ltcache.errors import CacheError
from ltcache.records import canonical_json, digest, one_line, write_whole


@one_line
@dataclass(frozen=True, eq=False)
class PromptEmbeddings:
    """Sentences of every class in the joint space, unaveraged and averaged.

    Args:
        name: what the set is called in a cache (``default``, ``openai``...).
        texts: the sentences of each class, C lists.
        sentences: float32 (C, M, D), unit rows; zeros beyond a class's count.
        count: int64 (C,), sentences of each class.
        mean: float32 (C, D), the mean of a class's unit rows, of unit length again (the prompt
            ensembling of CLIP, Radford et al. 2021, section 3.1.4).
        identity: text tower, tokenizer, class list and a digest of the sentences.

    Raises:
        CacheError: shapes that do not belong together, or rows that are not of unit length.
    """

    name: str
    texts: Sequence[Sequence[str]]
    sentences: np.ndarray
    count: np.ndarray
    mean: np.ndarray
    identity: Mapping[str, Any]

    def __post_init__(self) -> None:
        classes, most, dim = self.sentences.shape
        if self.count.shape != (classes,) or self.mean.shape != (classes, dim):
            raise CacheError(
                f"prompts {self.name!r}: sentences {self.sentences.shape}, count "
                f"{self.count.shape} and mean {self.mean.shape} do not belong together"
            )
        if [len(texts) for texts in self.texts] != self.count.tolist() or self.count.max() > most:
            raise CacheError(f"prompts {self.name!r}: the count is not that of the texts")
        if not np.allclose(np.linalg.norm(self.mean, axis=1), 1, atol=1e-3):
            raise CacheError(f"prompts {self.name!r}: the class means are not of unit length")


def write_prompts(cache: Path, prompts: PromptEmbeddings) -> list[str]:
    """Write a set of class texts; a set that is there already is left alone.

    Returns:
        The two files' paths relative to the cache: arrays (h5) and texts (json).
    """
    path = prompts_path(cache, digest(prompts.identity))
    texts = path.with_suffix(".json")
    if not path.exists():
        arrays = {name: getattr(prompts, name) for name in ("sentences", "count", "mean")}
        write_whole(path, array_file(arrays))
    header = {"identity": prompts.identity, "texts": [list(text) for text in prompts.texts]}
    write_whole(texts, canonical_json(header).encode())
    return [path.relative_to(cache).as_posix(), texts.relative_to(cache).as_posix()]


def read_prompts(cache: Path, name: str, arrays: str, texts: str) -> PromptEmbeddings:
    """Return the set of class texts stored in two files of a cache.

    Raises:
        CacheError: a file is missing or damaged.
    """
    try:
        header = json.loads((cache / texts).read_text())
    except (OSError, ValueError) as error:
        raise CacheError(f"{cache / texts}: cannot read the prompts ({error})") from None
    fields = ("sentences", "count", "mean")
    values = {field: np.array(map_array(cache / arrays, field)) for field in fields}
    return PromptEmbeddings(name, header["texts"], identity=header["identity"], **values)
