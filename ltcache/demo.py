"""The whole pipeline on real images, offline: what ``ltcache demo`` runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ltcache.cache import open_cache
from ltcache.extract import ExtractionProgress, extract
from ltcache.fit import fit_adapter
from ltcache.metrics import Metrics
from ltcache.records import require_local
from ltcache.zero_shot import zero_shot

DATASET = "emoji_lt"
METHODS = {
    "ce": "cross entropy",
    "crt": "cross entropy, class-balanced",
    "logit-adjustment": "logit adjustment",
}
"""Method -> its row in the table."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Args:
        metrics: row of the table -> scores on the test split.
        cache, runs: where the results lie.
        num_classes: of the dataset.
        seconds: in all.
    """

    metrics: dict[str, Metrics]
    cache: Path
    runs: Path
    num_classes: int
    seconds: float


def demo(
    out: str | Path = "ltcache-demo",
    *,
    progress: Callable[[ExtractionProgress], None] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> DemoResult:
    """Extract Emoji-LT with the embedded encoder, classify zero-shot, and fit three heads.

    Args:
        out: directory for the cache and the runs; a finished cache in it is reused.
        progress: called while images are encoded.
        say: called with one line before each step.

    Raises:
        LtcacheError: ``out`` holds something else.
    """
    started = time.perf_counter()
    out = require_local(out)
    say(f"encoding the images of {DATASET} with the embedded encoder into {out / 'cache'}")
    report = extract(DATASET, out / "cache", progress=progress)
    say(
        f"encoded {report.encoded} images in {report.seconds:.1f} s; {report.binding}"
        if report.encoded
        else f"the cache is there already: {report.items} images"
    )
    cache = open_cache(out / "cache")
    metrics = {"zero-shot": zero_shot(cache).metrics}
    for method, row in METHODS.items():
        run = fit_adapter(cache, method, out / "runs" / method, overwrite=True)
        metrics[row] = run.metrics["test"]
        say(f"{row}: {run.record.cost.head_seconds:.1f} s")
    seconds = time.perf_counter() - started
    return DemoResult(metrics, out / "cache", out / "runs", len(cache.classes), seconds)
