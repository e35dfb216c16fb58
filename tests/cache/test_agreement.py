"""Class prompts belong to a cache by text tower, tokenizer and class list, wherever it is asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ltcache.cache import PromptEmbeddings, check_prompts
from ltcache.cache.agreement import foreign_parts
from ltcache.errors import IdentityError
from ltcache.manifest import ClassList
from ltcache.records import digest

CLASSES = ClassList(("moth", "newt"), (None, None))
TOKENIZER = {"class": "SimpleTokenizer", "context_length": 77}


def cache_of(encoder: dict[str, Any]) -> Any:
    return SimpleNamespace(encoder=encoder, classes=CLASSES)


def prompts_of(**identity: Any) -> PromptEmbeddings:
    rows = np.eye(2, dtype=np.float32)
    whole = {"text_tower": "t", "tokenizer": TOKENIZER, "classes": digest(CLASSES.identity())}
    texts = [["a moth"], ["a newt"]]
    count = np.ones(2, np.int64)
    return PromptEmbeddings("mine", texts, rows[:, None], count, rows, {**whole, **identity})


CACHE = cache_of({"towers": {"image": "i", "text": "t"}, "tokenizer": TOKENIZER})


def test_texts_of_the_same_origin_agree() -> None:
    assert foreign_parts(CACHE, prompts_of(sentences="anything")) == []
    assert check_prompts(CACHE, prompts_of(sentences="anything")) == []


@pytest.mark.parametrize(
    ("part", "value", "field"),
    [
        ("text_tower", "other", "text_tower"),
        ("tokenizer", {**TOKENIZER, "context_length": 64}, "tokenizer.context_length"),
        ("classes", "0" * 64, "classes"),
    ],
)
def test_each_part_tells_texts_of_another_origin(part: str, value: Any, field: str) -> None:
    other = prompts_of(**{part: value})
    assert foreign_parts(CACHE, other) == [part]
    with pytest.raises(IdentityError) as info:
        check_prompts(CACHE, other)
    assert set(info.value.differences) == {field}
    assert check_prompts(CACHE, other, ["prompts"]) == [f"prompts.{field}"]


def test_imported_features_and_their_texts_name_no_tokenizer() -> None:
    imported = cache_of({"towers": {"image": "i", "text": "t"}, "tokenizer": None})
    assert foreign_parts(imported, prompts_of(tokenizer=None)) == []
    assert foreign_parts(imported, prompts_of()) == ["tokenizer"]
