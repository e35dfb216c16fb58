"""Accuracy by class frequency: bins, and the figure of a run."""

from __future__ import annotations

import numpy as np
import pytest

from ltcache.errors import UsageError
from ltcache.fit import fit_adapter
from ltcache.runs.frequency import by_frequency
from tests.fakes import FakeCache


def test_bins_have_equally_many_classes_and_skip_those_without_rows() -> None:
    counts = np.array([4, 100, 1, 25, 9])
    accuracy = np.array([0.4, 1.0, 0.2, np.nan, 0.6])
    place, mean = by_frequency(counts, accuracy, bins=2)
    assert place == pytest.approx([2.0, 30.0]) and mean == pytest.approx([0.3, 0.8])
    place, mean = by_frequency(counts, accuracy, bins=9)
    assert place == pytest.approx([1, 4, 9, 100]) and mean == pytest.approx([0.2, 0.4, 0.6, 1.0])


def test_the_figure_of_a_run_shows_its_accuracies() -> None:
    counts = np.array([30, 12, 6, 2])
    run = fit_adapter(FakeCache(counts, noise=0.8), "ncm")  # type: ignore[arg-type]
    (line,) = run.plot().axes[0].get_lines()
    place, mean = by_frequency(counts, np.array(run.metrics["test"].per_class, dtype=float))
    assert np.allclose(line.get_xdata(), place) and np.allclose(line.get_ydata(), 100 * mean)
    assert line.get_label() == "ncm" and "test split" in run.plot().axes[0].get_ylabel()
    assert "val split" in run.plot("val").axes[0].get_ylabel()
    with pytest.raises(UsageError, match="no scores on split 'train', only on val, test"):
        run.plot("train")
