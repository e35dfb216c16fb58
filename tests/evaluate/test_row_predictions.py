"""What a run predicts image by image and class by class: what its scores are made of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ltcache.cache import open_cache
from ltcache.evaluate import class_scores, evaluate, split_predictions
from ltcache.fit import fit_adapter, fit_seeds
from ltcache.metrics import ConfusedPair, confused_pairs
from ltcache.report import confusions
from ltcache.runs import LabelledLogits
from tests.cli.small_caches import write_cache
from tests.conftest import Call


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return write_cache(tmp_path / "cache", {"train": (9, 6, 3, 1), "test": (8, 8, 8, 8)})


def test_confused_pairs_are_counted_the_most_frequent_first() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([1, 1, 2, 1, 0, 2])
    assert confused_pairs(labels, predicted) == [
        ConfusedPair(0, 1, 2, 2 / 3),
        ConfusedPair(1, 0, 1, 1 / 2),
        ConfusedPair(0, 2, 1, 1 / 3),
    ]
    assert confused_pairs(labels, labels) == []


def test_predictions_are_those_that_are_scored(cache: Path, tmp_path: Path, call: Call) -> None:
    fit_adapter(cache, "ncm", tmp_path / "ncm")
    status, _, _ = call("evaluate", tmp_path / "ncm", "--predictions", tmp_path / "p.parquet")
    found = pq.read_table(tmp_path / "p.parquet").to_pylist()
    assert status == 0 and len(found) == 32 and list(found[0]) == [
        "run", "key", "label", "labels", "names", "probabilities"
    ]  # fmt: skip
    right = np.mean([row["labels"][0] == row["label"] for row in found])
    assert right == evaluate(tmp_path / "ncm").overall < 1
    for row in found:
        assert row["key"].startswith("test/") and row["run"] == "ncm"
        assert row["names"] == [f"class {label}" for label in row["labels"]]
        assert len(row["labels"]) == 4 and sum(row["probabilities"]) == pytest.approx(1)
        assert sorted(row["probabilities"], reverse=True) == row["probabilities"]
    assert split_predictions(tmp_path / "ncm", top=2)["labels"].to_pylist() == [
        row["labels"][:2] for row in found
    ]


def test_predictions_of_seeds_lie_in_one_file(cache: Path, tmp_path: Path, call: Call) -> None:
    fit_seeds(cache, "ncm", tmp_path / "runs", seeds=(0, 1))
    out = tmp_path / "p.parquet"
    status, _, _ = call("evaluate", tmp_path / "runs", "--predictions", out)
    assert status == 0
    assert pq.read_table(out)["run"].to_pylist() == ["seed-0"] * 32 + ["seed-1"] * 32
    status, _, error = call("evaluate", tmp_path / "runs", "--per-class")
    assert status == 2 and "name one of its runs" in error


def test_each_class_has_its_score_and_what_it_is_taken_for(
    cache: Path, tmp_path: Path, call: Call
) -> None:
    run = fit_adapter(cache, "ncm", tmp_path / "ncm")
    scores = class_scores(tmp_path / "ncm")
    assert [score.accuracy for score in scores] == list(run.metrics["test"].per_class)
    assert [score.train_rows for score in scores] == [9, 6, 3, 1]
    rows = LabelledLogits.of(run, open_cache(cache), "test")
    for score in scores:
        there = rows.logits.argmax(axis=1)[rows.labels == score.label]
        wrong = np.bincount(there[there != score.label], minlength=4)
        assert score.times == wrong.max()
        assert score.taken_for == (f"class {wrong.argmax()}" if wrong.any() else None)
    status, out, _ = call("evaluate", tmp_path / "ncm", "--per-class", "--json")
    assert status == 0 and json.loads(out)["classes"] == [score.to_dict() for score in scores]
    status, out, _ = call("evaluate", tmp_path / "ncm", "--per-class")
    listed = [
        line.split("|")[1].strip() for line in out.splitlines() if line.startswith("| class ")
    ]
    worst = sorted(scores, key=lambda score: (score.accuracy, score.label))
    assert listed[-4:] == [score.name for score in worst]


def test_confusions_are_of_all_runs_together(cache: Path, tmp_path: Path, call: Call) -> None:
    for method in ("ncm", "knn"):
        fit_adapter(cache, method, tmp_path / "runs" / method)
    found = confusions([tmp_path / "runs"])
    tables = [split_predictions(tmp_path / "runs" / name).to_pylist() for name in ("ncm", "knn")]
    pairs = [(f"class {r['label']}", r["names"][0]) for table in tables for r in table]
    for pair in found:
        assert pair.count == pairs.count((pair.name, pair.taken_for)) and pair.runs == 2
        assert pair.share == pair.count / 16
        assert pair.text_cosine is not None and -1 <= pair.text_cosine < 1
    assert sum(pair.count for pair in found) == sum(a != b for a, b in pairs) > 0
    assert [pair.count for pair in found] == sorted((p.count for p in found), reverse=True)
    status, out, _ = call("report", tmp_path / "runs", "--confusions")
    assert status == 0 and "test split, 2 runs together" in out and found[0].taken_for in out
    status, out, _ = call("report", tmp_path / "runs", "--confusions", "--json")
    assert json.loads(out) == [pair.to_dict() for pair in found]


def test_a_cache_and_a_run_show_themselves_in_a_notebook(cache: Path, tmp_path: Path) -> None:
    html = open_cache(cache)._repr_html_()
    assert "<td>train</td><td>19</td>" in html and "<td>test</td><td>32</td>" in html
    run = fit_adapter(cache, "ncm", tmp_path / "a&b")
    html = run._repr_html_()
    score = f"{100 * run.metrics['test'].mean_per_class:.1f}"
    assert "a&amp;b" in html and f"<td>{score}</td>" in html and html.count("<tr>") == 2
