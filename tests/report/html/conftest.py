"""An ablation on disk whose classes are named by markup, with cache, images and page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ltcache.ablate import ablate, label_errors, more_images, read_folds
from ltcache.manifest import ClassList, Manifest
from ltcache.manifest.root_file import keep_root
from ltcache.report import read_runs
from ltcache.report.html import write_report_page
from ltcache.transfer import import_features
from tests.retrieval.looks import SCRIPT, write_pictures

COUNTS = np.array([120, 60, 30, 12, 6, 3])
NAMES = ("red fox", '<b>"A & B"</b>', SCRIPT, "%{x}", "</script><script>alert(1)</script>", "moth")
"""A name of text, of each kind of markup and of Plotly's templates."""


@dataclass(frozen=True)
class MarkupShop:
    """Where things lie."""

    cache: Path
    images: Path
    ablation: Path
    page: Path


def write_named_cache(out: Path, counts: np.ndarray, names: tuple[str, ...], each: int) -> Path:
    """Write a cache with images of these counts, and ``each`` of a class in val and in test."""
    rng = np.random.default_rng(0)
    sizes = {"train": counts, "val": np.full(len(counts), each), "test": np.full(len(counts), each)}
    label = np.concatenate([np.repeat(np.arange(len(counts)), n) for n in sizes.values()])
    rows = np.arange(len(label))
    columns = {
        "row_id": rows,
        "key": [f"k{n}" for n in rows],
        "uri": [f"{n}.png" for n in rows],
        "label": label,
        "split": [name for name, n in sizes.items() for _ in range(n.sum())],
    }
    means = rng.normal(size=(len(counts), 8))
    features = (0.5 * means[label] + 0.5 * rng.normal(size=(len(label), 8))).astype(np.float16)
    arrays = out.with_suffix(".npz")
    np.savez(arrays, features=features)
    classes = ClassList(names, (None,) * len(names))
    manifest = Manifest("photos", pa.table(columns), classes)
    import_features(arrays, out, manifest=manifest, text=means, logit_scale=5.0)
    return out


@dataclass(frozen=True)
class FuturePages:
    """Two pages: of runs on a split with all that may stand beside them, and of folds alone."""

    whole: Path
    folds: Path


@pytest.fixture(scope="session")
def future_pages(markup_shop: MarkupShop, tmp_path_factory: pytest.TempPathFactory) -> FuturePages:
    """Return pages with labels that look wrong, the first also with what more images would buy."""
    root = tmp_path_factory.mktemp("future")
    ablate(markup_shop.cache, ["ncm"], root / "folds", seeds=2, folds=3, workers=1)
    grown = more_images(markup_shop.cache, "ncm", root / "more", shares=(0.3, 0.6, 1), seeds=2)
    errors = label_errors(root / "folds")
    assert len(errors.errors) > 1
    pages = FuturePages(root / "whole.html", root / "folds.html")
    whole, folds = read_runs([markup_shop.ablation]), read_folds(root / "folds")
    write_report_page(whole, pages.whole, label_errors=[errors], more_images=[grown])
    write_report_page(folds, pages.folds, label_errors=[errors])
    return pages


@pytest.fixture(scope="session")
def markup_shop(tmp_path_factory: pytest.TempPathFactory) -> MarkupShop:
    """Return three lines of two seeds, with their page."""
    root = tmp_path_factory.mktemp("markup")
    cache = write_named_cache(root / "cache", COUNTS, NAMES, 5)
    write_pictures(root / "photos", int(COUNTS.sum()) + 60)
    keep_root(cache, root / "photos")
    short = {"optimisation.epochs": 3}
    ablate(cache, ["ce", "posthoc-la", "ncm"], root / "abl", seeds=2, overrides=short, workers=1)
    shop = MarkupShop(cache, root / "photos", root / "abl", root / "report.html")
    write_report_page(read_runs([shop.ablation]), shop.page)
    return shop
