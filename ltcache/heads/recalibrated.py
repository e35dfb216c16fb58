"""What heads share that keep the classifier of the stage before and learn to calibrate it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.heads.base import AffineWeights, Head, HeadContext
from ltcache.heads.scored import CLASSIFIERS, check_choice


class RecalibratedHead(Head):
    """W and b of the head before, as :meth:`Head.affine` gave them; frozen unless told otherwise.

    Args:
        classifier: ``linear``, or ``cosine`` where the head before scored unit rows; its scale is
            then the length of W's rows.
        learn_weight: whether W and b move too.
    """

    fixed_representation = True
    inits = ("previous",)

    def __init__(
        self, context: HeadContext, classifier: str = "linear", learn_weight: bool = False
    ) -> None:
        super().__init__(context)
        check_choice("classifier", classifier, CLASSIFIERS)
        self.classifier = classifier
        self.unit_rows = classifier == "cosine"
        classes, dim = context.num_classes, context.dim
        self.weight = nn.Parameter(torch.zeros(classes, dim), requires_grad=learn_weight)
        self.bias_vector = nn.Parameter(torch.zeros(classes), requires_grad=learn_weight)

    def normalise(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.normalise`: unit rows where the head before had them."""
        return F.normalize(representation, dim=-1) if self.unit_rows else representation

    def before(self, representation: Tensor) -> Tensor:
        """Return the logits of the head before, for normalised (E, N, D)."""
        return F.linear(representation, self.weight, self.bias_vector)

    def calibrated(self) -> AffineWeights:
        """Return W and b after calibration, where it is one product."""
        raise NotImplementedError

    def classify(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.classify`."""
        return F.linear(self.normalise(representation), *self.calibrated())

    def affine(self) -> AffineWeights | None:
        """See :meth:`Head.affine`."""
        return self.calibrated()

    def adopt(self, previous: Head) -> None:
        """Take over W and b of any head that is one product on the features as they are.

        Raises:
            FitError: the head before is no such head, or scores other rows.
        """
        if type(previous) is type(self):
            super().adopt(previous)
            return
        name, before = type(self).__name__, type(previous).__name__
        affine = product_before(name, previous)
        if previous.unit_rows != self.unit_rows:
            wanted = "cosine" if previous.unit_rows else "linear"
            raise FitError(f"{name} follows a {before}: set head.classifier={wanted}")
        with torch.no_grad():
            self.weight.copy_(affine.weight)
            self.bias_vector.copy_(
                self.bias_vector.new_zeros(()) if affine.bias is None else affine.bias
            )

    def initialise(self, how: str, *_: object) -> None:
        """Refuse: there is nothing to start from but a head.

        Raises:
            FitError: always.
        """
        self.require_known(how)
        raise FitError(
            f"{type(self).__name__} needs a stage before it, whose weights it takes over"
        )


def product_before(name: str, previous: Head) -> AffineWeights:
    """Return W and b of a head that is one product on the features as they are.

    Raises:
        FitError: it is no such head; ``name`` is the head that needs one.
    """
    affine = previous.affine()
    if affine is None or not previous.fixed_representation:
        before = type(previous).__name__
        raise FitError(f"{name} needs one product on the features before it, not a {before}")
    return affine
