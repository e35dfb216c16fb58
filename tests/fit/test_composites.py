"""Composites in a training: when they come, what a step makes of them, and that none shows a row
that is held out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator

from ltcache.ablate import ablate, tune
from ltcache.ablate.folds import divide
from ltcache.cache import open_cache
from ltcache.encoder import load_encoder
from ltcache.errors import CacheError, FitError, UsageError
from ltcache.extract import extract
from ltcache.fit import FitOptions, LabelledRows, fit_adapter, fit_head, training_rows
from ltcache.fit.cached_rows import composites_of
from ltcache.fit.composites import CompositeRows, CompositeSchedule
from ltcache.fit.steps import CompositeStep, FusionChain
from ltcache.heads import HEADS, HeadContext
from ltcache.images import PartnerRows, View
from ltcache.losses import LOSSES
from ltcache.methods import METHODS, Method, method_by_name, override
from ltcache.objectives import OBJECTIVES
from tests.class_folders import write_images

C, D = 4, 6
COUNTS = torch.tensor([9, 5, 3, 1])
N = int(COUNTS.sum())


def rows(shares: float | None = None, seed: int = 0) -> LabelledRows:
    generator = Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(C), COUNTS)
    features = torch.randn(N, D, generator=generator) + labels[:, None]
    partners = torch.randint(N, (N, 3), generator=generator)
    drawn = torch.rand(N, 3, generator=generator)
    share = drawn if shares is None else torch.full_like(drawn, shares)
    made = CompositeRows(torch.randn(N, 3, D, generator=generator), partners, share)
    return LabelledRows(features, labels, units=np.arange(N), composites=made)


CONTEXT = HeadContext(D, C, COUNTS)


def stepped(
    data: LabelledRows, loss: str, progress: float = 0.5, **changes: Any
) -> tuple[Any, torch.Tensor, torch.Tensor, CompositeSchedule]:
    """Return a head, the rows of a step, its value, and a schedule that draws as the step did."""
    head = HEADS["linear"](CONTEXT)
    head.initialise("random", data.features, data.labels, Generator().manual_seed(1), CONTEXT)
    objective = OBJECTIVES["mean"](LOSSES[loss](COUNTS.double()))
    objective.loss.generator = Generator().manual_seed(3)
    own, again = (CompositeSchedule(1.0, 20, 3, Generator().manual_seed(5)) for _ in range(2))
    chain = FusionChain((), Generator())
    index = torch.tensor([0, 17, 4, 4, 9])
    step = CompositeStep(data, head, objective, chain, own)
    return head, index, step(index, progress), again


def test_a_step_is_the_share_of_each_label_in_a_plain_loop() -> None:
    data = rows()
    head, index, value, again = stepped(data, "cross_entropy")
    number = again.draw(0.5, len(index))
    made = data.composites
    assert number is not None and made is not None
    affine = head.affine()
    weight, bias = (p.detach().double().numpy() for p in (affine.weight, affine.bias))
    total = 0.0
    for row, k in zip(index.tolist(), number.tolist(), strict=True):
        x = made.features[row, k].double().numpy()
        logits = [sum(weight[c][d] * x[d] for d in range(D)) + bias[c] for c in range(C)]
        normaliser = math.log(sum(math.exp(z) for z in logits))
        share, partner = float(made.shares[row, k]), int(made.partners[row, k])
        own, other = int(data.labels[row]), int(data.labels[partner])
        total += share * (normaliser - logits[own]) + (1 - share) * (normaliser - logits[other])
    assert float(value) == pytest.approx(total / len(index), rel=1e-5)


@pytest.mark.parametrize("loss", [name for name, kind in LOSSES.items() if not kind.needs])
def test_every_loss_takes_both_labels(loss: str) -> None:
    """With share 1 the second label counts nothing, with share 0 the first one."""
    data = rows()
    made = data.composites
    assert made is not None
    index = torch.tensor([0, 17, 4, 4, 9])
    number = CompositeSchedule(1.0, 20, 3, Generator().manual_seed(5)).draw(0.5, 5)
    assert number is not None
    for share, labels in (
        (1.0, data.labels[index]),
        (0.0, data.labels[made.partners[index, number]]),
    ):
        head, _, value, _ = stepped(rows(share), loss)
        objective = OBJECTIVES["mean"](LOSSES[loss](COUNTS.double()))
        objective.loss.generator = Generator().manual_seed(3)
        objective.loss.observe(data.labels[index])
        if share == 0 and loss in NOISY:  # the noise of the first labels is drawn before
            objective.loss(torch.zeros(5, C), data.labels[index])
        logits = head(made.features[index, number]).detach()
        expected = objective.loss(logits, labels)
        weights = objective.loss.weights_at(0.5)
        if weights is not None:
            expected = expected * weights[labels] / weights[labels].mean()
        assert float(value) == pytest.approx(float(expected.mean()), rel=1e-4)


NOISY = ("gcl",)


@pytest.mark.parametrize(
    ("epochs", "first", "last"), [(200, 4, 196), (24, 4, 20), (12, 2, 10), (8, 2, 6), (3, 1, 2)]
)
def test_composites_come_in_the_middle_epochs(epochs: int, first: int, last: int) -> None:
    schedule = CompositeSchedule(1.0, epochs, 2, Generator().manual_seed(0))
    drawn = [
        epoch
        for epoch in range(epochs)
        for step in range(7)
        if schedule.draw((epoch * 7 + step) / (epochs * 7), 5) is not None
    ]
    assert drawn == [epoch for epoch in range(first, last + 1) for _ in range(7)]


def test_half_of_the_batches_are_composites_of_all_numbers() -> None:
    schedule = CompositeSchedule(0.5, 20, 4, Generator().manual_seed(0))
    found = [schedule.draw(0.5, 8) for _ in range(2000)]
    numbers = torch.cat([n for n in found if n is not None])
    # standard deviations: 0.011 of the batches, and 0.005 of the rows
    assert sum(n is not None for n in found) / 2000 == pytest.approx(0.5, abs=0.045)
    assert torch.bincount(numbers) / len(numbers) == pytest.approx(torch.full((4,), 0.25), abs=0.02)


def test_rows_that_are_taken_show_none_of_those_that_are_not() -> None:
    data, index = rows(), torch.tensor([16, 2, 9, 0])
    taken = data.take(index)
    made, before = taken.composites, data.composites
    assert made is not None and before is not None
    assert any(int(p) in index for p in before.partners[index].flatten())
    for place, row in enumerate(index.tolist()):
        for k in range(3):
            partner = int(before.partners[row, k])
            if partner in index.tolist():
                assert index[made.partners[place, k]] == partner
                assert torch.equal(made.features[place, k], before.features[row, k])
                assert made.shares[place, k] == before.shares[row, k]
            else:
                assert made.partners[place, k] == place and made.shares[place, k] == 1
                assert torch.equal(made.features[place, k], data.features[row])


def test_extra_rows_are_their_own_composites() -> None:
    data, more = rows(), torch.randn(2, D)
    assert data.composites is not None
    made = data.composites.with_plain(more)
    assert torch.equal(made.partners[-2:], torch.tensor([[N] * 3, [N + 1] * 3]))
    assert torch.equal(made.features[-1], more[1].expand(3, D)) and made.shares[-2:].eq(1).all()
    extra = LabelledRows(more, torch.tensor([0, 3]), torch.tensor([0.5, 0.5]))
    fit = fit_head(short("ce+cmo"), data, CONTEXT, extra=extra, choose=False)
    assert all(math.isfinite(record["loss"]) for record in fit.history)


def short(name: str, **changes: Any) -> Method:
    return override(METHODS[name], {"optimisation.epochs": 6, "optimisation.batch": 4, **changes})


@pytest.mark.parametrize("name", ["ce+cmo", "bsce+cmo", "ride+cmo"])
def test_without_composites_a_method_is_the_one_it_stands_on(name: str) -> None:
    plain = {"ce+cmo": "ce", "bsce+cmo": "balanced-softmax", "ride+cmo": "ride"}[name]
    data = rows()
    found = [
        fit_head(method, data, CONTEXT, choose=False, options=FitOptions(closed_form=False))
        for method in (short(name, composites=0.0), short(plain), short(name))
    ]
    a, b, c = (torch.cat([p.flatten() for p in fit.head.state_dict().values()]) for fit in found)
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert found[2].residual_prior is None


def test_what_makes_no_sense_is_refused() -> None:
    for settings, text in (
        ({"composites": 1.5}, "composites=1.5 is a probability"),
        ({"feature.composites": "rrc:2"}, "no view of composites"),
        ({"feature.composites": "cmo"}, "no view 'cmo'"),
        ({"feature.view": "cmo:2"}, "two labels: name it as feature.composites"),
        ({"feature.eval_view": "cmo:2"}, "two labels: name it as feature.composites"),
    ):
        with pytest.raises(UsageError, match=text):
            override(METHODS["ce+cmo"], settings)
    plain = LabelledRows(rows().features, rows().labels)
    with pytest.raises(FitError, match=r"composites=0\.5 needs composites.*--views center,cmo:2"):
        fit_head(METHODS["ce+cmo"], plain, CONTEXT, choose=False)
    with pytest.raises(FitError, match="lbfgs.*it has composites"):
        fit_head(short("ce+cmo", **{"optimisation.optimiser": "lbfgs"}), rows(), CONTEXT)
    with pytest.raises(UsageError, match="composites=0.5 has no effect.*take more epochs"):
        fit_head(short("ce+cmo", **{"optimisation.epochs": 1}), rows(), CONTEXT)
    with pytest.raises(FitError, match="composites of shapes"):
        CompositeRows(torch.zeros(3, 2, 4), torch.zeros(3, 1, dtype=torch.int64), torch.ones(3, 2))
    assert method_by_name("cmo") is METHODS["ce+cmo"]


def test_records_know_of_composites_only_where_there_are_some() -> None:
    plain = override(METHODS["ce"], {}).to_dict()
    assert "composites" not in plain["feature"] and "composites" not in plain["stages"][0]
    made = METHODS["ce+cmo"].to_dict()
    assert (made["feature"]["composites"], made["stages"][0]["composites"]) == ("cmo:2", 0.5)
    assert Method.from_dict(json.loads(json.dumps(made))) == METHODS["ce+cmo"]


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path) -> Path:
    """Return a cache with composites, of a folder with three splits."""
    work = tmp_path_factory.mktemp("composites")
    for split in ("train", "val", "test"):
        write_images(work / "photos" / split, {"fox": 9, "jay": 4, "moth": 2})
    views = ("rrc:2", "cmo:3")
    extract(work / "photos", work / "cache", encoder=load_encoder(f"local-dir:{tiny_clip}"),
            views=views, view_seed=6)  # fmt: skip
    return work / "cache"


def test_partners_and_shares_of_a_cache_are_those_that_were_pasted(cached: Path) -> None:
    cache = open_cache(cached)
    made = composites_of(cache, "embedding", "cmo:3")
    view = View.from_identity(cache.identities("cmo:3")["view"])
    partners = PartnerRows.of(cache.manifest.rows)
    table = cache.manifest.rows.to_pylist()
    training = [row for row in table if row["split"] == "train"]
    for number, row in enumerate(training):
        for k in range(3):
            drawn = partners.draw(view, row["sha256"], k, (32, 32))
            key = partners.keys[drawn.partner].as_py()
            assert training[int(made.partners[number, k])]["key"] == key
            assert float(made.shares[number, k]) == pytest.approx(drawn.share)
    assert np.array_equal(made.features.numpy(), cache.features("train", "embedding", "cmo:3"))
    method = override(METHODS["ce+cmo"], {"feature.composites": "cmo:3", "feature.view": "rrc:2"})
    twice = training_rows(cache, "embedding", method)
    assert twice.composites is not None and len(twice) == 2 * len(training)
    for crop in range(2 * len(training)):
        assert torch.equal(twice.composites.features[crop], made.features[crop // 2])
        own = twice.labels[twice.composites.partners[crop]]
        assert own.tolist() == [training[p]["label"] for p in made.partners[crop // 2].tolist()]


@pytest.mark.parametrize("fold", [0, 1])
def test_an_image_that_was_left_out_is_in_no_composite(cached: Path, fold: int) -> None:
    whole, left = open_cache(cached), divide(open_cache(cached), 2).without(fold)
    made, kept = (composites_of(cache, "embedding", "cmo:3") for cache in (whole, left))
    keys, stay = (list(cache.column("key", "train")) for cache in (whole, left))
    plain = left.features("train", "embedding", "center")[:, 0]
    gone = 0
    for row, key in enumerate(stay):
        before = keys.index(key)
        for k in range(3):
            partner, features = keys[int(made.partners[before, k])], kept.features[row, k].numpy()
            if partner in stay:
                assert stay[int(kept.partners[row, k])] == partner
                assert torch.equal(kept.features[row, k], made.features[before, k])
                assert kept.shares[row, k] == made.shares[before, k]
            else:
                gone += 1
                assert (int(kept.partners[row, k]), float(kept.shares[row, k])) == (row, 1.0)
                assert np.array_equal(features, plain[row].astype(np.float32))
    assert 0 < gone < 3 * len(stay)


def test_methods_with_composites_are_compared_and_tuned_by_folds(
    cached: Path, tmp_path: Path
) -> None:
    method = override(METHODS["ce+cmo"], {"feature.composites": "cmo:3"})
    short = {"optimisation.epochs": 4}
    found = ablate(open_cache(cached), ["ce", method], tmp_path, seeds=1, overrides=short, folds=2,
                   workers=1)  # fmt: skip
    assert not found.failures and len(found.comparison["entries"]) == 2
    tuned = tune(cached, method, grid={"optimisation.lr": [1e-3]}, tune_folds=2, overrides=short)
    assert tuned.tried[0].failed is None


def test_a_run_says_which_composites_it_was_trained_on(cached: Path, tmp_path: Path) -> None:
    settings = {"feature.composites": "cmo:3", "optimisation.epochs": 5, "feature.field": "pooled"}
    run = fit_adapter(cached, "ride+cmo", tmp_path / "run", overrides=settings)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["composites"] == open_cache(cached).identities("cmo:3")["view"]
    assert (run.record.cost.encoder_passes, run.record.residual_prior) == (4, None)
    plain = fit_adapter(cached, "ce", tmp_path / "plain", overrides={"optimisation.epochs": 2})
    assert plain.record.composites is None
    assert "composites" not in json.loads((tmp_path / "plain" / "run.json").read_text())
    with pytest.raises(CacheError, match=r"no view 'cmo:2'.*--views cmo:2"):
        fit_adapter(cached, "ce+cmo")
    off = {"composites": 0.0, "optimisation.epochs": 2}
    assert fit_adapter(cached, "ce+cmo", overrides=off).record.cost.encoder_passes == 1


def test_composites_are_no_crops_to_learn_from_at_prediction(cached: Path) -> None:
    short = {"stages.0.optimisation.epochs": 1}
    with pytest.raises(CacheError, match=r"adjustment\.view=cmo:3 is a view of composites"):
        fit_adapter(cached, "tade", overrides={"adjustment.view": "cmo:3", **short})
    assert fit_adapter(cached, "tade", overrides={"adjustment.view": "rrc:2", **short}).metrics


def test_as_typed(call: Callable[..., Any], tiny_clip: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_images(tmp_path / "photos" / split, {"fox": 9, "jay": 4, "moth": 2})
    cache, model = tmp_path / "cache", ("--model", f"local-dir:{tiny_clip}")
    words = ("--out", cache, *model)
    status, out, _ = call("extract", tmp_path / "photos", *words, "--views", "center,cmo:2",
                          "--view-seed", 3)  # fmt: skip
    assert status == 0 and "encoded 60 images" in out
    run = tmp_path / "run"
    status, _, err = call("fit-adapter", cache, "--method", "bsce+cmo", "--out", run)
    assert status == 0, err
    assert call("evaluate", run)[0] == 0
    status, _, err = call("fit-adapter", cache, "--method", "ce", "-s", "feature.view=cmo:2",
                          "--out", tmp_path / "wrong")  # fmt: skip
    assert status == 2 and "feature.composites" in err
    (tmp_path / "photos" / "train" / "jay" / "000.png").rename(tmp_path / "away.png")
    status, _, err = call("extract", tmp_path / "photos", *words)
    assert status == 2 and "choose another --out" in err
