"""Which rows an epoch trains on, drawn at once: no per-sample Python, no weights over N rows.

A sampler returns the int64 row numbers of one epoch, N of them, from a CPU generator alone, so that
an epoch is the same on every device. Classes without rows are never drawn. ``progress`` is how much
of the training is over, 0..1; most samplers draw alike throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Generator, Tensor

from ltcache.errors import FitError
from ltcache.records import one_line


@one_line
@dataclass(frozen=True)
class RowsByClass:
    """Rows sorted by class.

    Attributes:
        rows: row numbers, class after class, (N,). counts: rows of each class, (C,).
        starts: where each class begins in ``rows``, (C,).
    """

    rows: Tensor
    counts: Tensor
    starts: Tensor

    @classmethod
    def of(cls, labels: Tensor, num_classes: int) -> RowsByClass:
        """Sort the rows of labels (N,) by class."""
        labels = labels.cpu()
        counts = torch.bincount(labels, minlength=num_classes)
        return cls(torch.argsort(labels, stable=True), counts, counts.cumsum(0) - counts)

    @property
    def present(self) -> Tensor:
        """Classes that have rows."""
        return torch.nonzero(self.counts).flatten()

    def __len__(self) -> int:
        return len(self.rows)


def instance(data: RowsByClass, generator: Generator, progress: float = 0.0) -> Tensor:
    """Return every row once, in random order."""
    return torch.randperm(len(data), generator=generator)


def class_frequency(
    data: RowsByClass, generator: Generator, progress: float = 0.0, *, exponent: float
) -> Tensor:
    """Return N rows drawn with replacement: a class with probability ~ n**exponent, then a row.

    exponent 0 is class-balanced, 1/2 square-root, -1 the reversed sampler of BBN.
    """
    share = data.counts[data.present].to(torch.float64) ** exponent
    return _with_replacement(data, share / share.sum(), generator)


def progressive(data: RowsByClass, generator: Generator, progress: float = 0.0) -> Tensor:
    """Return N rows drawn with replacement, from instance-balanced to class-balanced.

    At progress t a class has probability (1 - t) n / N + t / C (Kang et al., ICLR 2020).
    """
    counts = data.counts[data.present].to(torch.float64)
    share = (1 - progress) * counts / counts.sum() + progress / len(counts)
    return _with_replacement(data, share, generator)


def _with_replacement(data: RowsByClass, share: Tensor, generator: Generator) -> Tensor:
    """Return N rows: a present class with probability ``share``, then one of its rows."""
    classes = data.present
    edges = share.cumsum(0)
    draws = torch.rand(len(data), dtype=torch.float64, generator=generator)
    chosen = classes[torch.searchsorted(edges, draws).clamp_(max=len(classes) - 1)]
    offset = torch.rand(len(data), dtype=torch.float64, generator=generator)
    counts = data.counts[chosen]
    inside = (offset * counts).to(torch.int64).clamp_(max=counts - 1)
    return data.rows[data.starts[chosen] + inside]


def class_aware(
    data: RowsByClass, generator: Generator, progress: float = 0.0, *, in_turn: int = 4
) -> Tensor:
    """Return N rows: classes in cycles of random order, ``in_turn`` rows of each in turn.

    Rows of a class come from its shuffled list, which is shuffled again whenever it is used up
    (ClassAwareSampler of Decoupling, Kang et al., ICLR 2020, with num_samples_cls=4).
    """
    classes = data.present
    visits = -(-len(data) // in_turn)
    cycles = -(-visits // len(classes))
    keys = torch.rand(cycles, len(classes), generator=generator)
    order = classes[keys.argsort(dim=1)].flatten()[:visits]
    wanted = order.repeat_interleave(in_turn)[: len(data)]  # class of each draw, (N,)
    drawn = torch.bincount(wanted, minlength=len(data.counts))
    lists, starts = _shuffled_lists(data, drawn, generator)
    by_class = torch.argsort(wanted, stable=True)
    nth = torch.arange(len(wanted)) - (drawn.cumsum(0) - drawn)[wanted[by_class]]
    result = torch.empty_like(wanted)
    result[by_class] = lists[starts[wanted[by_class]] + nth]
    return result


def _shuffled_lists(
    data: RowsByClass, needed: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Return rows in shuffled rounds, at least ``needed`` (C,) for each class, and their starts."""
    rounds = -(-needed // data.counts.clamp(min=1))  # (C,)
    length = rounds * data.counts
    starts = length.cumsum(0) - length
    owner = torch.repeat_interleave(length)  # class of each place
    place = torch.arange(len(owner)) - starts[owner]
    rows = data.rows[data.starts[owner] + place % data.counts[owner]]
    block = (rounds.cumsum(0) - rounds)[owner] + place // data.counts[owner]
    keys = block.to(torch.float64) + torch.rand(
        len(owner), dtype=torch.float64, generator=generator
    )
    return rows[keys.argsort()], starts


def another_crop(rows: Tensor, images: Tensor, generator: Generator) -> Tensor:
    """Return for each row another crop of its image, drawn evenly, (N,).

    Args:
        rows: row numbers of an epoch, (N,). images: the image of every row there is, (M,).

    Raises:
        FitError: an image has no other crop.
    """
    _, numbers = images.cpu().unique(return_inverse=True)  # (M,), from 0
    by_image = RowsByClass.of(numbers, int(numbers.max()) + 1)
    if bool((by_image.counts < 2).any()):
        raise FitError(
            "partner=same_image pairs two crops of an image, and some images have one: train on a "
            "view of several, such as feature.view=rrc:2 (ltcache extract --views center,rrc:2), "
            "and without class texts or extra images (--extra), which have one crop each"
        )
    place = torch.empty_like(numbers)  # of each row among the crops of its image
    first = by_image.starts.repeat_interleave(by_image.counts)
    place[by_image.rows] = torch.arange(len(by_image)) - first
    crops = by_image.counts[numbers[rows]]
    drawn = torch.rand(len(rows), dtype=torch.float64, generator=generator)
    step = 1 + (drawn * (crops - 1)).long().clamp_(max=crops - 2)  # 1..crops - 1
    return by_image.rows[by_image.starts[numbers[rows]] + (place[rows] + step) % crops]


class EpochDraw(Protocol):
    """(rows by class, generator, progress) -> row numbers of one epoch, (N,)."""

    def __call__(
        self, data: RowsByClass, generator: Generator, progress: float = 0.0
    ) -> Tensor: ...


@dataclass(frozen=True)
class Sampler:
    """A sampler and what it does to the prior.

    Attributes:
        draw: of one epoch, see :class:`EpochDraw`.
        exponent: classes come up in proportion to n**exponent, at the end of the training.
        reference: where it comes from.
    """

    draw: EpochDraw
    exponent: float
    reference: str


SAMPLERS: dict[str, Sampler] = {
    "instance": Sampler(instance, 1.0, "every row once"),
    "class_aware": Sampler(class_aware, 0.0, "Kang et al., ICLR 2020; OLTR, CVPR 2019"),
    "class_balanced": Sampler(
        partial(class_frequency, exponent=0.0), 0.0, "with replacement; H2T, AAAI 2024"
    ),
    "square_root": Sampler(
        partial(class_frequency, exponent=0.5), 0.5, "Mahajan et al., ECCV 2018"
    ),
    "progressive": Sampler(progressive, 0.0, "Kang et al., ICLR 2020"),
    "reversed": Sampler(partial(class_frequency, exponent=-1.0), -1.0, "BBN, CVPR 2020"),
}

PAIRINGS: dict[str, Callable[[Tensor, Tensor, Generator], Tensor]] = {"same_image": another_crop}
"""How the rows of a second batch follow from those of the first: (rows (N,), image of every row
(M,), generator) -> rows (N,). Where a stage names a partner it may take one of these or a sampler.
"""
