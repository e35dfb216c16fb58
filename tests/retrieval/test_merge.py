"""Retrieved images as training rows: weights, and what a person said of them."""

from __future__ import annotations

import numpy as np
import pytest

from ltcache.errors import IdentityError
from ltcache.fit import fit_adapter
from ltcache.retrieval import RetrievalSettings, extra_rows, retrieve_tail
from ltcache.retrieval.review.decisions import (
    ACCEPT,
    ReviewDecisions,
    apply_decisions,
    retrieval_identity,
)
from tests.retrieval.conftest import CLASSES, World, write_cache


def test_what_a_person_accepted_weighs_as_a_labelled_image(world: World) -> None:
    cache = world.labelled()
    pool = world.pool(cache, np.repeat(np.arange(CLASSES), 12))
    result = retrieve_tail(
        cache, pool, settings=RetrievalSettings(per_class=4, tau=0.2, threshold=0.2)
    )
    rows = result.table.select(["label", "key", "status", "reason", "p"]).to_pylist()
    pick = next(row for row in rows if row["status"] == "accepted")
    miss = next(row for row in rows if row["reason"] == "quota")
    chosen = {(row["label"], row["key"]): ACCEPT for row in (pick, miss)}
    decided = apply_decisions(result, ReviewDecisions(retrieval_identity(result), chosen))
    weights = dict(
        zip(decided.accepted["key"].to_pylist(), extra_rows(decided, "p").weights, strict=True)
    )
    assert len(weights) == 13
    assert weights.pop(pick["key"]) == weights.pop(miss["key"]) == 1
    by_key = {row["key"]: row["p"] for row in rows if row["status"] == "accepted"}
    assert weights == pytest.approx({key: by_key[key] for key in weights})
    assert max(weights.values()) < 1
    assert set(extra_rows(decided, 0.5).weights.tolist()) == {0.5}
    assert max(extra_rows(result, "p").weights) < 1
    run = fit_adapter(
        cache, "ce", overrides={"optimisation.epochs": 2}, extra=extra_rows(decided, "p")
    )
    assert sum(run.record.effective_counts) == pytest.approx(
        sum(run.record.class_counts) + 2 + sum(weights.values())
    )


def test_images_that_no_guard_kept_apart_from_the_test_images_are_refused(world: World) -> None:
    cache = world.labelled()
    pool = world.pool(cache, np.repeat(np.arange(CLASSES), 12))
    extra = extra_rows(retrieve_tail(cache, pool, settings=RetrievalSettings(per_class=4)))
    train = cache.labels("train")
    picked = extra.features["embedding"][:, 0]
    columns: dict[str, list[object]] = {
        "label": [*train.tolist(), *extra.labels.tolist()],
        "split": ["train"] * len(train) + ["test"] * len(picked),
    }
    values = np.concatenate([cache.features("train")[:, 0], picked])
    other = write_cache(
        world.root / "other", values, columns, text=world.text, encoder_of=cache.path
    )
    short = {"optimisation.epochs": 2}
    with pytest.raises(IdentityError, match="retrieve again with this cache.*allow-stale rows"):
        fit_adapter(other, "ce", overrides=short, extra=extra)
    run = fit_adapter(other, "ce", overrides=short, extra=extra, allow_stale=["rows"])
    assert run.record.stale == ("rows.value",)
    assert not fit_adapter(cache, "ce", overrides=short, extra=extra).record.stale
