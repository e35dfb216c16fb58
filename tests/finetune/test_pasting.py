"""Pasted batches against plain loops: which come, what they show, and what their loss is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ltcache.errors import UsageError
from ltcache.finetune import TUNINGS, FineTuning, override_tuning
from ltcache.finetune.augmentation import CropFlip, sample_draws
from ltcache.finetune.batches import ImageBatches
from ltcache.finetune.objective import EmbeddedBatch, TuningObjective
from ltcache.finetune.pasting import ForegroundRows, drawn_box
from ltcache.finetune.reader import ImageBatch
from ltcache.finetune.spec import CONTRASTIVE, ObjectiveTerm
from ltcache.fit import composites_come
from ltcache.images import Preprocessing, paste_box
from ltcache.losses import LOSSES
from ltcache.manifest import Manifest
from tests.finetune.conftest import Tune
from tests.finetune.pictures import read_pictures, write_pictures

EDGE = 16
SIZE = Preprocessing((EDGE, EDGE), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
ROWS = 23


def loader(manifest: Manifest, **options: Any) -> ImageBatches:
    given = {"augmentation": CropFlip(), "batch": 6, "seed": 3, "workers": 0, **options}
    return ImageBatches(manifest, "train", SIZE, **given)


def order(seed: int) -> Tensor:
    return torch.randint(ROWS, (ROWS,), generator=torch.Generator().manual_seed(seed))


def epoch(manifest: Manifest, probability: float | None, **options: Any) -> list[ImageBatch]:
    foregrounds = None if probability is None else ForegroundRows(order(1), probability)
    with loader(manifest, **options) as batches:
        return list(batches.epoch(order(0), epoch=2, foregrounds=foregrounds))


def augmented(batches: ImageBatches, row: int, repeat: int) -> np.ndarray:
    kept = batches._reader.kept
    assert kept is not None and not isinstance(kept[row], str)
    return CropFlip()(kept[row], SIZE, sample_draws(3, 2, int(batches.index[row]), repeat))


def test_a_pasted_batch_in_a_plain_loop(pictures: Manifest) -> None:
    """Pixel by pixel: the foreground's own crop in the box, all else as without it."""
    plain, pasted = epoch(pictures, None), epoch(pictures, 1.0)
    batches, foregrounds = loader(pictures), order(1).tolist()
    seen = dict.fromkeys(range(ROWS), 0)
    for row in order(0).tolist():
        seen[row] += 1
    place = 0
    for number, (before, after) in enumerate(zip(plain, pasted, strict=True)):
        box = drawn_box(1.0, (EDGE, EDGE), 3, 2, number)
        assert box is not None
        left, top, right, bottom = box
        inside = sum(
            left <= x < right and top <= y < bottom for x in range(EDGE) for y in range(EDGE)
        )
        assert after.share == pytest.approx(1 - inside / EDGE**2, abs=1e-15)
        assert torch.equal(after.rows, before.rows)
        assert torch.equal(after.labels[:, 0], before.labels)
        for image in range(len(before.rows)):
            row = foregrounds[place]
            other = augmented(batches, row, seen[row])
            seen[row] += 1
            place += 1
            assert int(after.labels[image, 1]) == int(batches.labels[row])
            for x in range(EDGE):
                for y in range(EDGE):
                    covered = left <= x < right and top <= y < bottom
                    expected = other[:, y, x] if covered else before.pixels[image, :, y, x].numpy()
                    assert np.array_equal(after.pixels[image, :, y, x].numpy(), expected)
    assert place == ROWS


def test_batches_that_are_not_pasted_are_those_of_a_training_without(pictures: Manifest) -> None:
    plain, some = epoch(pictures, None), epoch(pictures, 0.5)
    assert {batch.labels.ndim for batch in some} == {1, 2}
    for before, after in zip(plain, some, strict=True):
        if after.labels.ndim == 1:
            assert torch.equal(after.pixels, before.pixels) and after.share == 1
            assert torch.equal(after.labels, before.labels)
    never = epoch(pictures, 0.0)
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(plain, never, strict=True))


def test_the_box_is_that_of_the_cached_composites_half_of_the_time() -> None:
    drawn = [drawn_box(0.5, (20, 30), 7, 4, number) for number in range(2000)]
    assert drawn == [drawn_box(0.5, (20, 30), 7, 4, number) for number in range(2000)]
    share = np.mean([box is not None for box in drawn])
    assert abs(share - 0.5) < 4 * math.sqrt(0.25 / 2000)
    sides = [box[2] - box[0] for box in drawn if box is not None]
    plain = np.random.default_rng(0).random((2000, 3))
    expected = [box[2] - box[0] for box in (paste_box((20, 30), *u) for u in plain.tolist())]
    error = math.sqrt(np.var(expected) * (1 / len(sides) + 1 / 2000))
    assert abs(np.mean(sides) - np.mean(expected)) < 4 * error
    assert drawn != [drawn_box(0.5, (20, 30), 7, 5, number) for number in range(2000)]
    assert drawn != [drawn_box(0.5, (20, 30), 8, 4, number) for number in range(2000)]


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(1, []), (2, [1]), (10, list(range(2, 9))), (30, list(range(4, 27)))],
)
def test_which_epochs_have_them(epochs: int, expected: list[int]) -> None:
    assert [e for e in range(epochs) if composites_come(e, epochs)] == expected


def test_workers_paste_alike(pictures: Manifest) -> None:
    for one, two in zip(epoch(pictures, 0.7), epoch(pictures, 0.7, workers=2), strict=True):
        assert torch.equal(one.pixels, two.pixels) and torch.equal(one.labels, two.labels)
        assert one.share == two.share


def test_a_foreground_that_cannot_be_read_leaves_its_image_alone(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "images")
    manifest = read_pictures(root)
    uri = manifest.rows["uri"][int(loader(manifest).index[5])].as_py()
    (root / uri).write_bytes(b"nothing")
    others = torch.tensor([row for row in range(ROWS) if row != 5])
    foregrounds = ForegroundRows(torch.full((ROWS - 1,), 5), 1.0)
    with loader(manifest) as batches:
        plain = list(batches.epoch(others, epoch=2))
        assert not batches.failures
        pasted = list(batches.epoch(others, epoch=2, foregrounds=foregrounds))
        assert list(batches.failures) == [uri]
    for before, after in zip(plain, pasted, strict=True):
        assert torch.equal(after.pixels, before.pixels)
        assert torch.equal(after.labels, torch.stack([before.labels] * 2, dim=1))


COUNTS = torch.tensor([40.0, 20.0, 9.0, 4.0, 2.0])
GENERATOR = torch.Generator().manual_seed(3)
IMAGES = torch.randn(12, 7, generator=GENERATOR, dtype=torch.float64)
LOGITS = torch.randn(12, 5, generator=GENERATOR, dtype=torch.float64)
TEXTS = torch.randn(5, 7, generator=GENERATOR, dtype=torch.float64)
OWN, OTHER = torch.randint(0, 5, (2, 12), generator=GENERATOR)
SHARE = 0.7


def embedded(**given: Any) -> EmbeddedBatch:
    return EmbeddedBatch(**{"images": IMAGES, "labels": OWN, "logits": LOGITS, **given})


@pytest.mark.parametrize("name", list(LOSSES))
def test_the_loss_of_a_pasted_batch_is_the_share_of_each_label(name: str) -> None:
    objective = TuningObjective(
        [ObjectiveTerm(name)], COUNTS, estimated={"delta": torch.arange(5.0)}
    ).eval()
    objective.observe(OWN)
    value = float(objective(embedded(other_labels=OTHER, share=SHARE), 1.0))
    plain = [float(objective(embedded(labels=labels), 1.0)) for labels in (OWN, OTHER)]
    assert value == pytest.approx(SHARE * plain[0] + (1 - SHARE) * plain[1], rel=1e-12)


def test_cross_entropy_of_a_pasted_batch_in_a_plain_loop() -> None:
    total = 0.0
    for logits, own, other in zip(LOGITS.tolist(), OWN.tolist(), OTHER.tolist(), strict=True):
        normaliser = math.log(sum(math.exp(z) for z in logits))
        total += SHARE * (normaliser - logits[own]) + (1 - SHARE) * (normaliser - logits[other])
    objective = TuningObjective([ObjectiveTerm("cross_entropy")], COUNTS)
    value = objective(embedded(other_labels=OTHER, share=SHARE))
    assert float(value) == pytest.approx(total / 12, rel=1e-12)


def test_contrast_takes_the_texts_of_either_label() -> None:
    objective = TuningObjective([ObjectiveTerm(CONTRASTIVE)], COUNTS)
    given = {"texts": TEXTS, "logits": None}
    value = float(objective(embedded(other_labels=OTHER, share=SHARE, **given)))
    plain = [float(objective(embedded(labels=labels, **given))) for labels in (OWN, OTHER)]
    assert value == pytest.approx(SHARE * plain[0] + (1 - SHARE) * plain[1], rel=1e-12)


def test_a_training_is_pasted_into_and_says_so(tune: Tune) -> None:
    plain = tune("lift")
    pasted = tune("lift", out="pasted", overrides={"composites": 1.0})
    first, second = (
        [tuned.history[epoch]["loss"] for tuned in (plain, pasted)] for epoch in (0, 1)
    )
    assert first[0] == first[1] and second[0] != second[1]
    assert pasted.record.method.composites == 1
    assert pasted.record.method.name == "lift (composites=1)"
    assert plain.record.residual_prior == 0 and pasted.record.residual_prior is None


def test_none_is_the_record_of_before() -> None:
    plain = override_tuning(TUNINGS["lift"], {"composites": 0}).to_dict()
    assert "composites" not in plain and FineTuning.from_dict(plain).composites == 0
    some = override_tuning(TUNINGS["lift"], {"composites": "0.5"})
    assert FineTuning.from_dict(some.to_dict()).composites == 0.5


def test_what_cannot_be_pasted_is_refused(tune: Tune) -> None:
    with pytest.raises(UsageError, match="composites=1.5 is a probability"):
        override_tuning(TUNINGS["lift"], {"composites": 1.5})
    with pytest.raises(UsageError, match="composites=0.5 has no effect.*more epochs"):
        tune("lift", overrides={"composites": 0.5, "optimisation.epochs": 1})
