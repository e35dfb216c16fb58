"""The claims on photographs: a late ensemble and a pool, from a folder of that shape."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines import photo_claims, photo_sets

CLASSES, DIM = 3, 8


def _features(labels: np.ndarray, noise: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = np.eye(DIM)[labels] + noise * rng.standard_normal((len(labels), DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with rows that an image-only network and CLIP share, and a pool."""
    clip = tmp_path / "data" / "clip"
    (clip / "caltech59").mkdir(parents=True)
    labels = np.r_[np.repeat(np.arange(CLASSES), (30, 15, 10)), np.repeat(np.arange(CLASSES), 12)]
    splits = ["train"] * 55 + ["test"] * 36
    keys = [f"{row}.jpg" for row in range(len(labels))]
    with (clip / "caltech59" / "rows.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([("path", "label", "split"), *zip(keys, labels, splits, strict=True)])
    features = _features(labels, 0.2, 0)
    np.save(clip / "caltech59" / "features.npy", features)
    np.save(clip / "caltech59" / "text_features.npy", np.eye(DIM, dtype=np.float32)[:CLASSES])
    other = np.random.default_rng(1).permutation(len(labels))  # the network's rows lie otherwise
    lite0 = {"features": _features(labels, 0.4, 2)[other], "keys": np.array(keys)[other]}
    np.savez(clip / "caltech101_lite0_pooled.npz", **lite0)
    test = labels[55:]
    numbered = {"test_features": features[55:], "test_labels": CLASSES - test}  # 3, 2 and 1; 0 more
    val = np.arange(CLASSES + 1).repeat(2)
    pool = {"val_features": _features(val, 0.1, 3), "val_labels": val}
    np.savez(clip / "caltech101_lt.npz", **numbered, **pool)
    for name in photo_sets.ARRAYS[1:]:
        np.savez(clip / f"{name}.npz", test_features=_features(np.full(5, 7), 0.1, 4))
    return tmp_path / "data"


def test_both_members_see_the_same_rows_and_are_mixed_by_validation_images(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    typed = ["--data", folder, "--out", out, "--claims", "ensemble", "--seeds", 2, "--trials", 1]
    monkeypatch.setattr(sys, "argv", ["photo_claims", *map(str, typed), "--workers", "1"])
    monkeypatch.setattr(photo_claims, "IMAGE_ONLY", ("ncm", "knn"))
    monkeypatch.setattr(photo_claims, "DUAL", ("zero-shot", "ncm"))
    photo_claims.main()
    printed = capsys.readouterr().out
    assert "weights chosen on validation images" in printed
    assert "| overall | mean_per_class |" in " ".join(printed.split())
    assert "both - image-only: " in printed and "both - CLIP: " in printed
    lite0, clip = photo_sets.shared_rows(folder, out)
    for split, count in {"train": 44, "val": 11, "test": 36}.items():
        assert len(lite0.rows(split)) == len(clip.rows(split)) == count
        assert (lite0.labels(split) == clip.labels(split)).all()
    rows = clip.features("test", "embedding")[:, 0]
    others = lite0.features("test", "pooled")[:, 0]
    for one in (rows, others):  # each row lies at its class in both
        assert (one[:, :CLASSES].argmax(axis=1) == clip.labels("test")).mean() > 0.8


def test_the_pools_truth_is_told_in_the_classes_of_the_cache(folder: Path, tmp_path: Path) -> None:
    _, clip = photo_sets.shared_rows(folder, tmp_path / "out")
    pool, truth = photo_sets.clip_pool(folder, tmp_path / "out", clip)
    assert truth[:8].tolist() == [-1, -1, 2, 2, 1, 1, 0, 0]
    assert len(truth) == len(pool.manifest.rows) == 8 + 4 * 5 and (truth[8:] == -1).all()


def test_an_unknown_claim_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["photo_claims", "--data", ".", "--claims", "tackel"])
    with pytest.raises(SystemExit, match="no such claim: tackel; known: ballad"):
        photo_claims.main()
