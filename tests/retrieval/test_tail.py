"""Which images are taken for which class, and what keeps others out."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ltcache.cache import Cache, store_prompts
from ltcache.errors import CacheError, FitError, IdentityError, UsageError
from ltcache.metrics import GroupScheme
from ltcache.retrieval import (
    IndexRequest,
    PoolIndex,
    RetrievalSettings,
    open_retrieved,
    retrieve_tail,
)
from ltcache.retrieval.guards.verdicts import REASONS
from ltcache.retrieval.result import COLUMNS
from ltcache.retrieval.scoring import cached_queries
from ltcache.retrieval.scoring.queries import class_queries, unit
from ltcache.retrieval.selection import quotas, tail_classes
from tests.retrieval.conftest import CLASSES, COUNTS, World
from tests.retrieval.reference import plain_log_odds

FEW = np.array([3, 4, 5])


def test_the_result_says_what_became_of_every_candidate(world: World, tmp_path: Path) -> None:
    cache = world.labelled()
    labels = np.repeat(np.arange(CLASSES), 30)
    pool = world.pool(cache, labels)
    result = retrieve_tail(cache, pool, tmp_path / "r", RetrievalSettings(per_class=8))
    table = result.table
    assert tuple(table.column_names) == tuple(COLUMNS)
    assert np.unique(table["label"].to_numpy()).tolist() == FEW.tolist()
    taken = result.accepted.to_pylist()
    assert result.counts() == {3: 8, 4: 8, 5: 8}
    assert all(labels[row["pool_row"]] == row["label"] for row in taken)
    assert set(table["reason"].to_pylist()) <= {"", *REASONS}
    assert all(bool(r["reason"]) == (r["status"] == "rejected") for r in table.to_pylist())
    queries = class_queries(cache.prompts(), 1 / 20)
    odds = plain_log_odds(pool.features()[:, 0], queries, FEW)
    for row in table.to_pylist():
        value = odds[row["pool_row"], FEW.tolist().index(row["label"])]
        assert row["log_odds"] == pytest.approx(value, abs=2e-9)
        assert row["p"] == pytest.approx(1 / (1 + np.exp(-value)), rel=1e-9)
        assert (row["source"], row["licence"]) == (f"site{row['pool_row'] % 4}", "CC0")
        assert row["caption"].startswith("<script>")
    train = cache.features("train")[:, 0].astype(np.float64)
    for row in taken:
        cosines = unit(train) @ unit(pool.row_features(np.array([row["pool_row"]]))[0, 0])
        assert row["train_similarity"] == pytest.approx(cosines.max(), abs=1e-5)
        assert row["train_row"] == cache.rows("train")[cosines.argmax()]
        assert row["train_label"] == cache.labels("train")[cosines.argmax()]


def test_the_directory_is_read_as_it_was_written(world: World, tmp_path: Path) -> None:
    cache = world.labelled()
    pool = world.pool(cache, np.repeat(np.arange(CLASSES), 10))
    out = tmp_path / "r"
    result = retrieve_tail(cache, pool, out)
    again = open_retrieved(out)
    assert again.table.equals(result.table)
    assert again.record == result.record
    rows = again.accepted["pool_row"].to_numpy()
    np.testing.assert_array_equal(again.features_of(rows), pool.row_features(rows))
    with open(out / "retrieved.csv", newline="", encoding="utf-8") as file:
        assert [int(r["pool_row"]) for r in csv.DictReader(file)] == again.table[
            "pool_row"
        ].to_pylist()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []
    retrieve_tail(cache, pool, out)  # the same again is no conflict
    with pytest.raises(UsageError, match="--overwrite"):
        retrieve_tail(cache, pool, out, RetrievalSettings(per_class=3))
    retrieve_tail(cache, pool, out, RetrievalSettings(per_class=3), overwrite=True)
    (out / "retrieved.parquet").write_bytes(b"PAR1")
    with pytest.raises(CacheError, match="cannot be read"):
        open_retrieved(out)
    with pytest.raises(UsageError, match="no result"):
        open_retrieved(tmp_path)
    with pytest.raises(UsageError, match="is no result"):
        retrieve_tail(cache, pool, cache.path)


def test_copies_are_kept_out_and_named(world: World) -> None:
    cache = world.labelled()
    labels = np.repeat(FEW, 12)
    test, train = cache.features("test")[:, 0], cache.features("train")[:, 0]
    of_tail = np.flatnonzero(np.isin(cache.labels("test"), FEW))
    planted = np.concatenate([test[of_tail], train[-10:], world.images(np.array([5]))])
    extra = np.concatenate([planted, planted[-1:]])  # the last one twice
    pool = world.pool(cache, labels, extra)
    result = retrieve_tail(cache, pool, settings=RetrievalSettings(per_class=50, threshold=0.3))
    by_row = {row["pool_row"]: row for row in result.table.to_pylist() if row["p"] > 0.3}
    first = len(labels)
    for place in range(len(of_tail)):
        row = by_row.get(first + place)
        assert row is None or row["reason"] == "near-leak"
        assert row is None or row["held_out_similarity"] > 0.999
    copies = [by_row[n] for n in range(first + len(of_tail), first + len(of_tail) + 10)]
    assert {row["reason"] for row in copies} == {"near-duplicate"}
    keys = cache.manifest.rows["key"].to_pylist()
    assert all(row["duplicate_of"] == keys[row["train_row"]] for row in copies)
    twins = [by_row[first + len(planted) - 1], by_row[first + len(planted)]]
    assert [row["reason"] for row in twins] == ["", "near-pool-duplicate"]
    assert twins[1]["duplicate_of"] == twins[0]["key"]
    loose = RetrievalSettings(per_class=50, threshold=0.3, off=("duplicates", "leaks"))
    without = retrieve_tail(cache, pool, settings=loose)
    assert sum(without.counts().values()) > sum(result.counts().values()) + 10


def test_a_class_without_candidates_ends_as_an_honest_zero(world: World, tmp_path: Path) -> None:
    cache = world.labelled()
    pool = world.pool(cache, np.zeros(40, np.int64))  # nothing but the largest class
    result = retrieve_tail(cache, pool, tmp_path / "r")
    assert result.counts() == {3: 0, 4: 0, 5: 0}
    assert result.accepted.num_rows == 0
    assert open_retrieved(tmp_path / "r").features_of(np.zeros(0, np.int64)).shape[0] == 0
    assert all(entry.rejected["threshold"] > 0 for entry in result.classes)


def test_a_pool_smaller_than_the_quota_gives_what_it_has(world: World) -> None:
    cache = world.labelled()
    result = retrieve_tail(
        cache, world.pool(cache, np.array([5, 5, 0])), settings=RetrievalSettings(per_class=9)
    )
    assert result.counts() == {3: 0, 4: 0, 5: 2}


def test_another_encoder_is_refused(world: World, tmp_path: Path) -> None:
    cache = world.labelled()
    other = World(tmp_path / "other", seed=7)
    other.root.mkdir()
    pool = other.pool(other.labelled(), np.repeat(FEW, 4))
    with pytest.raises(IdentityError) as caught:
        retrieve_tail(cache, pool)
    assert caught.value.exit_status == 4
    result = retrieve_tail(cache, pool, allow_stale=["encoder"])
    assert any(field.startswith("encoder.") for field in result.record.stale)


def test_no_source_gives_more_than_its_cap(world: World) -> None:
    cache = world.labelled()
    pool = world.pool(cache, np.repeat(np.arange(CLASSES), 24))
    result = retrieve_tail(cache, pool, settings=RetrievalSettings(per_class=20, per_source=2))
    taken = result.accepted.to_pylist()
    for label in FEW:
        sources = [row["source"] for row in taken if row["label"] == label]
        assert max(sources.count(name) for name in set(sources)) == 2
    assert "source-cap" in result.table["reason"].to_pylist()
    urls = pool.manifest.rows["url"].to_pylist()
    by_host = retrieve_tail(
        cache, pool, settings=RetrievalSettings(per_class=20, per_source=1, source_column="url")
    )
    assert {row["source"] for row in by_host.accepted.to_pylist()} <= set(urls)
    with pytest.raises(UsageError, match="no column"):
        retrieve_tail(cache, pool, settings=RetrievalSettings(per_source=1, source_column="vendor"))
    bare = pool.with_rows(pool.manifest.rows.drop_columns(["source", "url"]))
    with pytest.raises(UsageError, match="would keep nothing out; name a column"):
        retrieve_tail(cache, bare, settings=RetrievalSettings(per_source=1))


def test_an_image_is_taken_for_one_class_only(world: World) -> None:
    cache = world.labelled()
    between = unit(world.text[3] + world.text[4])[None]
    pool = world.pool(cache, np.repeat(FEW, 3), np.repeat(between, 1, axis=0))
    settings = RetrievalSettings(per_class=20, threshold=0.05, margin=-5.0)
    result = retrieve_tail(cache, pool, settings=settings)
    rows = result.accepted["pool_row"].to_pylist()
    assert len(rows) == len(set(rows))
    assert "other-class" in result.table["reason"].to_pylist()
    strict = retrieve_tail(
        cache, pool, settings=RetrievalSettings(per_class=20, threshold=0.0, margin=2.0)
    )
    assert min(row["margin"] for row in strict.accepted.to_pylist()) >= 2
    assert "confusable" in strict.table["reason"].to_pylist()


def test_of_two_picks_that_look_alike_the_class_with_higher_log_odds_keeps_its_own(
    world: World,
) -> None:
    cache = world.labelled()
    middle = unit(world.text[3] + world.text[4])
    twins = np.stack([middle + 0.015 * world.text[3], middle + 0.01 * world.text[4]])
    pool = world.pool(cache, np.repeat(FEW, 3), twins)
    settings = RetrievalSettings(per_class=4, threshold=0.3)
    result = retrieve_tail(cache, pool, settings=settings)
    kept, gone = (
        next(r for r in result.table.to_pylist() if (r["pool_row"], r["label"]) == pair)
        for pair in ((9, 3), (10, 4))
    )
    assert kept["log_odds"] > gone["log_odds"] > 0
    assert (kept["status"], gone["status"]) == ("accepted", "rejected")
    assert (gone["reason"], gone["duplicate_of"]) == ("near-other-class", kept["key"])
    loose = retrieve_tail(cache, pool, settings=replace(settings, off=("duplicates",)))
    assert {9, 10} <= set(loose.accepted["pool_row"].to_pylist())


def test_what_replaces_a_pick_is_compared_too(world: World) -> None:
    cache = world.labelled()
    middle = unit(world.text[3] + world.text[4])
    twins = [middle + (0.015 - n / 2000) * world.text[3 + n % 2] for n in range(8)]
    pool = world.pool(cache, np.array([5, 5]), np.stack(twins))
    settings = RetrievalSettings(per_class=2, threshold=0.3)
    result = retrieve_tail(cache, pool, settings=settings)
    assert result.counts() == {3: 1, 4: 0, 5: 2}
    reasons = result.table["reason"].to_pylist()
    assert reasons.count("near-other-class") == 4
    assert reasons.count("near-pool-duplicate") == 3


def test_the_next_best_takes_the_place_of_what_guards_keep_out(world: World) -> None:
    cache = world.labelled()
    test, labels = cache.features("test")[:, 0], cache.labels("test")
    leaks = np.repeat(test[labels == 3], 3, axis=0) * 2
    pool = world.pool(cache, np.repeat(FEW, 12), leaks)
    result = retrieve_tail(cache, pool, settings=RetrievalSettings(per_class=8, threshold=0.1))
    assert result.counts() == {3: 8, 4: 8, 5: 8}
    assert max(result.accepted["pool_row"].to_pylist()) < 36
    of_class = [row for row in result.table.to_pylist() if row["label"] == 3]
    ranks = [row["rank"] for row in of_class if row["status"] == "accepted"]
    better = [row for row in of_class if row["rank"] < max(ranks) and row["rank"] not in ranks]
    assert "near-leak" in {row["reason"] for row in better}
    assert "quota" not in {row["reason"] for row in better}


def test_the_threshold_is_calibrated_to_a_precision(world: World) -> None:
    cache = world.labelled()
    pool = world.pool(cache, np.repeat(np.arange(CLASSES), 10))
    for weight in (0.0, 0.5):
        settings = RetrievalSettings(precision=0.97, mean_weight=weight, tau=0.2)
        found = retrieve_tail(cache, pool, settings=settings).record.thresholds.p
        assert found.reached >= 0.97
        assert 0 < found.value < 1
    # with random class texts no threshold helps
    prompts = cache.prompts()
    wrong = type(prompts)(
        "wrong",
        prompts.texts,
        np.roll(prompts.sentences, 1, axis=0),
        prompts.count,
        np.roll(prompts.mean, 1, axis=0),
        {**prompts.identity, "sentences": "x"},
    )
    store_prompts(cache.path, wrong)
    with pytest.raises(FitError, match="the best is"):
        retrieve_tail(cache.path, pool, settings=RetrievalSettings(precision=0.9, prompts="wrong"))


def test_precision_on_training_images_is_what_is_said(world: World) -> None:
    cache = world.labelled(counts=(60, 40, 25, 19, 18, 17))
    pool = world.pool(cache, np.repeat(FEW, 4))
    settings = RetrievalSettings(precision=0.9, tau=1.0)
    found = retrieve_tail(cache, pool, settings=settings).record.thresholds.p
    labels = cache.labels("train")
    odds = plain_log_odds(
        cache.features("train")[:, 0], class_queries(cache.prompts(), 1.0), np.arange(CLASSES)
    )
    best, p = odds.argmax(axis=1), 1 / (1 + np.exp(-odds.max(axis=1)))
    chosen = np.isin(best, FEW) & (p >= found.value - 1e-12)
    weights = 1 / np.bincount(labels)[labels]
    reached = weights[chosen & (best == labels)].sum() / weights[chosen].sum()
    assert found.reached == pytest.approx(reached)
    assert found.support == chosen.sum()


def test_classes_are_chosen_by_group_count_or_list() -> None:
    counts, scheme = np.array(COUNTS), GroupScheme(many_above=50, few_below=20)
    assert tail_classes(counts, scheme).tolist() == [3, 4, 5]
    assert tail_classes(counts, scheme, groups=("few", "medium")).tolist() == [1, 2, 3, 4, 5]
    assert tail_classes(counts, scheme, max_count=6).tolist() == [4, 5]
    assert tail_classes(counts, scheme, labels=(4, 1)).tolist() == [1, 4]
    for wrong in ({"groups": ("tail",)}, {"max_count": 1}, {"labels": (9,)}, {"labels": ()}):
        with pytest.raises(UsageError):
            tail_classes(counts, scheme, **wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="several"):
        tail_classes(counts, scheme, groups=("few",), max_count=3)


def test_quotas_fill_up_to_a_count_or_the_median() -> None:
    counts = np.array([100, 40, 21, 20, 5, 0])
    labels = np.array([3, 4, 5])
    assert quotas(counts, labels).tolist() == [1, 16, 21]  # the median of those that have any
    assert quotas(counts, labels, up_to=10).tolist() == [0, 5, 10]
    assert quotas(counts, labels, per_class=7).tolist() == [7, 7, 7]
    for wrong in ({"per_class": 1, "up_to": 2}, {"up_to": "mean"}, {"per_class": -1}):
        with pytest.raises(UsageError):
            quotas(counts, labels, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0.5, "precision": 0.9},
        {"false_alarm": 0.0},
        {"candidates": 0},
        {"off": ("everything",)},
    ],
)
def test_settings_that_cannot_be_meant(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        RetrievalSettings(**wrong)  # type: ignore[arg-type]


def test_training_images_are_summed_once_for_queries_index_and_threshold(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = world.labelled()
    pool = world.pool(cache, np.repeat(np.arange(CLASSES), 10))
    calls: list[str] = []
    summed = cached_queries.class_sums

    def counted(cache: Cache, view: str) -> np.ndarray:
        calls.append(view)
        return summed(cache, view)

    monkeypatch.setattr(cached_queries, "class_sums", counted)
    built: list[PoolIndex | None] = []
    settings = RetrievalSettings(precision=0.9, mean_weight=0.5, tau=0.2)
    request = IndexRequest("flat", built=built.append)
    result = retrieve_tail(cache, pool, settings=settings, ranking=request)
    assert calls == ["center"]
    assert [index.record for index in built if index] == [result.record.index]
