"""What the stages of one fit share, and what each of them leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from ltcache.fit.rows import LabelledRows
from ltcache.heads import Head, HeadContext
from ltcache.metrics import EpochRecord
from ltcache.records import one_line

Progress = Callable[[EpochRecord], None]


@one_line
@dataclass(frozen=True, eq=False)
class StageInput:
    """What every stage of one fit shares.

    Args:
        rows: training rows, transformed, on the device. val: the same to choose on, or None.
        context: what heads are built from. transform: the kind of the feature transform.
        generator: of everything random, on the CPU.
        statistics: what earlier stages estimated, name -> (C,).
        residual: exponent a of the class prior n**a that the head so far carries; None: unknown.
        progress: called with each epoch's record.
        closed_form: False forces autograd.
        allow_double_correction: let a stage correct a prior that is balanced already.
    """

    rows: LabelledRows
    val: LabelledRows | None
    context: HeadContext
    transform: str
    generator: Generator
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    residual: float | None = 1.0
    progress: Progress | None = None
    closed_form: bool = True
    allow_double_correction: bool = False

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.rows.device

    def stream(self, number: int) -> Generator:
        """Return a generator of its own on the CPU, one of several that this fit's seed gives."""
        return Generator().manual_seed(
            (self.generator.initial_seed() + number * 0x9E3779B9) % 2**63
        )


@one_line
@dataclass(frozen=True, eq=False)
class StageResult:
    """What a stage leaves.

    Attributes:
        head: None before the first stage that makes one.
        residual: see :class:`StageInput`.
        choice: what validation rows chose (``epoch`` or hyper-parameters); given back to the stage
            it is repeated without any.
        init: the initialisation that was taken, or "".
        history: one record per epoch.
        statistics: what the stage estimated.
        seconds: wall time.
        steps: gradient steps that made the head; None: it was not trained.
    """

    head: Head | None
    residual: float | None
    choice: dict[str, Any] = field(default_factory=dict)
    init: str = ""
    history: list[EpochRecord] = field(default_factory=list)
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    steps: int | None = None
