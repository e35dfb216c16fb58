"""Initialisations of the linear and cosine heads; then transforms. test_catalogue has the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.heads import (
    HEADS,
    TRANSFORMS,
    CosineHead,
    FeatureTransform,
    HeadContext,
    LinearHead,
    predicted_labels,
)


def _context(pooled: bool = False) -> HeadContext:
    generator = torch.Generator().manual_seed(1)
    text = F.normalize(torch.randn(5, 6 if not pooled else 4, generator=generator), dim=1)
    return HeadContext(
        dim=6,
        num_classes=5,
        class_counts=torch.tensor([9, 5, 3, 2, 1]),
        text_features=text,
        projection=torch.randn(6, 4, generator=generator) if pooled else None,
        logit_scale=20.0,
    )


def _rows(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(20, 6, generator=generator, dtype=dtype)
    return features, torch.arange(20) % 5


def test_class_means_are_unit_and_spare_an_empty_class() -> None:
    features, _ = _rows()
    labels = torch.arange(20) % 4
    head = LinearHead(_context())
    head.initialise("class_mean", features, labels, torch.Generator(), _context())
    expected = F.normalize(features[labels == 1].mean(0), dim=0)
    torch.testing.assert_close(head.weight[1].detach(), expected)
    assert head.weight[4].abs().sum() == 0


def test_text_start_in_the_joint_space_and_through_the_projection() -> None:
    features, labels = _rows()
    head = CosineHead(_context(), scale=3.0)
    head.initialise("text", features, labels, torch.Generator(), _context())
    text = _context().text_features
    assert text is not None
    torch.testing.assert_close(head(features), 3 * F.normalize(features, dim=1) @ text.T)
    context = _context(pooled=True)
    head.initialise("text", features, labels, torch.Generator(), context)
    scores = features @ context.projection @ context.text_features.T  # type: ignore[operator,union-attr]
    lengths = (context.projection @ context.text_features.T).norm(dim=0)  # type: ignore[operator,union-attr]
    expected = 3 * scores / lengths / features.norm(dim=1, keepdim=True)
    torch.testing.assert_close(head(features), expected)


def test_text_start_needs_texts_of_the_right_space() -> None:
    bare = HeadContext(6, 5, torch.ones(5))
    with pytest.raises(FitError, match="ltcache prompts"):
        bare.text_directions()
    other = HeadContext(7, 5, torch.ones(5), text_features=_context().text_features)
    with pytest.raises(FitError, match="no projection"):
        other.text_directions()


def test_scale_multiplies_the_cosine() -> None:
    features, labels = _rows()
    head = CosineHead(_context(), scale=16.0)
    head.initialise("class_mean", features, labels, torch.Generator(), _context())
    assert head.config() == {"scale": 16.0}
    assert head(1000 * features).abs().max() <= 16.0 + 1e-4


def test_linear_head_without_bias() -> None:
    head = LinearHead(_context(), bias=False)
    assert set(head.state_dict()) == {"weight"} and head.config() == {"bias": False}
    assert head.affine().bias is None


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_transform_state_survives(kind: str, tmp_path: Path) -> None:
    features, _ = _rows()
    features = 3 * features + 2
    transform = FeatureTransform(kind, 6).fit(features)
    save_file(transform.state_dict(), tmp_path / "t.safetensors")
    again = FeatureTransform(kind, 6)
    again.load_state_dict(load_file(tmp_path / "t.safetensors"))
    result = transform(features)
    assert torch.equal(again(features), result)
    if kind.endswith("l2"):
        torch.testing.assert_close(result.norm(dim=1), torch.ones(20))
    if kind == "standardize":
        torch.testing.assert_close(result.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
        torch.testing.assert_close(result.std(0, correction=0), torch.ones(6))
    if kind == "none":
        assert result is features


def test_transform_of_a_constant_channel_is_finite() -> None:
    features, _ = _rows()
    features[:, 2] = 4.0
    result = FeatureTransform("standardize", 6).fit(features)(features)
    assert torch.isfinite(result).all() and result[:, 2].abs().max() < 1e-5


def test_unknown_transform_is_refused() -> None:
    with pytest.raises(FitError, match="known: none, l2"):
        FeatureTransform("whiten", 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (300, 7), (20, 3, 11)])
def test_the_predicted_label_is_the_first_of_the_largest_logits(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(-2, 3, shape, generator=generator).to(dtype)  # many are equal
    if len(logits) > 5:
        logits[2, ..., 1], logits[3], logits[4] = torch.nan, torch.inf, -torch.inf
    found = predicted_labels(logits.requires_grad_())
    assert found.dtype == torch.int64 and torch.equal(found, logits.argmax(dim=-1))
    turned = logits.detach().transpose(0, -1)
    if 0 not in turned.shape:
        assert torch.equal(predicted_labels(turned), turned.argmax(dim=-1))


@pytest.mark.parametrize("name", [n for n, head in HEADS.items() if head.keeps])
def test_a_head_of_class_texts_says_that_there_are_none(name: str) -> None:
    with pytest.raises(FitError, match="needs class texts; add them with ltcache prompts"):
        HEADS[name](replace(_context(), text_features=None))
