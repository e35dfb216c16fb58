"""Rows that train beside the training split: priors, groups, weights, identities."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from ltcache.errors import FitError, IdentityError, UsageError
from ltcache.fit import STATISTICS, StageInput, fit_adapter
from ltcache.fit.statistics import compensation
from tests.fakes import FakeCache, extra_of, long_tail_counts

COUNTS = long_tail_counts(8, 120, 6)
SHORT = {"optimisation.epochs": 5}


def test_extra_rows_train_and_count_in_the_prior_but_not_in_the_groups(tmp_path: Path) -> None:
    cache = FakeCache(COUNTS, noise=1.0)
    longer = {"optimisation.epochs": 20, "optimisation.lr": 0.02}
    plain = fit_adapter(cache, "ce", overrides=longer)
    more = fit_adapter(cache, "ce", tmp_path / "run", overrides=longer, extra=extra_of(cache))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["class_counts"] == COUNTS.tolist()
    assert record["effective_counts"][:-1] == COUNTS[:-1].tolist()
    assert record["effective_counts"][-1] == COUNTS[-1] + record["extra"]["rows"]
    assert more.metrics["test"].group_sizes == plain.metrics["test"].group_sizes
    before, after = plain.metrics["test"].per_class[7], more.metrics["test"].per_class[7]
    assert before is not None and after is not None and after > before
    assert more.key != plain.key


def test_half_the_weight_is_half_an_image_in_the_prior_and_in_the_loss() -> None:
    cache = FakeCache(COUNTS)
    one = fit_adapter(cache, "logit-adjustment", overrides=SHORT, extra=extra_of(cache))
    half = fit_adapter(cache, "logit-adjustment", overrides=SHORT, extra=extra_of(cache, 40, 0.5))
    left = [run.record.effective_counts[-1] - COUNTS[-1] for run in (one, half)]
    assert left[1] == left[0] / 2
    features = cache.features("test", one.record.field)
    assert not np.allclose(one.logits(features), half.logits(features))


def test_an_extra_image_weighs_as_much_as_a_training_image_whatever_crops_there_are() -> None:
    cache = FakeCache(COUNTS, views={"rrc:4": 0.0})  # four crops alike
    extra = extra_of(cache, weight=0.5)
    four = {name: values.repeat(4, axis=1) for name, values in extra.features.items()}
    one, more = (
        fit_adapter(cache, "ncm", overrides={"feature.view": view}, extra=rows)
        for view, rows in (("center", extra), ("rrc:4", extra))
    )
    both = fit_adapter(cache, "ncm", extra=extra_of(cache, weight=0.5, features=four))
    features = cache.features("test", one.record.field)
    np.testing.assert_allclose(more.logits(features), one.logits(features), atol=1e-5)
    np.testing.assert_allclose(both.logits(features), one.logits(features), atol=1e-5)


def test_crops_of_an_image_stay_one_unit_beside_extra_rows_and_class_texts() -> None:
    cache = FakeCache(COUNTS, views={"rrc:4": 0.1})
    found = []

    def kept(task: StageInput, **options: object) -> dict[str, torch.Tensor]:
        found.append(task.rows.units)
        return compensation(task, **options)  # type: ignore[arg-type]

    settings = {**SHORT, "feature.view": "rrc:4", "feature.text_rows": True}
    with mock.patch.dict(STATISTICS, compensation=kept):
        fit_adapter(cache, "sage", overrides=settings, extra=extra_of(cache, 5))  # type: ignore[arg-type]
    (units,) = found
    sizes = np.bincount(units)
    assert sizes.tolist() == [4] * int(COUNTS.sum()) + [1] * (5 + len(COUNTS))


def test_no_extra_row_is_no_extra_row() -> None:
    cache = FakeCache(COUNTS)
    plain = fit_adapter(cache, "ce", overrides=SHORT)
    none = fit_adapter(cache, "ce", overrides=SHORT, extra=extra_of(cache, 0))
    features = cache.features("test", plain.record.field)
    assert np.array_equal(plain.logits(features), none.logits(features))


def test_rows_of_another_encoder_or_of_other_classes_are_refused() -> None:
    cache = FakeCache(COUNTS)
    theirs = {**cache.identities("center"), "encoder": {"towers": {"image": "other"}}}
    with pytest.raises(IdentityError, match="retrieve again") as caught:
        fit_adapter(cache, "ce", overrides=SHORT, extra=extra_of(cache, identities=theirs))
    assert caught.value.exit_status == 4
    classes = {**cache.identities("center"), "classes": "others"}
    with pytest.raises(IdentityError, match="classes"):
        fit_adapter(cache, "ce", overrides=SHORT, extra=extra_of(cache, identities=classes))


def test_a_field_that_the_rows_lack_is_named() -> None:
    cache = FakeCache(COUNTS)
    extra = extra_of(cache)
    only = extra_of(cache, features={"embedding": extra.features["embedding"]})
    with pytest.raises(FitError, match="no field 'pooled', only embedding"):
        fit_adapter(cache, "ce", overrides=SHORT, extra=only)


def test_a_weight_is_p_or_a_positive_number() -> None:
    from ltcache.retrieval.merge import _weights

    p, by_hand = np.array([0.9, 0.5]), np.array([False, True])
    assert _weights("p", p, ~by_hand & by_hand).tolist() == pytest.approx([0.9, 0.5])
    assert _weights("p", p, by_hand).tolist() == pytest.approx([0.9, 1])
    assert _weights("0.25", p, by_hand).tolist() == [0.25, 0.25]
    for bad in ("q", "0", "-1", "nan"):
        with pytest.raises(UsageError, match="neither p nor a positive number"):
            _weights(bad, p, by_hand)
