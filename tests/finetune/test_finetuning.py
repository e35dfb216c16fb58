"""From a manifest and a method to a checkpoint, for every kind of method and of tower."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ltcache.encoder import load_encoder
from ltcache.errors import FitError, IdentityError, UnfittedWarning, UsageError
from ltcache.finetune import TUNINGS, open_fine_tuned, override_tuning
from ltcache.finetune.assembly import _channels_last
from ltcache.finetune.processes import ProcessRanks
from ltcache.manifest import Manifest
from tests.finetune.conftest import Tune
from tests.finetune.pictures import read_pictures, write_pictures

PIXELS = torch.randint(0, 256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0))


def features(encoder: Any) -> torch.Tensor:
    return encoder.encode_images(PIXELS.to(torch.uint8))["embedding"]


@pytest.mark.parametrize("method", TUNINGS)
def test_every_method_moves_the_encoder_and_comes_back(
    tune: Tune, towers: dict[str, str], method: str
) -> None:
    options = {"optimisation.epochs": 1}
    tuned = tune(method, overrides=options)
    parent = load_encoder(towers["vit"], device="cpu")
    again = open_fine_tuned(tuned.path, device="cpu")
    assert tuned.encoder.identity["towers"]["image"] != parent.identity["towers"]["image"]
    trained = TUNINGS[method].text.train != "none"
    same = tuned.encoder.identity["towers"]["text"] == parent.identity["towers"]["text"]
    assert same != trained
    assert again.encoder.identity == tuned.encoder.identity
    torch.testing.assert_close(features(again.encoder), features(tuned.encoder))
    assert not torch.allclose(features(tuned.encoder), features(parent))
    assert (tuned.head is None) == TUNINGS[method].scores_texts
    assert again.record == tuned.record and again.history == tuned.history
    assert again.record.val == tuned.record.val and tuned.record.val is not None
    if tuned.head is not None and again.head is not None:
        rows = torch.randn(3, tuned.head.dim)
        assert torch.equal(tuned.head(rows), again.head(rows))


@pytest.mark.parametrize("kind", ["resnet", "timm"])
@pytest.mark.parametrize("method", ["full", "ballad", "lift", "tin"])
def test_convolutional_towers_are_tuned(tune: Tune, kind: str, method: str) -> None:
    tuned = tune(method, kind, overrides={"optimisation.epochs": 1})
    again = open_fine_tuned(tuned.path, device="cpu")
    torch.testing.assert_close(features(again.encoder), features(tuned.encoder))


def test_training_lowers_the_loss_and_keeps_the_best_epoch(tune: Tune) -> None:
    tuned = tune("full", overrides={"optimisation.epochs": 6, "optimisation.lr": 3e-3})
    losses = [record["loss"] for record in tuned.history]
    assert len(losses) == 6 and losses[-1] < losses[0]
    scores = [(r["val_mean_per_class"], -r["val_nll"]) for r in tuned.history]
    assert tuned.record.epoch == 1 + scores.index(max(scores))
    assert tuned.record.val is not None
    assert tuned.record.val.mean_per_class == pytest.approx(max(scores)[0])
    assert tuned.record.tuned_on == {"epoch": "val"}


def test_without_validation_images_the_last_epoch_is_kept(tune: Tune, tmp_path: Path) -> None:
    source = read_pictures(write_pictures(tmp_path / "images"), val=False)
    tuned = tune("lift", source=source)
    assert tuned.record.epoch == 2 and tuned.record.val is None
    assert "no val" in tuned.record.tuned_on["epoch"]


def test_frozen_towers_keep_their_bytes(tune: Tune, towers: dict[str, str]) -> None:
    tuned = tune("lift")
    before = load_encoder(towers["vit"], device="cpu").model.state_dict()
    after = tuned.encoder.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert any(name.startswith("visual.adapters.") for name in set(after) - set(before))


def test_a_head_without_a_loss_begins_as_zero_shot(tune: Tune, pictures: Manifest) -> None:
    """At a learning rate of next to nothing the head is still the class texts'."""
    tuned = tune("lift", overrides={"optimisation.lr": 1e-12, "classifier.field": "embedding"})
    parent = tune("ballad", out="zero", overrides={"optimisation.lr": 1e-12})
    assert tuned.record.val is not None and parent.record.val is not None
    assert tuned.record.val.per_class == parent.record.val.per_class
    for record in (tuned.record, parent.record):  # what tuning is to be held against
        assert record.start is not None and record.val is not None
        assert record.start.per_class == record.val.per_class
        assert type(record).from_dict(record.to_dict()) == record


@pytest.mark.parametrize("init", ["text", "class_mean", "random", "probe"])
def test_every_start_of_a_head_is_taken(tune: Tune, init: str) -> None:
    tuned = tune("lift", overrides={"classifier.init": init, "optimisation.epochs": 1})
    assert tuned.record.head.init == init


def test_a_probe_first_begins_with_a_fitted_head(tune: Tune) -> None:
    still = {"optimisation.lr": 1e-9, "optimisation.epochs": 1}
    probe = tune("lp-ft", overrides=still)
    text = tune("full", out="text", overrides=still)
    assert probe.history[0]["val_nll"] < text.history[0]["val_nll"]


def test_sages_parts_switch_off(tune: Tune) -> None:
    off = {"adapters": "none", "loss.lam": "0", "image.train": "bias", "optimisation.epochs": 1}
    plain = {"adapters": "none", "image.train": "bias", "optimisation.epochs": 1}
    one = tune("sage", overrides=off)
    two = tune("lift", out="lift", overrides=plain)
    assert one.record.head == two.record.head
    assert one.history[0]["loss"] == pytest.approx(two.history[0]["loss"], rel=1e-6)


@pytest.mark.parametrize(("share", "which"), [(0.0, "parent"), (1.0, "tuned")])
def test_an_average_at_its_ends_is_parent_or_tuned(
    tune: Tune, towers: dict[str, str], share: float, which: str
) -> None:
    averaged = tune("full", overrides={"average": share})
    expected = load_encoder(towers["vit"], device="cpu") if which == "parent" else tune(
        "full", out="plain").encoder  # fmt: skip
    assert averaged.record.average == share
    torch.testing.assert_close(features(averaged.encoder), features(expected), rtol=0, atol=0)


def test_validation_images_choose_the_share(tune: Tune) -> None:
    tuned = tune("wise-ft")
    scores = tuned.record.averaged
    assert len(scores) == 11
    best = max(scores, key=lambda s: (scores[s]["val_mean_per_class"], -scores[s]["val_nll"]))
    assert tuned.record.average == float(best)
    assert tuned.record.tuned_on["average"] == "val"


def test_random_towers_are_no_longer_the_parents(tune: Tune, towers: dict[str, str]) -> None:
    still = {"optimisation.lr": 1e-9, "optimisation.epochs": 1, "image.weights": "random"}
    one, two = tune("tin", overrides=still), tune("tin", out="other", overrides=still, seed=1)
    parent = load_encoder(towers["vit"], device="cpu")
    shown = [features(encoder) for encoder in (one.encoder, two.encoder, parent)]
    assert not torch.allclose(shown[0], shown[1]) and not torch.allclose(shown[0], shown[2])


def test_equal_calls_give_equal_bytes_and_other_seeds_do_not(tune: Tune) -> None:
    def towers_of(out: str, **options: Any) -> Any:
        return tune("lift", out=out, **options).encoder.identity["towers"]

    one = towers_of("one")
    assert towers_of("two") == one
    assert towers_of("three", seed=1) != one


@pytest.mark.parametrize("method", ["ballad", "full"])
def test_micro_batches_and_checkpointing_change_no_result(tune: Tune, method: str) -> None:
    plain = features(tune(method).encoder)
    small = features(tune(method, out="small", micro_batch=3, checkpointing=True).encoder)
    torch.testing.assert_close(small, plain, rtol=1e-2, atol=1e-3)


def test_half_precision_trains_the_same_thing(tune: Tune) -> None:
    full = tune("lift")
    half = tune("lift", out="half", overrides={"optimisation.precision": "bf16"})
    assert half.history[0]["loss"] == pytest.approx(full.history[0]["loss"], rel=0.05)
    assert all(p.dtype == torch.float32 for p in half.encoder.model.parameters())


def test_a_finished_checkpoint_is_opened_and_never_replaced_by_another(tune: Tune) -> None:
    first = tune("lift")
    assert first.fresh and not tune("lift").fresh
    with pytest.raises(UsageError, match="another checkpoint.*lift.*--overwrite"):
        tune("full")
    assert tune("full", overwrite=True).fresh


def test_a_place_that_is_taken_is_refused_before_anything_is_trained(
    tune: Tune, tmp_path: Path
) -> None:
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "notes.txt").write_text("mine")
    told: list[Any] = []
    with pytest.raises(UsageError, match="is no checkpoint"):
        tune("lift", progress=told.append)
    assert not told and not (tmp_path / ".tuned.tuning").exists()


def test_a_pass_that_memory_does_not_hold_names_the_remedy(
    tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("ltcache.finetune.loop.accumulate", full)
    with pytest.raises(FitError, match="does not hold 8 images.*--micro-batch 4"):
        tune("lift")


@pytest.mark.parametrize(("precision", "last"), [("fp32", False), ("bf16", True)])
def test_convolutions_are_laid_out_as_suits_the_device(
    towers: dict[str, str], precision: str, last: bool
) -> None:
    """The parent is on the CPU, where channels are last."""
    parent = load_encoder(towers["resnet"], device="cpu")
    tuning = override_tuning(TUNINGS["full"], {"optimisation.precision": precision})
    model, place = copy.deepcopy(parent.model), ProcessRanks(torch.device("cuda", 0))
    assert _channels_last(model, parent, tuning, place) == last
    weight = model.visual.layer1[0].conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) == last


def test_images_that_cannot_be_read_are_left_out_and_named(
    tune: Tune, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_pictures(tmp_path / "images")
    broken = ["newt/000.png", "red fox/010.png"]  # one to validate on, one to train on
    for uri in broken:
        (folder / uri).write_bytes(b"no image")
    tuned = tune("lift", source=read_pictures(folder))
    assert sorted(tuned.record.failures) == broken
    assert "2 images could not be read" in caplog.text
    assert tuned.record.val is not None and tuned.record.val.num_rows == 8


def test_progress_tells_speed_and_time_left(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltcache.finetune.loop._TICK", 0.0)
    told: list[dict[str, Any]] = []
    tune("lift", progress=told.append)
    steps = [record for record in told if "step" in record]
    epochs = [record for record in told if "step" not in record]
    assert [(r["epoch"], r["step"]) for r in steps] == [(e, s) for e in (1, 2) for s in (1, 2, 3)]
    assert all(r["images_per_second"] > 0 and r["steps"] == 3 for r in steps)
    assert steps[-1]["eta_seconds"] == 0 < steps[0]["eta_seconds"]
    assert [r["epoch"] for r in epochs] == [1, 2] and "val_mean_per_class" in epochs[0]


def test_tensorboard_logs_are_written(tune: Tune, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tuned = tune("lift", track=tmp_path / "logs")
    read = accumulator.EventAccumulator(str(tmp_path / "logs"))
    read.Reload()
    values = [event.value for event in read.Scalars("epoch/loss")]
    np.testing.assert_allclose(values, [record["loss"] for record in tuned.history], rtol=1e-6)


@pytest.mark.parametrize(
    ("method", "overrides", "error", "message"),
    [
        ("lift", {"average": "auto"}, UsageError, "lacks adaptformer"),
        ("lift", {"text.train": "full"}, UsageError, "no effect"),
        ("lift", {"loss": "contrastive"}, UsageError, "needs a loss on logits"),
        ("lift", {"sampler": "class_aware"}, FitError, "second time"),
        ("lift", {"optimisation.precision": "fp16"}, UsageError, "needs a GPU"),
        ("lift", {"classifier.head": "ncm"}, FitError, "no initialisation"),
        ("lift", {"optimisation.lr": 1e12, "optimisation.epochs": 3}, FitError, "lower"),
        ("ballad", {"image.train": "none", "text.train": "none", "logit_scale": "fixed"},
         FitError, "nothing trains"),
        ("wise-ft", {"image.weights": "random"}, UsageError, "average"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused(
    tune: Tune, method: str, overrides: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tune(method, overrides=overrides)


def test_a_factor_of_zero_freezes_a_part(tune: Tune) -> None:
    still = tune("full", overrides={"lr_factors.classifier": 0})
    moved = tune("full", out="moved")
    start = tune("full", out="start", overrides={"optimisation.lr": 1e-12})
    weights = [t.head.state_dict()["weight"] for t in (still, moved, start) if t.head is not None]
    torch.testing.assert_close(weights[0], weights[2])
    assert not torch.allclose(weights[1], weights[2])


def test_an_unfinished_training_of_other_settings_is_refused(
    tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(record: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune("lift", progress=stop)
    with pytest.raises(IdentityError, match="method.optimisation.lr: expected 0.01") as caught:
        tune("lift", overrides={"optimisation.lr": 0.02})
    assert caught.value.exit_status == 4 and "--restart" in caught.value.remedy
    with pytest.raises(IdentityError, match="seed"):
        tune("lift", seed=3)
    assert tune("lift", overrides={"optimisation.lr": 0.02}, resume=False).fresh


def test_few_images_get_enough_steps_unless_epochs_are_named() -> None:
    lift = override_tuning(TUNINGS["lift"], None).optimisation
    for tuning in TUNINGS.values():  # 3,922: Emoji-LT, on which the epochs were chosen
        assert tuning.optimisation.for_images(3_922) == tuning.optimisation
    assert lift.for_images(300).epochs * 3 == 96
    named = override_tuning(TUNINGS["lift"], {"optimisation.epochs": "2"}).optimisation
    assert named.for_images(300).epochs == 2
    warm = replace(lift, warmup=1.0).for_images(300)
    assert warm.warmup / warm.epochs == pytest.approx(1.0 / lift.epochs)
    assert warm.for_images(300) == warm


def test_images_of_one_class_are_refused(tune: Tune, pictures: Manifest) -> None:
    labels = pictures.rows["label"].to_numpy()
    one = pictures.rows.filter(labels == labels[0])
    with pytest.raises(FitError, match="of one class, .*; at least 2 are needed"):
        tune("lift", source=replace(pictures, rows=one))


def test_a_training_that_moved_nothing_says_that_it_fitted_nothing(tune: Tune) -> None:
    still = {"optimisation.lr": 1e-9, "optimisation.epochs": 1, "classifier.init": "random"}
    with pytest.warns(UnfittedWarning, match="lift .* ended before it had fitted"):
        tuned = tune("lift", overrides=still)
    assert tuned.record.training["unfitted"] is True
