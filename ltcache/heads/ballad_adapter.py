"""BALLAD's second phase (Ma et al., A simple long-tailed recognition baseline via vision-language
model, 2021): a linear adapter beside the image embedding, scored by the class texts."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.heads.base import AffineWeights, Head, HeadContext
from ltcache.heads.scored import check_choice, uniform

VARIANTS = ("code", "poster")
CLASSIFIERS = ("text", "linear", "cosine")


class BALLADAdapterHead(Head):
    """f* = ratio A(f) + (1 - ratio) f, z_c = s <f*/|f*|, t_c>, on embeddings of their own length.

    Args:
        variant: ``code``: A(f) = W f, as released; ``poster``: A(f) = ReLU(W f + b).
        ratio: lambda, share of the adapter.
        scale: s; None: the encoder's logit_scale.
        classifier: ``text``: the class texts, fixed; ``cosine``: class weights that start as the
            texts and are trained; ``linear``: those times s, a bias, and f* of its own length.

    Raises:
        FitError: features of another space than the class texts.
    """

    keeps = ("text_features",)
    inits = ("text",)
    inits_of_rows = ()
    equation = "f* = l A(f) + (1 - l) f, z_c = s <f*/|f*|, t_c>"
    context_text_features: Tensor

    def __init__(
        self,
        context: HeadContext,
        *,
        variant: str = "code",
        ratio: float = 0.2,
        scale: float | None = None,
        classifier: str = "text",
    ) -> None:
        super().__init__(context)
        check_choice("variant", variant, VARIANTS)
        check_choice("classifier", classifier, CLASSIFIERS)
        if context.projection is not None or context.require_texts().shape[1] != context.dim:
            raise FitError(
                "this adapter acts on embeddings in the space of the class texts; "
                "set feature.field=embedding"
            )
        self.variant, self.ratio, self.classifier = variant, ratio, classifier
        self.scale = context.scale_or(scale)
        self.unit_rows = classifier != "linear"
        self.adapter = nn.Parameter(torch.zeros(context.dim, context.dim))
        poster, linear = variant == "poster", classifier == "linear"
        self.adapter_bias = nn.Parameter(torch.zeros(context.dim)) if poster else None
        shape = (context.num_classes, context.dim)
        self.weight = nn.Parameter(torch.zeros(shape)) if classifier != "text" else None
        self.bias_vector = nn.Parameter(torch.zeros(context.num_classes)) if linear else None

    def represent(self, features: Tensor) -> Tensor:
        """Return f*, (1, N, D), before it is made of unit length."""
        adapted = F.linear(features, self.adapter, self.adapter_bias)
        if self.variant == "poster":
            adapted = torch.relu(adapted)
        return (self.ratio * adapted + (1 - self.ratio) * features)[None]

    def normalise(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.normalise`: unit rows unless the classifier is linear."""
        return F.normalize(representation, dim=-1) if self.unit_rows else representation

    def classify(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.classify`."""
        return F.linear(self.normalise(representation), *self.affine())

    def affine(self) -> AffineWeights:
        """See :meth:`Head.affine`."""
        if self.weight is None:
            return AffineWeights(self.scale * self.context_text_features, None)
        if self.unit_rows:
            return AffineWeights(self.scale * F.normalize(self.weight, dim=1), None)
        return AffineWeights(self.weight, self.bias_vector)

    def initialise(
        self,
        how: str,
        features: Tensor,
        labels: Tensor,
        generator: Generator,
        context: HeadContext,
    ) -> None:
        """See :meth:`Head.initialise`; the adapter is drawn as torch's Linear does."""
        super().initialise(how, features, labels, generator, context)
        with torch.no_grad():
            self.adapter.copy_(uniform((self.dim, self.dim), self.dim, generator))
            if self.adapter_bias is not None:
                self.adapter_bias.copy_(uniform((self.dim,), self.dim, generator))

    def set_weight(self, weight: Tensor) -> None:
        """See :meth:`Head.set_weight`."""
        if self.weight is not None:
            self.weight.copy_(weight if self.unit_rows else self.scale * weight)
        if self.bias_vector is not None:
            self.bias_vector.zero_()

    def adopt(self, previous: Head) -> None:
        """Take over an adapter; the classifier too where both heads train one of the same kind."""
        if not isinstance(previous, BALLADAdapterHead) or previous.variant != self.variant:
            raise FitError(f"an adapter of variant {self.variant!r} cannot start from another head")
        mine = self.state_dict()
        self.load_state_dict({**mine, **_shared(previous.state_dict(), mine)})
        if previous.classifier != self.classifier:
            with torch.no_grad():
                self.set_weight(self.context_text_features)


def _shared(theirs: dict[str, Tensor], mine: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in theirs.items() if name in mine}
