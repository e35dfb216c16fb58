"""Parts of the training images: nested, of every class, taken again, by groups of all images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltcache.ablate import more_images
from ltcache.ablate.growth import part_of_train
from ltcache.cache import open_cache
from ltcache.errors import UsageError
from ltcache.fit import fit_adapter
from ltcache.report import MoreImages
from ltcache.runs import open_run
from tests.conftest import Call
from tests.fakes import FakeCache
from tests.report.html.conftest import COUNTS, NAMES, write_named_cache


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache of six classes."""
    return write_named_cache(tmp_path_factory.mktemp("shop") / "cache", COUNTS, NAMES, 5)


def test_parts_are_nested_and_hold_every_class(shop: Path) -> None:
    cache = open_cache(shop)
    before: set[int] = set()
    for share in (0.1, 0.25, 0.5, 1.0):
        part = part_of_train(cache, share, seed=1)
        rows = {*part.rows("train").tolist()}
        assert before <= rows
        counts = np.maximum(1, np.round(share * COUNTS)).astype(int)
        assert part.class_counts("train").tolist() == counts.tolist()
        assert part.rows("test").tolist() == cache.rows("test").tolist()
        before = rows
    assert before == {*cache.rows("train").tolist()}
    other = part_of_train(cache, 0.5, seed=2).rows("train").tolist()
    assert other != part_of_train(cache, 0.5, seed=1).rows("train").tolist()


def test_errors_are_those_of_single_fits_and_are_taken_again(shop: Path, tmp_path: Path) -> None:
    shares = (0.25, 0.5, 1.0)
    found = more_images(shop, "ncm", tmp_path / "more", shares=shares, seeds=2)
    run = fit_adapter(part_of_train(open_cache(shop), 0.5, 1), "ncm", seed=1)
    groups = {growth.group: growth for growth in found.groups}
    right = np.array(run.metrics["test"].per_class, dtype=float)
    few = COUNTS < 20
    assert groups["all"].errors[1][1] == pytest.approx(1 - right.mean())
    assert groups["few"].errors[1][1] == pytest.approx(1 - right[few].mean())
    assert groups["few"].classes == few.sum() and groups["few"].images[-1] == COUNTS[few].mean()
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.json")}
    assert len(written) == 6
    again = more_images(shop, "ncm", tmp_path / "more", shares=shares, seeds=2)
    assert again == found == MoreImages.read(tmp_path / "more")
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.json")}


def test_runs_on_one_crop_are_not_taken_once_there_are_random_crops(tmp_path: Path) -> None:
    shares, counts = (0.25, 0.5, 1.0), np.array([12, 8, 6])
    options: dict[str, Any] = {"seeds": 1, "overrides": {"optimisation.epochs": 1}}
    for views in ({}, {"rrc:4": 0.5}):
        cache: Any = FakeCache(counts, views=views)
        more_images(cache, "lift-lp", tmp_path, shares=shares, **options)
    runs = [open_run(path.parent) for path in tmp_path.rglob("run.json")]
    assert sorted(run.method.feature.view for run in runs) == ["center"] * 3 + ["rrc:4"] * 3


def test_shares_that_make_no_curve_are_refused(shop: Path, tmp_path: Path, call: Call) -> None:
    for shares in ((0.5, 1.0), (0.0, 0.5, 1.0), (0.5, 1.0, 1.5)):
        with pytest.raises(UsageError, match="at least 3 different shares"):
            more_images(shop, "ncm", tmp_path / "more", shares=shares)
    out = ("--method", "ncm", "--out", tmp_path / "more")
    status, _, said = call("more-images", shop, *out, "--rows", "half")
    assert status == 2 and "write shares such as 0.25,0.5,1" in said
