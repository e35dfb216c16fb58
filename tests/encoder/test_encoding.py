"""Texts and class sentences equal plain open_clip, in any batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import open_clip
import pytest
import torch

from ltcache.encoder import (
    Encoder,
    load_encoder,
    openai_simple_templates,
    openai_templates,
)
from ltcache.errors import UsageError
from ltcache.records.identity import canonical_json, digest
from ltcache.texts import encode_prompts

TEXTS = ["a photo of a cat.", "Two   DOGS", "", "naïve café &amp; co", "x " * 20]


@pytest.fixture
def encoder(tiny: Callable[..., Encoder]) -> Encoder:
    return tiny(kind="vit")


def test_equals_plain_open_clip(encoder: Encoder, tiny_folder: Callable[..., object]) -> None:
    folder = f"local-dir:{tiny_folder(kind='vit')}"
    model, _ = open_clip.create_model_from_pretrained(folder)
    tokens = open_clip.get_tokenizer(folder)(TEXTS)
    with torch.no_grad():
        expected = model.eval().encode_text(tokens)
    assert torch.equal(encoder.encode_texts(TEXTS), expected)


def test_batches_change_rounding_only(encoder: Encoder) -> None:
    whole = encoder.encode_texts(TEXTS)
    for size in (1, 2, 3):
        torch.testing.assert_close(encoder.encode_texts(TEXTS, batch_size=size), whole)
    assert encoder.encode_texts([]).shape == (0, 32)


def test_cut_texts_are_counted_once(encoder: Encoder, caplog: pytest.LogCaptureFixture) -> None:
    fits = "cat " * 75  # 75 words and two marks fill the context exactly
    long = "dog " * 76
    encoder.encode_texts([fits, "cat"])
    assert not caplog.records
    encoder.encode_texts([long, fits, long + "x", "cat"], batch_size=2)
    assert len(caplog.records) == 1
    assert "2 of 4 texts are longer than 77 tokens" in caplog.text
    assert long in caplog.text


def test_templates_of_openai() -> None:
    templates = openai_templates()
    assert len(templates) == 80
    assert len(set(templates)) == 80
    assert templates[0] == "a bad photo of a {}."
    assert all(template.count("{}") == 1 for template in templates)
    assert len(openai_simple_templates()) == 7
    assert openai_simple_templates()[0] == "itap of a {}."


def test_prompts_are_unit_padded_and_averaged(encoder: Encoder) -> None:
    sentences = [["a cat", "one cat", "a cat"], ["a dog"], ["a cow", "a dog"]]
    prompts = encode_prompts(encoder, sentences, "mine", {"names": "digest"})
    assert prompts.sentences.shape == (3, 3, 32)
    assert prompts.sentences.dtype == prompts.mean.dtype == np.float32
    assert prompts.count.tolist() == [3, 1, 2]
    assert prompts.name == "mine"
    assert prompts.texts == sentences
    for label, texts in enumerate(sentences):
        rows = encoder.encode_texts(texts).numpy()
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        np.testing.assert_allclose(prompts.sentences[label, : len(texts)], unit, atol=1e-6)
        assert not prompts.sentences[label, len(texts) :].any()
        mean = unit.mean(axis=0)
        np.testing.assert_allclose(prompts.mean[label], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_array_equal(prompts.sentences[1, 0], prompts.sentences[2, 1])


def test_equals_the_zero_shot_weights_of_open_clip(encoder: Encoder) -> None:
    names = ["cat", "dog", "cow"]
    templates = openai_simple_templates()
    prompts = encode_prompts(encoder, [[t.format(name) for t in templates] for name in names])
    weights = open_clip.build_zero_shot_classifier(
        encoder.model, encoder.tokenizer, names, templates, device="cpu"
    )
    np.testing.assert_allclose(prompts.mean.T, weights.numpy(), atol=1e-6)


def test_equal_texts_are_encoded_once(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    encode = encoder.encode_texts

    def count(texts: list[str], batch_size: int) -> torch.Tensor:
        seen.extend(texts)
        return encode(texts, batch_size)

    monkeypatch.setattr(encoder, "encode_texts", count)
    encode_prompts(encoder, [["a", "b"], ["b", "c"]])
    assert seen == ["a", "b", "c"]


def test_identity_names_tower_tokenizer_classes_and_sentences(
    encoder: Encoder, tiny_folder: Callable[..., object]
) -> None:
    def identity(sentences: list[list[str]], classes: object, by: Encoder = encoder) -> str:
        return digest(dict(encode_prompts(by, sentences, "x", classes).identity))

    base = identity([["a"], ["b"]], {"c": 1})
    assert base == identity([["a"], ["b"]], digest({"c": 1}))
    assert base != identity([["a"], ["c"]], {"c": 1})
    assert base != identity([["a"], ["b"]], {"c": 2})
    quick = load_encoder(f"local-dir:{tiny_folder(kind='vit', quick_gelu=True)}", device="cpu")
    assert base != identity([["a"], ["b"]], {"c": 1}, quick)
    found = encode_prompts(encoder, [["a"]], "x", {"c": 1}).identity
    assert found["text_tower"] == encoder.identity["towers"]["text"]
    assert found["tokenizer"] == encoder.identity["tokenizer"]
    assert found["classes"] == digest({"c": 1})
    canonical_json(dict(found))


def test_a_class_without_a_sentence_is_refused(encoder: Encoder) -> None:
    with pytest.raises(UsageError, match="class 1 has no sentence"):
        encode_prompts(encoder, [["a"], []])
