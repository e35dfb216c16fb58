"""The page of a report over many classes and test images: its size, and how long it takes to load.

    python -m tests.benchmarks.bench_report_page [--classes 1000] [--rows 50000] [--out FOLDER]

Three methods with two seeds on made-up features of a long tail. Loading is measured in headless
Chromium, where it is installed, from opening the file to the last figure, with an empty page of the
same browser beside it, three times in turn.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ltcache.ablate import ablate
from ltcache.report import read_runs
from ltcache.report.html import write_report_page
from ltcache.transfer import import_features
from tests.browser import PACKAGES, Browser, programs

LIMIT_MB, LIMIT_S = 15, 3
_DIMENSION = 32


def write_cache(out: Path, classes: int, rows: int) -> None:
    """Write a cache of made-up features: 100 to 1 training images of a class, ``rows`` in test."""
    rng = np.random.default_rng(0)
    counts = np.round(100 ** np.linspace(1, 0, classes)).astype(int)
    labels = {
        "train": np.repeat(np.arange(classes), counts),
        "val": np.arange(2 * classes) % classes,
        "test": np.arange(rows) % classes,
    }
    means = rng.standard_normal((classes, _DIMENSION))
    arrays = {}
    for split, of_split in labels.items():
        noise = rng.standard_normal((len(of_split), _DIMENSION))
        arrays[f"{split}_features"] = (means[of_split] + noise).astype(np.float16)
        arrays[f"{split}_labels"] = of_split
    source = out.with_suffix(".npz")
    np.savez(source, **arrays)
    import_features(source, out)


def seconds_to_load(browser: Browser, page: Path, figures: int) -> float:
    """Return how long a page takes until it has its figures."""
    started = time.perf_counter()
    browser.driver.get(page.resolve().as_uri())
    browser.wait(lambda: len(browser.all(".plot .main-svg")) >= figures)
    return time.perf_counter() - started


def main(options: Sequence[str] | None = None) -> None:
    """Write the page, and print size and times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(options)
    out = chosen.out or Path(tempfile.mkdtemp())
    write_cache(out / "cache", chosen.classes, chosen.rows)
    short = {"optimisation.epochs": 2}
    ablate(out / "cache", ["ce", "posthoc-la", "ncm"], out / "ablation", seeds=2, overrides=short)
    page, started = out / "report.html", time.perf_counter()
    written = write_report_page(read_runs([out / "ablation"]), page)
    print(f"{chosen.classes} classes, {chosen.rows} test images")
    print(f"written in {time.perf_counter() - started:.1f} s")
    print(f"{written.bytes / 1e6:.1f} MB (at most {LIMIT_MB})")
    if any(shutil.which(name) is None for name in PACKAGES):
        print("not loaded: Chromium is not installed")
        return
    empty = out / "empty.html"
    empty.write_text("<!doctype html><title>empty</title>", encoding="utf-8")
    browser = Browser(out, programs())
    try:
        times = [(seconds_to_load(browser, page, 3), seconds_to_load(browser, empty, 0))
                 for _ in range(3)]  # fmt: skip
    finally:
        browser.driver.quit()
    loaded, beside = np.median(np.array(times), axis=0)
    print(f"loaded in {loaded:.2f} s (at most {LIMIT_S}); an empty page {beside:.2f} s")


if __name__ == "__main__":
    main()
