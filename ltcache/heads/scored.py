"""What heads share that change the representation first and then score it class by class."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.heads.base import AffineWeights, Head, HeadContext

CLASSIFIERS = ("linear", "cosine")


class ScoredHead(Head):
    """A trainable classifier on what ``represent`` gives: W r + b, or s <r/|r|, W_c/|W_c|>.

    Args:
        classifier: ``linear`` or ``cosine``. scale: s of the cosine. bias: whether linear has a b.
        width: D' of the representation; None: D.
    """

    def __init__(
        self,
        context: HeadContext,
        classifier: str,
        scale: float,
        *,
        bias: bool = True,
        width: int | None = None,
    ) -> None:
        super().__init__(context)
        check_choice("classifier", classifier, CLASSIFIERS)
        self.classifier, self.scale = classifier, scale
        self.unit_rows = classifier == "cosine"
        self.width = width or context.dim
        self.weight = nn.Parameter(torch.zeros(context.num_classes, self.width))
        has_bias = bias and not self.unit_rows
        self.bias_vector = nn.Parameter(torch.zeros(context.num_classes)) if has_bias else None

    def normalise(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.normalise`: unit rows for the cosine."""
        return F.normalize(representation, dim=-1) if self.unit_rows else representation

    def classify(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.classify`."""
        return F.linear(self.normalise(representation), *self.affine())

    def affine(self) -> AffineWeights:
        """See :meth:`Head.affine`."""
        if self.unit_rows:
            return AffineWeights(self.scale * F.normalize(self.weight, dim=-1), None)
        return AffineWeights(self.weight, self.bias_vector)

    def random_weight(self, generator: Generator) -> Tensor:
        """Return (C, D'): unit rows for the cosine, else uniform in +-1/sqrt(D')."""
        if self.unit_rows:
            rows = torch.randn(self.num_classes, self.width, generator=generator)
            return F.normalize(rows, dim=1)
        return uniform((self.num_classes, self.width), self.width, generator)

    def set_weight(self, weight: Tensor) -> None:
        """See :meth:`Head.set_weight`; the bias starts at zero."""
        self.weight.copy_(weight)
        if self.bias_vector is not None:
            self.bias_vector.zero_()


def uniform(shape: tuple[int, ...], inputs: int, generator: Generator) -> Tensor:
    """Return values uniform in +-1/sqrt(inputs), the default of torch's Linear."""
    return (torch.rand(shape, generator=generator) * 2 - 1) * inputs**-0.5


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a value that is none of those known.

    Raises:
        FitError: with those known.
    """
    if value not in known:
        raise FitError(f"head.{name}={value!r} is none of {', '.join(known)}")
