"""The pipelines on cached features: from a small cache to their tables, as a person types them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ltcache.cache import Cache, open_cache
from ltcache.extract import extract
from ltcache.methods import METHODS
from ltcache.report.tables import mean_and_spread
from ltcache.runs.run import open_run
from pipelines import (
    ballad_cached,
    baselines,
    comparisons,
    h2t,
    prior_shift,
    sage_cached,
    tin_cached,
)
from pipelines.set_scores import read_scores
from tests.conftest import write_images
from tests.encoder.tiny_models import write_tiny_clip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Return a cache of few images with tokens; the group of many classes is empty."""
    folder = tmp_path_factory.mktemp("pipelines")
    model = write_tiny_clip(folder / "model", kind="timm", image_size=64)
    for split, counts in {"train": (24, 12, 6), "val": (4, 4, 4), "test": (6, 6, 6)}.items():
        named = dict(zip(("moth", "newt", "owl"), counts, strict=True))
        write_images(folder / "images" / split, named, size=70)
    with pytest.warns(UserWarning, match="in float16 take"):
        extract(
            folder / "images",
            folder / "cache",
            model=f"local-dir:{model}",
            fields=("embedding", "pooled", "tokens"),
        )
    return open_cache(folder / "cache")


def _run(
    pipeline: ModuleType, cache: Cache, out: Path, monkeypatch: pytest.MonkeyPatch, *more: str
) -> None:
    typed = ["--cache", cache.path, "--out", out, "--seeds", 1, "--trials", 1, "--workers", 1]
    monkeypatch.setattr(sys, "argv", [pipeline.__name__, *map(str, typed), *more])
    pipeline.main()


def _lines(out: Path) -> dict[str, dict[str, Any]]:
    comparison = json.loads((out / "results.json").read_text())
    return {entry["name"]: entry for entry in comparison["entries"]}


def test_a_test_prior_is_followed_by_the_weights_of_experts(
    cache: Cache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(cache.path, tmp_path / "cache")
    folder = cache.path.parent
    model = f"local-dir:{folder / 'model'}"
    extract(folder / "images", tmp_path / "cache", model=model, views=["rrc:2"])
    monkeypatch.setattr(prior_shift, "SHIFTS", ("forward-2", None))
    _run(prior_shift, open_cache(tmp_path / "cache"), tmp_path, monkeypatch)
    forward, uniform = json.loads((tmp_path / "prior-shift.json").read_text())["shifts"]
    assert (forward["shift"], uniform["shift"]) == ("forward-2", "uniform")
    assert forward["images"] < uniform["images"] == 18
    assert sum(uniform["weights"]) == pytest.approx(1) and len(uniform["weights"]) == 3
    assert uniform["gain"] == [uniform["tade"][0] - uniform["sade"][0]]
    assert "| forward-2 |" in capsys.readouterr().out


def test_tin_compares_its_parts_with_equal_budgets(
    cache: Cache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tin_cached, "POWERS", (0.3,))
    monkeypatch.setattr(tin_cached, "RATES", (1e-3, 3e-3))
    model = f"local-dir:{Path(cache.path).parent / 'model'}"
    _run(tin_cached, cache, tmp_path, monkeypatch, "--model", model, "--trials", "2")
    lines = _lines(tmp_path / "parts")
    assert list(lines) == ["zero-shot", "base", "TIN seesaw", "attention", "attention, seesaw"]
    runs = {name: open_run(tmp_path / "parts" / line["runs"][0]) for name, line in lines.items()}
    stages = {name: run.method.stages[0] for name, run in runs.items() if name != "zero-shot"}
    budgets = {(s.optimisation.epochs, s.optimisation.batch) for s in stages.values()}
    assert budgets == {(5, 128)}
    assert stages["attention"].head == "visual_attention" != stages["base"].head
    assert stages["base"].loss == "cross_entropy" != stages["TIN seesaw"].loss
    assert {run.record.prompts for run in runs.values()} == {"tin"}
    assert "The image is a moth" in open_cache(cache.path).prompts("tin").texts[0]
    assert {len(runs[name].record.tuning["tried"]) for name in stages} == {2}
    assert list(_lines(tmp_path / "powers")) == ["tin (feature.field=embedding), loss.p=0.3"]
    shown = capsys.readouterr().out
    assert "| attention, seesaw |    base |" in shown and "nan" not in shown


def test_ballad_compares_variants_shares_and_classifiers(
    cache: Cache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ballad_cached, "SHARES", (0.0, 1.0))
    _run(ballad_cached, cache, tmp_path, monkeypatch)
    assert len(_lines(tmp_path / "variants")) == 4
    nothing, everything = _lines(tmp_path / "shares").values()
    zero_shot = _lines(tmp_path / "classifiers")["zero-shot"]
    loss = [line["scores"]["test"]["nll"]["mean"] for line in (nothing, zero_shot, everything)]
    assert loss[0] == pytest.approx(loss[1], rel=1e-6)  # no share of the adapter is zero-shot
    assert abs(loss[2] - loss[0]) > 1e-3
    assert "| ballad-cosine | zero-shot |" in capsys.readouterr().out


def test_sage_compares_its_parts(
    cache: Cache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sage_cached, "WEIGHTS", (0.5,))
    monkeypatch.setattr(sage_cached, "ESTIMATORS", ("drift",))
    _run(sage_cached, cache, tmp_path, monkeypatch)
    lines = _lines(tmp_path / "parts")
    assert list(lines) == ["neither", "compensation", "attention", "both"]
    for name, line in lines.items():
        stage = open_run(tmp_path / "parts" / line["runs"][0]).method.stages[-1]
        assert (stage.head == "sg_attention") == (name in ("attention", "both"))
        assert (stage.loss_options["lam"] > 0) == (name in ("compensation", "both"))
    assert list(_lines(tmp_path / "weights")) == ["sage, loss.lam=0.5"]
    assert list(_lines(tmp_path / "estimators")) == ["sage, compensation.estimator=drift"]
    assert "| both         | neither |" in capsys.readouterr().out


def test_h2t_pairs_each_partner_and_keeps_the_baselines_runs(
    cache: Cache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    few = {name: METHODS[name] for name in ("dr", "dr+h2t", "dr-cosine", "dr-cosine+h2t")}
    monkeypatch.setattr(h2t, "METHODS", few)
    monkeypatch.setattr(h2t, "RATIOS", (0.5,))
    _run(baselines, cache, tmp_path, monkeypatch, "--methods", "dr,dr+h2t")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.json")}
    _run(h2t, cache, tmp_path, monkeypatch)
    assert before and all(path.stat().st_mtime_ns == time for path, time in before.items())
    found = json.loads((tmp_path / "h2t.json").read_text())
    assert [pair["after"] for pair in found["pairs"]] == ["dr+h2t", "dr-cosine+h2t"]
    assert [row["ratio"] for row in found["sweep"]["dr+h2t"]] == [0.5]
    assert "| dr-cosine+h2t, ratio |" in capsys.readouterr().out


def test_baselines_refuse_equal_logits_that_the_catalogue_does_not_explain(
    cache: Cache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _run(baselines, cache, tmp_path, monkeypatch, "--methods", "logit-adjustment,balanced-softmax")
    assert "not in the catalogue: none" in capsys.readouterr().out
    kept = read_scores(tmp_path / "scores.csv")[cache.manifest.name].scores["mean_per_class"]
    lines = _lines(tmp_path / "ablation")
    assert kept == {
        name: pytest.approx(lines[name]["scores"]["test"]["mean_per_class"]["mean"], abs=1e-4)
        for name in ("logit-adjustment", "balanced-softmax")
    }
    unexplained = {**METHODS, "balanced-softmax": METHODS["ce"]}
    monkeypatch.setattr(baselines, "METHODS", unexplained)
    with pytest.raises(SystemExit, match="1"):
        _run(baselines, cache, tmp_path, monkeypatch, "--methods",
             "logit-adjustment,balanced-softmax")  # fmt: skip


def test_a_pipeline_extracts_the_views_that_it_is_asked_for(cache: Cache, tmp_path: Path) -> None:
    folder = cache.path.parent
    parser = comparisons.options(None, str(tmp_path))
    typed = ["--source", folder / "images", "--model", f"local-dir:{folder / 'model'}"]
    made = comparisons.cache_of(parser.parse_args([*map(str, typed), "--views", "rrc:2,flip"]))
    assert set(made.views) == {"center", "rrc:2", "flip"} and made.path == tmp_path / "cache"


def test_one_seed_has_no_deviation() -> None:
    assert mean_and_spread(comparisons.over_seeds([0.5])) == "50.0"
    assert mean_and_spread(comparisons.over_seeds([0.5, 0.6])) == "55.0 ± 7.1"
