"""Zero-shot logits equal CLIP's own, and refuse texts of another encoder or class list."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ltcache.cache import PromptEmbeddings
from ltcache.encoder import load_encoder
from ltcache.errors import CacheError, IdentityError
from ltcache.records.identity import digest
from ltcache.texts import encode_prompts
from ltcache.zero_shot import cached_logits, scaled_cosines, zero_shot
from tests.encoder.tiny_models import write_tiny_clip

TOWER, TOKENIZER = "a" * 64, {"class": "T"}


class Classes:
    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def identity(self) -> dict[str, Any]:
        return {"names": self.names}


@dataclass
class FakeCache:
    """What zero-shot uses of a cache."""

    embeddings: np.ndarray  # (n, v, D)
    truth: np.ndarray
    classes: Classes
    sets: dict[str, PromptEmbeddings] = field(default_factory=dict)
    splits: tuple[str, ...] = ("train", "test")
    logit_scale: float = 10.0
    logit_bias: float | None = None
    path: Path = Path("CACHE")
    unit: np.ndarray | None = None
    groups: Any = None
    shared_content: tuple[Any, ...] = ()
    encoder: dict[str, Any] = field(
        default_factory=lambda: {"towers": {"text": TOWER}, "tokenizer": TOKENIZER}
    )

    @property
    def manifest(self) -> Any:
        return SimpleNamespace(groups=self.groups)

    def prompts(self, name: str | None = None) -> PromptEmbeddings:
        return self.sets[name or "default"]

    def features(self, split: str, field: str, view: str) -> np.ndarray:
        assert (field, view) == ("embedding", "center")
        return self.embeddings

    def labels(self, split: str) -> np.ndarray:
        return self.truth

    def rows(self, split: str) -> np.ndarray:
        return np.arange(len(self.truth))

    def class_counts(self, split: str) -> np.ndarray:
        assert split == "train"
        return np.array([200, 50, 5])

    def column(self, name: str, split: str) -> np.ndarray | None:
        assert name == "unit"
        return self.unit


def prompts_for(listed: Classes, dim: int = 8, **identity: Any) -> PromptEmbeddings:
    rows = np.random.default_rng(1).normal(size=(len(listed), 1, dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    known = {"text_tower": TOWER, "tokenizer": TOKENIZER, "classes": digest(listed.identity())}
    return PromptEmbeddings(
        name="default",
        texts=[[name] for name in listed.names],
        sentences=rows,
        count=np.ones(len(listed), np.int64),
        mean=rows[:, 0],
        identity={**known, "sentences": "x", **identity},
    )


@pytest.fixture
def cache() -> FakeCache:
    classes = Classes(["a", "b", "c"])
    prompts = prompts_for(classes)
    truth = np.array([0, 0, 1, 2, 2, 1])
    noise = np.random.default_rng(2).normal(size=(6, 1, 8)) * 0.01
    embeddings = (3 * prompts.mean[truth][:, None] + noise).astype(np.float32)
    return FakeCache(embeddings, truth, classes, {"default": prompts})


def test_logits_are_scaled_cosines() -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(5, 4)).astype(np.float32)
    mean = np.eye(3, 4, dtype=np.float32)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    logits = scaled_cosines(embeddings, mean, 20.0)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, 20 * unit[:, :3], rtol=1e-5)
    np.testing.assert_allclose(scaled_cosines(7 * embeddings, mean, 20.0), logits, rtol=1e-5)
    np.testing.assert_allclose(scaled_cosines(embeddings, mean, None), unit[:, :3], rtol=1e-5)
    biased = scaled_cosines(embeddings, mean, 20.0, -10.0)
    np.testing.assert_allclose(biased, logits - 10, rtol=1e-5)
    assert np.isfinite(scaled_cosines(np.zeros((1, 4)), mean, 20.0)).all()


def test_equals_clips_own_logits(tmp_path: Path) -> None:
    encoder = load_encoder(f"local-dir:{write_tiny_clip(tmp_path / 'm')}", device="cpu")
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    texts = ["a cat", "a dog", "a cow"]
    prompts = encode_prompts(encoder, [[text] for text in texts])
    with torch.no_grad():
        images = encoder.preprocessing.normalise(pixels)
        expected, _ = encoder.model.get_logits(images, encoder.tokenizer(texts))
    found = encoder.encode_images(pixels)["embedding"].numpy()
    logits = scaled_cosines(found, prompts.mean, encoder.logit_scale, encoder.logit_bias)
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_scores_a_split(cache: FakeCache) -> None:
    result = zero_shot(cache)
    assert result.logits.shape == (6, 3)
    assert result.prompts == "default"
    assert result.stale == ()
    assert result.metrics.overall == 1
    assert result.metrics.many == result.metrics.medium == result.metrics.few == 1
    assert result.metrics.num_units == 6
    np.testing.assert_array_equal(result.logits, cached_logits(cache, "test", cache.prompts()))


def test_classes_of_the_same_texts_are_named(cache: FakeCache) -> None:
    listed = Classes(["missile", "owl", "missile"])
    same = replace(cache, classes=listed, sets={"default": prompts_for(listed)})
    with pytest.warns(
        UserWarning, match=r"the same for the classes 0 and 2 \(missile\): zero-shot"
    ):
        zero_shot(same)  # type: ignore[arg-type]


def test_units_and_groups_reach_the_metrics(cache: FakeCache) -> None:
    cache.unit = np.array(["x", "x", "y", "z", "z", "y"])
    cache.groups = {"many": [2], "few": [0, 1]}
    metrics = zero_shot(cache).metrics
    assert metrics.num_units == 3
    assert metrics.group_sizes == {"many": 1, "medium": 0, "few": 2}


def test_rows_without_a_label_are_not_scored(cache: FakeCache) -> None:
    cache.truth = np.array([0, -1, 1, 2, -1, 1])
    result = zero_shot(cache)
    assert len(result.logits) == 6
    assert result.metrics.num_rows == 4
    cache.truth = np.full(6, -1)
    with pytest.raises(CacheError, match="none of the 6 images of .test. has a label"):
        zero_shot(cache)


def test_without_a_training_split_no_class_is_few(cache: FakeCache) -> None:
    cache.splits = ("test",)
    metrics = zero_shot(cache).metrics
    assert metrics.overall == 1
    assert metrics.group_sizes == {"many": 0, "medium": 0, "few": 0}
    assert metrics.group_scheme.startswith("unknown")


def test_crops_are_averaged(cache: FakeCache) -> None:
    one = zero_shot(cache).logits
    cache.embeddings = np.concatenate([cache.embeddings, -2 * cache.embeddings], axis=1)
    np.testing.assert_allclose(zero_shot(cache).logits, np.zeros_like(one), atol=1e-5)


def test_prompts_by_name_or_value(cache: FakeCache) -> None:
    cache.sets["other"] = replace(cache.sets["default"], name="other")
    assert zero_shot(cache, prompts="other").prompts == "other"
    assert zero_shot(cache, prompts=cache.sets["other"]).prompts == "other"


@pytest.mark.parametrize(
    "changed", [{"text_tower": "b" * 64}, {"tokenizer": {"class": "U"}}, {"classes": "other"}]
)
def test_prompts_of_something_else_are_refused(cache: FakeCache, changed: dict[str, Any]) -> None:
    other = prompts_for(cache.classes, **changed)
    with pytest.raises(IdentityError) as info:
        zero_shot(cache, prompts=other)
    (field_name,) = info.value.differences
    assert field_name.startswith(next(iter(changed)))
    assert info.value.exit_status == 4
    assert "ltcache prompts" in str(info.value)
    allowed = zero_shot(cache, prompts=other, allow_stale=["prompts"])
    assert allowed.stale == allowed.metrics.stale == (f"prompts.{field_name}",)


def test_embeddings_that_are_not_finite_are_refused(cache: FakeCache) -> None:
    cache.embeddings[2, 0, 1] = np.nan
    with pytest.raises(CacheError, match="hold NaN"):
        zero_shot(cache)
