"""The pipeline of TACKLE on a small cache and pool, as a person types it."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltcache.errors import FitError, UsageError
from ltcache.retrieval import RetrievalSettings, retrieve_tail
from ltcache.retrieval.scoring import threshold
from pipelines import pool_precision, tackle
from tests.retrieval.conftest import CLASSES, COUNTS, World

FEW = (3, 4, 5)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return class directions and images around them."""
    return World(tmp_path, seed=1)


def _truth(file: Path, labels: np.ndarray) -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label_or_empty"])
        writer.writerows([f"{n}.png", "" if c < 0 else c] for n, c in enumerate(labels))
    return file


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """Return what the pipeline wrote and printed, and where."""
    tmp_path = tmp_path_factory.mktemp("tackle")
    world = World(tmp_path, seed=1)
    cache = world.labelled()
    labels = np.repeat(np.arange(CLASSES), 12)
    pool = world.pool(cache, labels)
    truth = _truth(tmp_path / "truth.csv", labels)
    typed = ["--cache", cache.path, "--pool", pool.path, "--truth", truth, "--out", tmp_path / "o"]
    typed += ["--seeds", 2, "--trials", 1, "--method", "ncm"]
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(tackle, "PER_CLASS", (4,))
        patch.setattr(tackle, "THRESHOLDS", ({},))
        patch.setattr(sys, "argv", ["tackle", *map(str, typed)])
        tackle.main()
    found = json.loads((tmp_path / "o" / "results.json").read_text())
    return found, printed.getvalue(), tmp_path / "o"


def test_every_line_trains_what_it_says(result: tuple[dict[str, Any], str, Path]) -> None:
    found, text, out = result
    lines = (tackle.WITHOUT, tackle.WITH, tackle.OFF, tackle.ONLY, tackle.CEILING)
    images = found["images"]
    assert [images[name] for name in lines if name != tackle.ONLY] == [0, 12, 12, 36]
    fitted = [name for name in lines if name != tackle.ONLY]
    for name in fitted:
        folder = out / "runs" / name.replace(" ", "-").replace(",", "") / "seed-1"
        run = json.loads((folder / "run.json").read_text())
        assert run["class_counts"] == list(COUNTS)
        effective = run.get("effective_counts", run["class_counts"])
        assert sum(COUNTS) <= sum(effective) <= sum(COUNTS) + images[name]
        assert run["tuning"]["tuned_on"] == "val"
    assert set(found["scores"]) == {
        "zero-shot",
        *fitted,
        *(f"{name}, {tackle.ENSEMBLE}" for name in lines[:2]),
    }
    # here nothing is picked for two classes, which have no labelled image either
    assert f"{tackle.ONLY}: not fitted: 2 of 6 classes have no training rows" in text
    for name, row in found["scores"].items():
        assert set(row) == {"mean_per_class", "medium", "few"}
        assert row["few"]["low"] <= row["few"]["difference"] <= row["few"]["high"]
        assert name in text
    gain = found["differences"][f"{tackle.WITH} - {tackle.WITHOUT}"]["few"]["difference"]
    means = [found["scores"][n]["few"]["difference"] for n in (tackle.WITH, tackle.WITHOUT)]
    assert gain == pytest.approx(means[0] - means[1])
    for weights in found["chosen on val"][f"{tackle.WITH}, {tackle.ENSEMBLE}"]:
        assert sum(weights.values()) == pytest.approx(1)
    assert {trial["weight"] for trial in found["tried on val"]} == {1.0, "p"}
    assert list(json.loads((out / "retrievals.json").read_text()).values()) == found["tried on val"]


def test_precision_is_told_beside_its_bound(result: tuple[dict[str, Any], str, Path]) -> None:
    ten, fifty = result[0]["precision"]
    assert (ten["upper bound"], fifty["upper bound"]) == (1, pytest.approx(12 / 50))
    assert ten["random"] == pytest.approx(1 / 6)
    assert list(ten["ways"]) == ["raw cosine", "argmax zero-shot", "p_k", *tackle.GUARDS]
    assert ten["ways"]["p_k"]["of picks"] > 0.9
    guarded = fifty["ways"]["p_k, guards"]
    assert guarded["of picks"] > 0.9 > fifty["ways"]["p_k"]["of picks"]
    assert guarded["of all asked for"] <= fifty["upper bound"]
    assert "right at 50, %" in result[1]


def test_precision_counts_picks_and_not_the_truth_of_what_was_left(world: World) -> None:
    cache = world.labelled()
    labels = np.repeat(np.arange(CLASSES), 6)
    pool = world.pool(cache, labels)
    wrong = np.where(labels == 3, -1, labels)  # none of class 3 is right
    settings = {"guards": RetrievalSettings()}
    found = pool_precision.measure(cache, pool, wrong, settings, 6)
    retrieved = retrieve_tail(
        cache, pool, settings=RetrievalSettings(per_class=6)
    ).accepted.to_pylist()
    shares = [
        np.mean([wrong[r["pool_row"]] == c for r in retrieved if r["label"] == c]) for c in FEW
    ]
    assert shares[0] == 0
    assert found["ways"]["guards"]["of picks"] == pytest.approx(np.mean(shares))
    assert found["available"] == {3: 0, 4: 6, 5: 6}
    assert found["upper bound"] == pytest.approx(2 / 3)
    none = {3: np.zeros(0, np.int64), 4: np.array([24, 25]), 5: np.array([30, 0])}
    scores = pool_precision._scores(none, labels, 4, {3: 0, 4: 1, 5: 2})
    assert scores == {
        "picks": pytest.approx(4 / 3),
        "of all asked for": pytest.approx((2 / 4 + 1 / 4) / 3),
        "of picks": pytest.approx((1 + 0.5) / 3),
        "of as many": pytest.approx((1 + 0.5) / 3),
    }


def test_a_precision_that_cannot_be_had_is_left_out(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache = world.labelled()
    labels = np.repeat(np.arange(CLASSES), 6)
    pool = world.pool(cache, labels)
    monkeypatch.setattr(threshold, "_least", _unreached)
    settings = {"guards": RetrievalSettings(), "precise": RetrievalSettings(precision=0.9)}
    found = pool_precision.measure(cache, pool, labels, settings, 6)
    assert list(found["left out"]) == ["precise"] and "precise" not in found["ways"]
    assert "\nprecise: no threshold reaches it" in pool_precision.table(found)
    with pytest.raises(FitError, match="no threshold"):
        pool_precision.measure(cache, pool, labels, {"precise": settings["precise"]}, 6)
    monkeypatch.setattr(tackle, "PER_CLASS", (4,))
    chosen = argparse.Namespace(out=tmp_path / "out", seeds=1, method="ncm")
    tried = list(tackle.retrievals(cache, pool, chosen))
    assert [trial["settings"] for trial in tried] == [{"per_class": 4}] * 2
    assert capsys.readouterr().err.count("no threshold reaches it") == 2


def _unreached(*_: object) -> None:
    raise FitError("no threshold reaches it")


def test_the_cache_without_images_of_rare_classes_keeps_the_others(world: World) -> None:
    cache = world.labelled()
    rest = tackle.without_images(cache, np.array(FEW))
    assert rest.class_counts().tolist() == [*COUNTS[:3], 0, 0, 0]
    assert rest.class_counts("val").tolist() == cache.class_counts("val").tolist()
    kept = ~np.isin(cache.labels("train"), FEW)
    np.testing.assert_array_equal(rest.features("train"), cache.features("train")[kept])
    assert cache.class_counts().tolist() == list(COUNTS)


def test_a_pool_without_truth_has_no_precision(world: World, tmp_path: Path) -> None:
    cache = world.labelled()
    pool = world.pool(cache, np.array([3, 4, 5]))
    assert pool_precision.read_truth(pool, None) is None
    found = pool_precision.read_truth(pool, _truth(tmp_path / "t.csv", np.array([3, -1, 5])))
    assert found is not None and found.tolist() == [3, -1, 5]
    with pytest.raises(UsageError, match="no class of 2.png"):
        pool_precision.read_truth(pool, _truth(tmp_path / "t.csv", np.array([3, -1])))
