"""Sentences about classes, encoded once and kept both apart and averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ltcache.cache import PromptEmbeddings
from ltcache.encoder import Encoder
from ltcache.errors import UsageError
from ltcache.records import JsonObject, digest


def encode_prompts(
    encoder: Encoder,
    sentences: Sequence[Sequence[str]],
    name: str = "default",
    classes_identity: Mapping[str, Any] | str = "",
    *,
    batch_size: int = 256,
) -> PromptEmbeddings:
    """Encode the sentences of all classes, equal ones once, in batches over all of them.

    Args:
        sentences: C lists of at least one sentence each, in label order.
        name: what the set is called in a cache.
        classes_identity: of the class list (its digest is kept), or that digest.

    Raises:
        UsageError: a class without a sentence.
    """
    for label, texts in enumerate(sentences):
        if not texts:
            raise UsageError(f"prompts {name!r}: class {label} has no sentence")
    row = {text: number for number, text in enumerate(dict.fromkeys(_flat(sentences)))}
    rows = _unit(encoder.encode_texts(list(row), batch_size).numpy())  # (unique, D)
    count = np.array([len(texts) for texts in sentences], dtype=np.int64)
    values = np.zeros((len(sentences), int(count.max(initial=0)), rows.shape[1]), np.float32)
    mean = np.empty((len(sentences), rows.shape[1]), np.float32)
    for label, texts in enumerate(sentences):
        values[label, : len(texts)] = rows[[row[text] for text in texts]]
        mean[label] = values[label, : len(texts)].mean(axis=0)
    return PromptEmbeddings(
        name=name,
        texts=[list(texts) for texts in sentences],
        sentences=values,
        count=count,
        mean=_unit(mean),
        identity=prompts_identity(encoder.identity, sentences, classes_identity),
    )


def prompts_identity(
    encoder: Mapping[str, Any],
    sentences: Sequence[Sequence[str]],
    classes_identity: Mapping[str, Any] | str,
) -> JsonObject:
    """Return the identity of a set of class texts: what its embeddings depend on, and no more."""
    classes = classes_identity if isinstance(classes_identity, str) else digest(classes_identity)
    return {
        "text_tower": encoder["towers"]["text"],
        "text_architecture": {
            "activation": encoder["architecture"]["activation"],
            "config": encoder["architecture"]["config"]["text"],
        },
        "tokenizer": encoder["tokenizer"],
        "classes": classes,
        "sentences": digest([list(texts) for texts in sentences]),
    }


def _flat(sentences: Sequence[Sequence[str]]) -> list[str]:
    return [text for texts in sentences for text in texts]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
