"""Rows too large to copy: fits gather from what the caller holds, with the same results."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ltcache.fit import FitJob, FitOptions, RowFeatures, fit_head, fit_many, row_features
from ltcache.fit.head import OneFit
from ltcache.heads import FeatureTransform
from ltcache.methods import METHODS
from tests.fit.test_catalogue import CONTEXT, DIM, TRAIN, VAL, logits, short

FEATURES = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
SOME = torch.tensor([4, 4, 31, 0, 17])


def doubled(features: Tensor) -> Tensor:
    return torch.cat([features, 2 * features], dim=1)


@pytest.fixture
def nothing_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_features, "LARGE", 0)


@pytest.fixture(params=["copied", "shared"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(row_features, "LARGE", 0 if request.param == "shared" else 2**26)
    return str(request.param)


def test_rows_that_were_taken_and_mapped_are_those_rows(either: str) -> None:
    shown = doubled(FEATURES[SOME])
    for found in (
        RowFeatures(FEATURES).take(SOME).mapped(doubled),
        RowFeatures(FEATURES).mapped(doubled).take(SOME),
        RowFeatures(FEATURES).take(torch.arange(9, 50)).take(SOME[SOME > 9] - 9).mapped(doubled),
    ):
        expected = shown if len(found) == len(SOME) else shown[SOME > 9]
        assert torch.equal(found.whole(), expected)
        assert torch.equal(found.part(1, 2), expected[1:2])
        assert torch.equal(found.gather(torch.tensor([1, 0, 1])), expected[[1, 0, 1]])
        blocks = list(found.blocks(2))
        assert torch.equal(torch.cat([block for _, block in blocks]), expected)
        assert all(torch.equal(block, expected[where]) for where, block in blocks)
        assert found.copied == (either == "copied")
        assert (found.stored.data_ptr() == FEATURES.data_ptr()) == (either == "shared")


def test_what_is_mapped_twice_is_mapped_in_that_order(either: str) -> None:
    found = RowFeatures(FEATURES).mapped(lambda x: x + 1).mapped(lambda x: 3 * x)
    assert torch.equal(found.part(3, 9), 3 * (FEATURES[3:9] + 1))


def test_a_copy_goes_into_the_room_that_it_is_given() -> None:
    room = torch.empty(len(SOME), 7)
    assert RowFeatures(FEATURES).gather(SOME, room).data_ptr() == room.data_ptr()
    assert torch.equal(room, FEATURES[SOME])


@pytest.mark.parametrize("kind", ["standardize", "center_l2", "l2", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_transform_learns_the_same_from_blocks(kind: str, weighted: bool) -> None:
    features = FEATURES * torch.tensor([1, 10, 0.1, 1, 1, 1, 1]) + 3
    features[:, 4] = 0.3  # a constant channel keeps deviation 1
    weights = torch.linspace(0.5, 2, len(features)) if weighted else None

    def blocks() -> Iterator[Tensor]:
        return iter(features.split(16))

    whole = FeatureTransform(kind, 7).fit(features, weights)
    parts = FeatureTransform(kind, 7).fit_blocks(blocks, weights)
    assert torch.allclose(parts.mean, whole.mean, rtol=1e-5, atol=1e-6)
    assert torch.allclose(parts.std, whole.std, rtol=1e-5)
    assert float(parts.std[4]) == 1
    exact = FeatureTransform(kind, 7).double().fit(features.double(), weights)
    assert torch.allclose(parts.mean.double(), exact.mean, rtol=1e-6, atol=1e-7)


KINDS = (
    "ce",
    "lift-lp",
    "dr-cosine",
    "ride",
    "dr+h2t",
    "mislas",
    "lt-soups",
    "sage",
    "paco",
    "lfme",
    "oltr",
    "bsce+cmo",
    "tip-adapter-f",
    "gda",
    "vl-ltr",
    "knn",
    "tade",
)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("held_out", [True, False])
def test_a_fit_that_copies_nothing_is_the_same_fit(
    name: str, held_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    val = None if held_out and name not in ("tade", "paco") else VAL  # which pair views or crops
    found = []
    for large in (2**26, 0):
        monkeypatch.setattr(row_features, "LARGE", large)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found.append(fit_head(short(METHODS[name]), TRAIN, CONTEXT, val=val, seed=1))
    copied, shared = found
    assert shared.choices == copied.choices
    assert torch.allclose(logits(shared), logits(copied), rtol=1e-3, atol=1e-4)
    for record, expected in zip(shared.history, copied.history, strict=True):
        assert record == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", ["ce", "dr-cosine", "ride", "ballad"])
def test_fits_trained_together_copy_nothing_either(name: str, nothing_copied: None) -> None:
    jobs = [FitJob(short(METHODS[name], batch=64), seed) for seed in (0, 1)]
    for job, fitted in zip(jobs, fit_many(jobs, TRAIN, CONTEXT, val=VAL), strict=True):
        alone = fit_head(job.method, TRAIN, CONTEXT, val=VAL, seed=job.seed)
        assert torch.allclose(logits(fitted), logits(alone), rtol=1e-3, atol=1e-4)


def test_the_rows_of_a_task_lie_where_the_callers_do(nothing_copied: None) -> None:
    fit = OneFit(METHODS["ce"], CONTEXT, 0, FitOptions())
    _, task = fit.start(TRAIN.take(torch.arange(5, 200)), VAL)
    assert task.rows.row_features.stored.data_ptr() == TRAIN.row_features.stored.data_ptr()
    assert task.rows.features.shape == (195, DIM)
