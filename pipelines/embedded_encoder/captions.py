"""Captions of the corpus as BPE rows, sampled anew for every batch."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from open_clip import OPENAI_IMAGENET_TEMPLATES
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from pipelines.embedded_encoder.corpus import Example

CONTEXT = 24
CLASS_SHARE = 0.3  # of the captions of an image with class names are one of these
OPENAI_SHARE = 0.1
TEMPLATES = ("{}", "{}", "a drawing of {}", "an emoji of {}", "an icon of {}", "a picture of {}")


class Captions:
    """Tokenises with CLIP's full vocabulary and keeps the rows that training touches."""

    def __init__(self, examples: Sequence[Example], seed: int) -> None:
        self.examples = examples
        self.rng = random.Random(seed)
        self.tokenizer = SimpleTokenizer(context_length=CONTEXT)
        self._openai = [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
        self._tokens: dict[str, list[int]] = {}
        self._ids: dict[str, int] = {}
        # One readable name for each subgroup of an emoji or of an icon named like one.
        named = {e.class_names[0] for e in examples if e.class_names and e.kind != "clipart"}
        self.class_names = sorted(named)
        index = {name: i for i, name in enumerate(self.class_names)}
        self.classes = torch.tensor(
            [index[e.class_names[0]] if e.class_names and e.kind != "clipart" else -1
             for e in examples]
        )  # fmt: skip

    def core(self, example: Example) -> str:
        """A class name, a label with tags, or one caption."""
        if example.class_names and self.rng.random() < CLASS_SHARE:
            return self.rng.choice(example.class_names)
        text = self.rng.choice(example.captions)
        if text == example.captions[0] and self.rng.random() < 0.3:
            tags = [c for c in example.captions if c != text]
            text = ", ".join([text, *self.rng.sample(tags, min(2, len(tags)))])
        return text

    def single(self, row: int) -> str:
        """A class name or one caption of an example, never a combination."""
        example = self.examples[row]
        if example.class_names and self.rng.random() < CLASS_SHARE:
            return self.rng.choice(example.class_names)
        return self.rng.choice(example.captions)

    def wrap(self, core: str) -> str:
        templates = self._openai if self.rng.random() < OPENAI_SHARE else TEMPLATES
        return self.rng.choice(templates).replace("{}", core)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(N,) texts -> (N, L) token ids, L the longest of them, as open_clip makes them."""
        for text in texts:
            if text not in self._tokens:
                body = self.tokenizer.encode(text)[: CONTEXT - 2]
                self._tokens[text] = [
                    self.tokenizer.sot_token_id, *body, self.tokenizer.eot_token_id
                ]  # fmt: skip
        rows = [self._tokens[text] for text in texts]
        out = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for i, row in enumerate(rows):
            out[i, : len(row)] = torch.tensor(row)
        return out

    def sample(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Token ids (N, L) and caption identities (N,): equal captions share their target."""
        cores = [self.core(self.examples[i]) for i in rows]
        ids = torch.tensor([self._ids.setdefault(core, len(self._ids)) for core in cores])
        return self.tokenize([self.wrap(core) for core in cores]), ids

    def class_prompts(self) -> Tensor:
        """(C, L) one random prompt for each class name."""
        return self.tokenize([self.wrap(name) for name in self.class_names])

    def used_tokens(self) -> list[int]:
        """Rows of the token table that captions, class names or templates touch."""
        texts = {t for e in self.examples for t in (*e.captions, *e.class_names)}
        texts |= {t.replace("{}", " ") for t in (*TEMPLATES, *self._openai)}
        special = {0, self.tokenizer.sot_token_id, self.tokenizer.eot_token_id}
        return sorted(special | {token for t in texts for token in self.tokenizer.encode(t)})
