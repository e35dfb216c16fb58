"""From a cache to a run on disk, back, and onto other caches."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from ltcache.ablate.tune import tune
from ltcache.ensemble import ZeroShot, ensemble
from ltcache.errors import FitError, IdentityError, UsageError
from ltcache.evaluate import evaluate
from ltcache.fit import fit_adapter, fit_seeds
from ltcache.methods import METHODS, Train
from ltcache.runs.run import open_run
from ltcache.zero_shot import zero_shot
from tests.fakes import FakeCache, long_tail_counts

COUNTS = long_tail_counts(8, 120, 6)
SHORT = {"optimisation.epochs": 5}
FILES = {
    "head.safetensors", "run.json", "config.json", "metrics.json", "per_class.csv", "history.jsonl",
}  # fmt: skip


def _fit(cache: Any, method: str = "ce", out: Path | None = None, **options: Any) -> Any:
    return fit_adapter(cache, method, out, **{"overrides": SHORT, **options})


WHOLE = ("ce", "lift-lp", "dr+h2t", "posthoc-la", "gda", "tip-adapter", "sage", "gla", "reslt")


@pytest.mark.parametrize("name", [name for name in WHOLE if name in METHODS])
def test_a_run_is_whole_and_reads_back_equal(name: str, tmp_path: Path) -> None:
    cache = FakeCache(COUNTS)
    trains = any(isinstance(stage, Train) for stage in METHODS[name].stages)
    run = _fit(cache, name, tmp_path / "run", overrides=SHORT if trains else {})
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    again = open_run(tmp_path / "run")
    features = cache.features("test", run.record.field)
    assert np.array_equal(again.logits(features), run.logits(features))
    assert again.metrics == run.metrics and again.key == run.key and again.method == run.method
    assert evaluate(again, cache) == run.metrics["test"]  # type: ignore[arg-type]


def test_what_a_run_records(tmp_path: Path) -> None:
    _fit(FakeCache(COUNTS, unit=2), "lift-lp", tmp_path / "run", seed=3)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert set(record["identities"]) == {"encoder", "classes", "view", "prompts", "numerics"}
    assert record["field"] == "pooled" and record["init"] == ["text"] and record["seed"] == 3
    assert record["splits"] == {"train": int(COUNTS.sum()), "val": 160, "test": 160}
    numbers = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert numbers["tuned_on"] == {"epoch": "val"} and set(numbers["splits"]) == {"val", "test"}
    assert numbers["splits"]["test"]["num_units"] == 80
    assert numbers["cost"]["encoder_passes"] == 1 and numbers["cost"]["head_seconds"] > 0
    with open(tmp_path / "run" / "per_class.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["train_rows"]) for row in rows] == COUNTS.tolist()
    assert rows[0]["group"] == "many" and rows[-1]["group"] == "few"
    history = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in history] == [1, 2, 3, 4, 5]


def test_same_seed_same_file(tmp_path: Path) -> None:
    cache = FakeCache(COUNTS)
    for name in ("a", "b"):
        _fit(cache, "crt", tmp_path / name, seed=1)
    one, two = ((tmp_path / n / "head.safetensors").read_bytes() for n in ("a", "b"))
    assert one == two


def test_class_texts_count_only_where_they_were_used() -> None:
    cache = FakeCache(COUNTS)
    assert "prompts" not in _fit(cache, "ce").record.identities
    started = _fit(cache, "lift-lp", overrides={**SHORT, "init": "class_mean"})
    assert "prompts" not in started.record.identities
    cache.prompt_names = ()
    assert _fit(cache, "lift-lp").record.init == ("class_mean",)


def test_text_start_is_good_before_any_training() -> None:
    cache = FakeCache(COUNTS, noise=0.5)
    run = _fit(cache, "lift-lp", overrides={"optimisation.epochs": 1, "optimisation.lr": 1e-9})
    assert run.metrics["test"].overall > 0.9


def test_other_runs_are_not_overwritten_unasked(tmp_path: Path) -> None:
    cache = FakeCache(COUNTS)
    _fit(cache, "ce", tmp_path / "run")
    _fit(cache, "ce", tmp_path / "run")
    with pytest.raises(UsageError, match=r"holds another run .method 'ce', seed 0"):
        _fit(cache, "crt", tmp_path / "run")
    _fit(cache, "crt", tmp_path / "run", overwrite=True)
    assert open_run(tmp_path / "run").method.name == "crt"
    (tmp_path / "run" / "run.json").write_text("[]")  # damaged, so it is some other run
    with pytest.raises(UsageError, match="holds another run"):
        _fit(cache, "crt", tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(UsageError, match="is not a run"):
        _fit(cache, "ce", tmp_path / "mine", overwrite=True)


def test_features_of_another_encoder_are_refused_with_the_field(tmp_path: Path) -> None:
    cache = FakeCache(COUNTS)
    run = _fit(cache, "ce", tmp_path / "run")
    cache.encoder = {**cache.encoder, "towers": {"image": "i1", "text": "t0"}}
    with pytest.raises(IdentityError, match=r"towers.image: expected 'i0', found 'i1'") as info:
        evaluate(tmp_path / "run", cache)  # type: ignore[arg-type]
    assert info.value.exit_status == 4
    marked = evaluate(run, cache, allow_stale=["encoder"])  # type: ignore[arg-type]
    assert marked.stale == ("encoder.towers.image",)


def test_other_class_texts_are_refused_only_by_runs_that_used_them() -> None:
    cache = FakeCache(COUNTS)
    plain, worded = _fit(cache, "ce"), _fit(cache, "lift-lp")
    cache._text = np.roll(cache._text, 1, axis=0)
    evaluate(plain, cache)  # type: ignore[arg-type]
    with pytest.raises(IdentityError, match="sentences"):
        evaluate(worded, cache)  # type: ignore[arg-type]


def test_class_texts_of_another_tower_are_refused_by_a_fit() -> None:
    cache = FakeCache(COUNTS)
    texts = cache.prompts()
    cache.prompts = lambda name=None: texts  # type: ignore[method-assign]
    cache.encoder = {"towers": {"image": "i0", "text": "t1"}}
    with pytest.raises(IdentityError, match="text_tower"):
        _fit(cache, "lift-lp")
    run = _fit(cache, "lift-lp", allow_stale=["prompts"])
    assert run.metrics["test"].stale == ("prompts.text_tower",)


def test_class_texts_of_another_tokenizer_are_refused_wherever_they_are_used() -> None:
    cache = FakeCache(COUNTS)
    texts, own = cache.prompts(), cache.encoder
    cache.prompts = lambda name=None: texts  # type: ignore[method-assign]
    cache.encoder = {**own, "tokenizer": {"class": "Other"}}
    run, there = _fit(cache, "ce"), cast(Any, cache)
    uses: tuple[Callable[[], object], ...] = (
        lambda: _fit(cache, "lift-lp"),
        lambda: tune(there, "lift-lp", trials=1),
        lambda: zero_shot(there),
        lambda: ensemble([ZeroShot(there), run], caches=[there]),
    )
    for use in uses:
        with pytest.raises(IdentityError, match="tokenizer"):
            use()
    imported = FakeCache(COUNTS)  # features from elsewhere name no tokenizer, nor do their texts
    imported.encoder = {**own, "tokenizer": None}
    assert _fit(imported, "lift-lp").record.stale == ()


def test_numerics_only_warn() -> None:
    cache = FakeCache(COUNTS)
    run = _fit(cache)
    cache.numerics = {"precision": "bf16"}
    with pytest.warns(UserWarning, match="numerics.precision"):
        assert evaluate(run, cache).stale == ()  # type: ignore[arg-type]


def test_evaluate_writes_on_request_and_needs_a_cache(tmp_path: Path) -> None:
    cache = FakeCache(COUNTS)
    run = _fit(cache, "ce", tmp_path / "run")
    evaluate(run, cache, "val", write=True)  # type: ignore[arg-type]
    written = json.loads((tmp_path / "run" / "metrics-val.json").read_text())
    assert written["overall"] == run.metrics["val"].overall
    with pytest.raises(UsageError, match="no longer at"):
        evaluate(run)
    with pytest.raises(UsageError, match="does not say which cache"):
        evaluate(_fit(cache))
    with pytest.raises(UsageError, match="no run here"):
        evaluate(tmp_path, cache)  # type: ignore[arg-type]


def test_a_damaged_run_is_named(tmp_path: Path) -> None:
    _fit(FakeCache(COUNTS), "ce", tmp_path / "run")
    (tmp_path / "run" / "head.safetensors").write_bytes(b"x")
    with pytest.raises(FitError, match="cannot be read"):
        open_run(tmp_path / "run")


def test_no_validation_split_and_several_crops() -> None:
    run = _fit(FakeCache(COUNTS, splits=("test",), crops=3))
    assert run.record.tuned_on["epoch"].startswith("a stratified 10% of train")
    assert set(run.metrics) == {"test"} and run.record.cost.encoder_passes == 3


def test_an_encoder_without_pooled_features_falls_back_to_the_embedding() -> None:
    cache = FakeCache(COUNTS, pooled=False)
    run = _fit(cache, "lift-lp")
    assert run.record.field == "embedding" and run.record.init == ("text",)
    with pytest.raises(FitError, match="16 dimensions, not 3"):
        run.logits(np.zeros((2, 3), np.float32))


def test_several_seeds_report_mean_and_spread(tmp_path: Path) -> None:
    found = fit_seeds(FakeCache(COUNTS), "ce", tmp_path, seeds=[0, 1, 2], overrides=SHORT)
    values = [run.metrics["test"].few for run in found.runs]
    few = json.loads((tmp_path / "summary.json").read_text())["splits"]["test"]["few"]
    assert few["values"] == values and few["mean"] == pytest.approx(np.mean(values))
    assert few["sd"] == pytest.approx(np.std(values, ddof=1))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "seed-0",
        "seed-1",
        "seed-2",
        "summary.json",
    ]
    with pytest.raises(FitError, match="different"):
        fit_seeds(FakeCache(COUNTS), "ce", seeds=[1, 1])


def test_an_empty_class_is_refused_unless_smoothed() -> None:
    counts = COUNTS.copy()
    counts[-1] = 0
    with pytest.raises(FitError, match="1 of 8 classes have no training rows"):
        _fit(FakeCache(counts))
    _fit(FakeCache(counts), overrides={**SHORT, "loss.smooth_prior": True})
