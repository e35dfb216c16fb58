"""Folds of the training rows: what lies in which, who scores what, resumed, never beside test."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ltcache.ablate import Ablation, ablate
from ltcache.ablate.folds import ALWAYS, divide, fold_of_rows
from ltcache.ablate.tune import tune
from ltcache.errors import UsageError
from ltcache.fit import fit_adapter
from ltcache.manifest import ImageBlocks
from ltcache.metrics import evaluate_logits
from ltcache.report import comparison_table, report
from ltcache.runs import LEFT_OUT, LabelledLogits, open_run
from tests.conftest import Call
from tests.fakes import FakeCache, extra_of

COUNTS = np.array([30, 12, 6, 1])
SHORT = {"optimisation.epochs": 3}


class HashedCache(FakeCache):
    """A cache that knows the content of its images, of which the first two are copies."""

    def __init__(self, counts: np.ndarray = COUNTS, **options: Any) -> None:
        super().__init__(counts, noise=0.8, **options)
        digests = [f"{max(row, 1):064d}" for row in range(len(self.manifest.rows))]
        rows = self.manifest.rows.append_column("sha256", pa.array(digests))
        object.__setattr__(self.manifest, "rows", rows)

    def row_features(
        self, rows: np.ndarray, field: str = "embedding", view: str = "center"
    ) -> np.ndarray:
        """Return (n, v, D)."""
        return self._of(view, field)[rows]


def _ablate(out: Path, methods: Any = ("ce", "ncm"), **options: Any) -> Ablation:
    cache = options.pop("cache", None) or HashedCache()
    given = {"seeds": 2, "folds": 3, "overrides": SHORT, "workers": 1, **options}
    return ablate(cache, methods, out, **given)


def test_blocks_stay_whole_and_classes_are_divided_alike() -> None:
    labels = np.repeat([0, 1, 2, 3, 4], [20, 7, 2, 1, 4])
    blocks = np.arange(34)
    blocks[[1, 2]] = 0  # copies of the first row
    blocks[30:] = 30  # the last class is one unit
    fold = fold_of_rows(ImageBlocks(labels, np.unique(blocks, return_inverse=True)[1]), 3)
    assert len(set(fold[:3])) == 1
    for label, sizes in ((0, [6, 7, 7]), (1, [2, 2, 3]), (2, [0, 1, 1])):
        counted = np.bincount(fold[labels == label], minlength=3)
        assert sorted(counted) == sizes and (fold[labels == label] >= 0).all()
    assert (fold[labels >= 3] == ALWAYS).all()


def test_a_fold_is_left_out_whole_and_test_is_no_split_of_it() -> None:
    cache: Any = HashedCache()
    parts = divide(cache, 3)
    seen = []
    for number in range(3):
        there = parts.without(number)
        keys = [set(there.column("key", split)) for split in ("train", LEFT_OUT)]
        assert not keys[0] & keys[1] and len(keys[0] | keys[1]) == COUNTS.sum()
        assert "test" not in there.splits and "val" in there.splits
        assert (there.class_counts("train") > 0).all()
        seen += sorted(keys[1])
    assert len(seen) == len(set(seen)) == COUNTS.sum() - 1
    assert parts.fold[0] == parts.fold[1] and parts.record()["always_trained"] == 1
    assert "test" in cache.splits and len(cache.labels("train")) == COUNTS.sum()


def test_scores_are_of_every_image_by_the_run_that_did_not_see_it(tmp_path: Path) -> None:
    found = _ablate(tmp_path)
    name, cache = "3 folds of train", HashedCache()
    assert found.split == name and list(found.comparison["splits"]) == [name]
    parts = divide(cache, 3)  # type: ignore[arg-type]
    entry = found.comparison["entries"][0]
    logits, labels, units = [], [], []
    for number in range(3):
        run = open_run(tmp_path / entry["runs"][0] / f"fold-{number + 1}")
        assert set(run.metrics) == {"val", LEFT_OUT}
        left_out = LabelledLogits.of(run, parts.without(number), LEFT_OUT)
        logits.append(left_out.logits)
        labels.append(left_out.labels)
        units += list(np.asarray(left_out.units))
    mine = evaluate_logits(
        np.concatenate(logits), np.concatenate(labels), COUNTS, units=np.array(units)
    )
    scores = entry["scores"][name]
    for score in ("overall", "mean_per_class", "many", "medium", "few", "nll"):
        value = getattr(mine, score)
        assert value == (scores[score] and scores[score]["values"][0]), score
    assert entry["per_class"][name][3] is None and len(entry["by_fold"]) == 3
    low, high = entry["interval"][name]
    assert low < scores["mean_per_class"]["mean"] < high
    assert found.comparison["class_counts"] == COUNTS.tolist()
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["folds"]["folds"] == 3 and sum(stored["folds"]["rows"]) == COUNTS.sum() - 1
    assert found.comparison["entries"][1]["difference"][name]["units"] == len(set(units))


def test_the_table_names_its_rows_and_the_class_that_is_never_left_out(tmp_path: Path) -> None:
    found = _ablate(tmp_path)
    table = comparison_table(found.comparison, found.split)
    assert "accuracy in %, 3 folds of train, 48 images of 47 units" in table and "95 %" in table
    assert "1 class(es) are trained on in every fold and scored in none" in table
    assert "class 3" in table and " split" not in table


@pytest.mark.parametrize("tuned", [False, True])
def test_what_is_there_is_taken(tmp_path: Path, tuned: bool) -> None:
    options: dict[str, Any] = {"tune": tuned, "trials": 2, "methods": ["ce"], "seeds": 1}
    first = _ablate(tmp_path, **options)
    lost = sorted(tmp_path.rglob("run.json"))[0]
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("run.json") if p != lost}
    shutil.rmtree(lost.parent)
    again = _ablate(tmp_path, **options)
    assert {p: p.stat().st_mtime_ns for p in times} == times and lost.is_file()
    kept = ("scores", "by_fold", "interval", "chosen")
    for a, b in zip(first.comparison["entries"], again.comparison["entries"], strict=True):
        assert {part: a[part] for part in kept} == {part: b[part] for part in kept}
    with pytest.raises(UsageError, match="3 folds of train, and this one .* 2 folds of train"):
        _ablate(tmp_path, **{**options, "folds": 2})


def test_settings_are_chosen_anew_in_each_fold_on_rows_that_its_runs_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = importlib.import_module("ltcache.ablate.tune")  # the package names its function so
    seen: list[int] = []
    fit_fold = tuning.fit_fold

    def counted(method: Any, fold: Any, **options: Any) -> Any:
        seen.append(len(fold.rows) + len(fold.images))
        return fit_fold(method, fold, **options)

    monkeypatch.setattr(tuning, "fit_fold", counted)
    cache = HashedCache(splits=("test",))
    found = _ablate(tmp_path, ["ce"], cache=cache, seeds=1, tune=True, trials=1)
    rows = found.comparison["folds"]["rows"]
    assert seen == [COUNTS.sum() - number for number in rows]
    entry = found.comparison["entries"][0]
    assert list(entry["chosen"]) == ["fold 1", "fold 2", "fold 3"]
    assert "a stratified 10% of train" in entry["tuned_on"].values()


def test_folds_and_splits_never_share_a_table(tmp_path: Path) -> None:
    found = _ablate(tmp_path / "folds")
    again = report([tmp_path / "folds"])
    assert again == json.loads((tmp_path / "folds" / "results.json").read_text())
    _ablate(tmp_path / "split", folds=None)
    with pytest.raises(UsageError, match="stand in no other"):
        report([tmp_path / "split", tmp_path / "folds"])
    with pytest.raises(UsageError, match="one fold of ltcache ablate --folds"):
        report([tmp_path / "folds" / found.comparison["entries"][0]["runs"][0] / "fold-1"])
    with pytest.raises(UsageError, match="--baseline ncm"):
        report([tmp_path / "folds"], baseline="ncm")
    with pytest.raises(UsageError, match="compares on 3 folds of train, and this one .* a split"):
        _ablate(tmp_path / "folds", folds=None)
    with pytest.raises(UsageError, match="compares on a split, and this one .* 3 folds of train"):
        _ablate(tmp_path / "split")


def test_what_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    cache: Any = HashedCache()
    for options, match in (
        ({"folds": 1}, "at least 2"),
        ({"folds": 60}, r"fill \d+ folds: --folds \d+"),
        ({"split": "val"}, "--split val has no effect with folds"),
        ({"extra": extra_of(cache, label=2)}, "extra images cannot train with folds"),
        ({"cache": HashedCache(np.array([1, 1]))}, "nothing can be scored"),
    ):
        with pytest.raises(UsageError, match=match):
            _ablate(tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_the_command_line_shows_the_folds_and_reports_them_again(
    tmp_path: Path, call: Call
) -> None:
    found = _ablate(tmp_path / "out")
    status, shown, _ = call("report", tmp_path / "out", "--md")
    assert status == 0 and shown == (tmp_path / "out" / "results.md").read_text()
    assert f"accuracy in %, {found.split}" in shown
    status, _, error = call("report", tmp_path / "out", "--split", "test")
    assert status == 2 and "no scores on split 'test'" in error


def test_folds_choose_settings_by_the_rows_that_each_fit_has_not_seen() -> None:
    cache = HashedCache()
    grid = {"optimisation.lr": [1e-6, 1e-2]}
    found = tune(cache, "ce", grid=grid, overrides=SHORT, tune_folds=3, seed=1)
    assert found.tuned_on == "3 folds of train" and found.chosen["optimisation.lr"] == 1e-2
    parts = divide(cache, 3)
    for trial in found.tried:
        logits, labels = [], []
        for number in range(3):
            there = parts.without(number, "val")
            assert set(there.manifest.rows["split"].to_pylist()) == {"train", "val", "unused"}
            run = fit_adapter(there, "ce", seed=1, overrides={**SHORT, **trial.settings})
            scored = LabelledLogits.of(run, there, "val")
            logits.append(scored.logits)
            labels.append(scored.labels)
        expected = evaluate_logits(np.concatenate(logits), np.concatenate(labels), COUNTS)
        assert trial.scores["val_mean_per_class"] == pytest.approx(expected.mean_per_class)
        assert trial.scores["val_nll"] == pytest.approx(expected.nll, rel=1e-5)


def test_an_ablation_says_that_folds_chose_and_keeps_such_runs_apart(tmp_path: Path) -> None:
    tuned = {"folds": None, "tune": True, "trials": 2, "methods": ("ce",), "seeds": 1}
    by_val, by_folds = (_ablate(tmp_path / "one", **tuned, tune_folds=count) for count in (None, 2))
    before, after = (found.comparison["entries"][0] for found in (by_val, by_folds))
    assert "2 folds of train" not in before["tuned_on"].values()
    assert "2 folds of train" in after["tuned_on"].values()
    assert before["runs"] != after["runs"]
