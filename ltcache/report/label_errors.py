"""Training images whose label looks wrong, by confident learning.

Northcutt, Jiang and Chuang, "Confident learning: estimating uncertainty in dataset labels", JAIR
2021, as cleanlab has it: an image is listed where predictions that were not fitted on it are surer
of another class than they are, on average, of images with that label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ltcache.errors import UsageError
from ltcache.extras import how_to_install
from ltcache.metrics import percent
from ltcache.records import JsonRecord, counted
from ltcache.tables import markdown_table


@dataclass(frozen=True)
class LabelError(JsonRecord):
    """One training image.

    Attributes:
        row: of the cache's manifest. key: of the image.
        label: name of the class that it has. suggested: of the most probable one.
        label_probability, suggested_probability: of these two, 0..1.
    """

    row: int
    key: str
    label: str
    suggested: str
    label_probability: float
    suggested_probability: float


@dataclass(frozen=True)
class LabelErrors(JsonRecord):
    """The training images of a cache whose label looks wrong, the most suspicious first.

    Attributes:
        cache: its directory. line: whose predictions were taken. seeds: whose mean they are.
        images: how many were looked at. not_looked_at: how many no fold leaves out.
    """

    cache: str
    line: str
    seeds: int
    images: int
    not_looked_at: int
    errors: Sequence[LabelError]


def suspicious_rows(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the rows whose label looks wrong, int64, the least probable label first.

    Args:
        probabilities: float (N, C), each of a head that was not fitted on the row.
        labels: int64 (N,), in 0..C-1; classes may be absent.

    Raises:
        UsageError: cleanlab is not installed.
    """
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        raise UsageError(
            "to find label errors needs cleanlab, which is not installed: "
            f"{how_to_install('report')}"
        ) from None
    known, places = np.unique(labels, return_inverse=True)
    kept = probabilities[:, known]  # a class that no row has cannot be confused with one
    found = find_label_issues(
        places,
        kept / kept.sum(axis=1, keepdims=True),
        filter_by="confident_learning",
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )
    return np.asarray(found, dtype=np.int64)


def label_errors_table(found: LabelErrors, most: int = 30, *, width: int | None = None) -> str:
    """Return a Markdown table of the first ``most`` images.

    Args:
        width: see :func:`ltcache.report.markdown_table`.
    """
    seeds = counted(found.seeds, "seed")
    of = f"{counted(found.images, 'training image')}, by {found.line}, {seeds}"
    if not found.errors:
        return f"no label looks wrong of {of}"
    rows = [
        [
            one.key,
            one.label,
            percent(one.label_probability),
            one.suggested,
            percent(one.suggested_probability),
        ]
        for one in found.errors[:most]
    ]
    table = markdown_table(["image", "label", "%", "looks like", "%"], rows, width)
    left = len(found.errors) - len(rows)
    more = f"; {left} more are in --json" if left > 0 else ""
    return f"{table}\n{len(found.errors)} labels look wrong of {of}{more}"
