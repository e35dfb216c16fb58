"""The one contract of all adjustments: a head around a finished head, (logits, features) ->
logits. An adjustment may be transductive: it learns from the rows that it is about to predict."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ltcache.errors import FitError
from ltcache.heads import Head, HeadContext
from ltcache.metrics import RowAdaptation
from ltcache.records import JsonObject, one_line


@one_line
@dataclass(frozen=True, eq=False)
class PredictedRows:
    """The rows that a head is about to predict, without their labels.

    Attributes:
        split: the name of what they are of. view: the view that predictions are made on.
        crops: name of a view -> transformed features of its crops of each row, (N, v, D).
        seed: of all that is random in learning from them.
    """

    split: str
    view: str
    crops: Callable[[str], Tensor]
    seed: int = 0

    @classmethod
    def on_one_view(
        cls, split: str, features: Callable[[], Tensor], seed: int = 0
    ) -> PredictedRows:
        """Return rows of which nothing is known but features (N, v, D) on the view predicted, which
        are made when they are asked for."""
        here = "view of prediction"

        def crops(view: str) -> Tensor:
            if view != here:
                raise FitError(
                    f"nothing can be chosen here with a stage that learns from the view {view!r} "
                    f"of the {split} rows: choose settings with the same method without that "
                    "stage, and give them with -s"
                )
            return features()

        return cls(split, here, crops, seed)


class Adjustment(Head):
    """Base of all adjustments: ``ADJUSTMENTS[name](base, context, **hyper_parameters)``.

    Its state is that of the head under ``base.`` and its own buffers. Representations are those of
    the head before; logits are adjusted once experts are combined.

    A transductive one predicts nothing before :func:`adapted` has made a copy that learned from the
    rows to be predicted; what the copy learned is no part of its state and is never saved.

    Args:
        base: the finished head; it is shared, not copied.
        context: as of heads.

    Attributes:
        transductive: whether it learns from the rows that it predicts. view: whose crops of them
            it learns from; None: the view of prediction. instead: of a transductive one, a method
            of the catalogue that predicts each image by itself.
    """

    inits = ()
    transductive: ClassVar[bool] = False
    instead: ClassVar[str] = ""
    view: str | None = None

    def __init__(self, base: Head, context: HeadContext) -> None:
        super().__init__(context)
        self.base = base
        self.num_experts = base.num_experts
        self.unit_rows = base.unit_rows

    def adjust(self, logits: Tensor, features: Tensor) -> Tensor:
        """Return adjusted logits (N, C) for those of the head before and features (N, D)."""
        raise NotImplementedError

    def residual_after(self, residual: float | None) -> float | None:
        """Return the exponent a of the prior n**a that adjusted logits carry, or None.

        Args:
            residual: that of the head before; None: it cannot be stated.
        """
        raise NotImplementedError

    def adapt(self, unlabelled: PredictedRows) -> JsonObject:
        """Learn from the rows to be predicted; of transductive adjustments alone.

        Returns:
            What was learned, for the record: name -> number, list of numbers or text.

        Raises:
            FitError: rows that nothing can be learned from.
        """
        raise NotImplementedError

    def learned(self, state: Tensor | None) -> Tensor:
        """Return what :meth:`adapt` has learned.

        Raises:
            FitError: it has not learned yet, so that nothing can be predicted.
        """
        if state is None:
            require_alone(self)
        assert state is not None
        return state

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (N, C) for features (N, D)."""
        return self.adjust(self.base(features), features)

    def represent(self, features: Tensor) -> Tensor:
        """See :meth:`Head.represent`."""
        return self.base.represent(features)

    def normalise(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.normalise`."""
        return self.base.normalise(representation)

    def fit(
        self, features: Tensor, labels: Tensor, weights: Tensor | None, context: HeadContext
    ) -> None:
        """Estimate what the adjustment needs from training rows; most need nothing."""


def adapted(head: Head, unlabelled: PredictedRows) -> tuple[Head, tuple[RowAdaptation, ...]]:
    """Return a head whose transductive adjustments have learned from rows, the innermost first.

    The head itself stays as it is, and is returned where nothing of it is transductive.

    Raises:
        FitError: there are no rows, or nothing can be learned from them.
    """
    if not isinstance(head, Adjustment):
        return head, ()
    base, found = adapted(head.base, unlabelled)
    if base is head.base and not head.transductive:
        return head, ()
    changed = copy.deepcopy(head, {id(head.base): base})
    if not changed.transductive:
        return changed, found
    view = changed.view or unlabelled.view
    rows = len(unlabelled.crops(view))
    name = type(changed).__name__
    if not rows:
        raise FitError(f"{name} learns from the rows that it predicts, and there are none")
    learned = changed.adapt(unlabelled)
    return changed, (*found, RowAdaptation(name, unlabelled.split, rows, view, learned))


def is_transductive(head: Head) -> bool:
    """Whether a head learns from the rows that it predicts."""
    return isinstance(head, Adjustment) and (head.transductive or is_transductive(head.base))


def require_alone(head: Head) -> None:
    """Refuse a head that cannot predict images one by one.

    Raises:
        FitError: with the reason and what to do instead.
    """
    if not isinstance(head, Adjustment):
        return
    if not head.transductive:
        require_alone(head.base)
        return
    raise FitError(
        f"{type(head).__name__} learns from all rows of a split together before it predicts them "
        "(transductive), so that it predicts no image by itself: score the run on a cache with "
        f"ltcache evaluate, or fit a method that does without, such as --method {head.instead}"
    )
