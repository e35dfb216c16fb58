"""Which texts a tokenizer cut, for every kind of tokenizer that open_clip has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from open_clip.tokenizer import HFTokenizer

from ltcache.encoder.tokens import count_cut

CONTEXT = 8
PAD, END, START, CLASS, WORD = range(5)


class _WordTokenizer:
    """A tokenizer of transformers, of one number for every word.

    Args:
        start: marks before a text. end: marks behind it. pad: what fills the context.
    """

    bos_token_id, eos_token_id, sep_token_id, cls_token_id = START, END, END, CLASS

    def __init__(self, start: list[int], end: list[int], pad: int) -> None:
        self.start, self.end, self.pad_token_id = start, end, pad

    def __call__(
        self,
        texts: str | list[str],
        max_length: int = CONTEXT,
        truncation: bool = False,
        padding: str | bool = False,
        add_special_tokens: bool = True,
        return_tensors: str | None = None,
    ) -> Any:
        if isinstance(texts, str):
            return SimpleNamespace(input_ids=self._row(texts, None, add_special_tokens))
        limit = max_length if truncation else None
        rows = [self._row(text, limit, add_special_tokens) for text in texts]
        if not padding:
            return {"input_ids": rows}
        full = [row + [self.pad_token_id] * (max_length - len(row)) for row in rows]
        return SimpleNamespace(input_ids=torch.tensor(full))

    def _row(self, text: str, limit: int | None, marks: bool) -> list[int]:
        start, end = (self.start, self.end) if marks else ([], [])
        room = None if limit is None else limit - len(start) - len(end)
        return [*start, *[WORD] * len(text.split()[:room]), *end]


def _tokenizer(inner: _WordTokenizer, mode: str = "", strip: bool = False) -> HFTokenizer:
    found = HFTokenizer.__new__(HFTokenizer)  # its own start needs transformers
    found.tokenizer, found.context_length, found.clean_fn = inner, CONTEXT, str.strip
    found.tokenizer_mode, found.strip_sep_token = mode, strip
    return found


@pytest.mark.parametrize(
    ("tokenizer", "room"),
    [
        (_tokenizer(_WordTokenizer([CLASS], [END], PAD)), 6),
        (_tokenizer(_WordTokenizer([CLASS], [END], PAD), strip=True), 6),
        (_tokenizer(_WordTokenizer([], [END], END)), 7),
        (_tokenizer(_WordTokenizer([], [], PAD)), 8),
        (_tokenizer(_WordTokenizer([CLASS], [END], PAD), mode="clips"), 5),
    ],
    ids=["bert", "clipa", "siglip", "siglip2", "clips"],
)
def test_texts_are_counted_that_lose_a_word(tokenizer: HFTokenizer, room: int) -> None:
    texts = ["cat " * words for words in (1, room - 1, room, room + 1, room + 3)]
    tokens = tokenizer(texts)
    assert tokens.shape == (5, CONTEXT)
    assert (tokens == WORD).sum(dim=1).tolist() == [1, room - 1, room, room, room]
    assert count_cut(tokenizer, texts, tokens) == texts[3:]
