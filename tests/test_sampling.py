"""Every sampler in SAMPLERS, and what each promises."""

from __future__ import annotations

import pytest
import torch

from ltcache.errors import FitError
from ltcache.sampling import SAMPLERS, RowsByClass, another_crop, class_aware

COUNTS = [60, 25, 10, 4, 0, 1]
LABELS = torch.repeat_interleave(torch.arange(6), torch.tensor(COUNTS))[torch.randperm(100)]
DATA = RowsByClass.of(LABELS, 6)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_an_epoch_is_n_row_numbers_that_follow_the_generator(name: str) -> None:
    draw = SAMPLERS[name].draw
    epoch = draw(DATA, _generator())
    assert epoch.shape == (100,) and epoch.dtype == torch.int64
    assert epoch.min() >= 0 and epoch.max() < 100
    assert torch.equal(epoch, draw(DATA, _generator()))
    assert not torch.equal(epoch, draw(DATA, _generator(1)))


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_class_frequencies_follow_the_stated_exponent(name: str) -> None:
    sampler, generator = SAMPLERS[name], _generator()
    drawn = torch.zeros(6)
    for _ in range(400):
        drawn += torch.bincount(LABELS[sampler.draw(DATA, generator, 1.0)], minlength=6)
    counts = torch.tensor(COUNTS, dtype=torch.float64)
    expected = torch.where(counts > 0, counts.clamp(min=1) ** sampler.exponent, 0)
    torch.testing.assert_close(
        drawn.double() / drawn.sum(), expected / expected.sum(), atol=0.006, rtol=0
    )


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_progressive_goes_from_the_data_to_balanced_classes(progress: float) -> None:
    generator, drawn = _generator(), torch.zeros(6)
    for _ in range(400):
        epoch = SAMPLERS["progressive"].draw(DATA, generator, progress)
        drawn += torch.bincount(LABELS[epoch], minlength=6)
    present = torch.tensor(COUNTS) > 0
    expected = (1 - progress) * torch.tensor(COUNTS) / 100 + progress * present / 5
    torch.testing.assert_close(drawn / drawn.sum(), expected, atol=0.006, rtol=0)


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"progressive"}))
def test_other_samplers_draw_alike_throughout(name: str) -> None:
    draw = SAMPLERS[name].draw
    assert torch.equal(draw(DATA, _generator()), draw(DATA, _generator(), 0.7))


def test_instance_takes_every_row_once() -> None:
    epoch = SAMPLERS["instance"].draw(DATA, _generator())
    assert torch.equal(epoch.sort().values, torch.arange(100))


def test_class_aware_cycles_through_classes_with_four_rows_in_turn() -> None:
    epoch = class_aware(DATA, _generator())
    turns = LABELS[epoch].reshape(25, 4)
    assert (turns == turns[:, :1]).all()
    for cycle in turns[:, 0].split(5):
        assert len(set(cycle.tolist())) == len(cycle)


def test_class_aware_uses_up_a_list_before_it_repeats() -> None:
    generator = _generator()
    for _ in range(5):
        epoch = class_aware(DATA, generator)
        for label, count in enumerate(COUNTS):
            mine = epoch[LABELS[epoch] == label]
            for round_ in mine.split(count) if count else ():
                assert len(set(round_.tolist())) == len(round_)


def test_one_row_is_enough() -> None:
    data = RowsByClass.of(torch.tensor([2]), 3)
    for sampler in SAMPLERS.values():
        assert sampler.draw(data, _generator()).tolist() == [0]


def test_another_crop_is_of_the_same_image_and_never_the_crop_itself() -> None:
    images = torch.tensor([7, 3, 7, 3, 3, 7, 9, 9])
    rows = torch.arange(len(images)).repeat(600)
    drawn = another_crop(rows, images, _generator())
    assert torch.equal(images[drawn], images[rows])
    assert not (drawn == rows).any()
    for row, others in ((0, (2, 5)), (4, (1, 3))):  # each of the others equally often
        seen = torch.bincount(drawn[rows == row], minlength=len(images))[list(others)]
        assert seen.sum() == 600 and seen.min() > 240
    assert set(drawn[rows == 6].tolist()) == {7}


def test_an_image_of_one_crop_has_no_other() -> None:
    with pytest.raises(FitError, match=r"partner=same_image .* feature\.view=rrc:2"):
        another_crop(torch.tensor([0, 1]), torch.tensor([0, 0, 1]), _generator())
    with pytest.raises(FitError, match=r"without class texts or extra images \(--extra\)"):
        another_crop(torch.tensor([0, 1]), torch.tensor([0, 0, 1]), _generator())
