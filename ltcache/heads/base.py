"""The one contract of all heads: features in, logits out, in three steps.

``represent`` (N, D) -> (E, N, D'), ``classify`` -> (E, N, C), ``combine`` -> (N, C). E is the
number of experts, 1 for most. Fusions act between the first two steps, inside each expert; what
must come after them, such as unit length, is ``normalise``, the first step of ``classify``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.heads.neighbours import label_counts
from ltcache.records import one_line

_TOKEN_ROWS = 1024  # of which the rest of an encoder is computed at once

NO_TEXTS = (
    "add them with ltcache prompts; an image-only encoder has none, so take another method or "
    "init, or mix a run with the zero-shot of a dual encoder's cache (ltcache ensemble)"
)
"""What to do where a cache has no class texts."""
_NEEDS_TEXTS = "this head needs class texts"


@one_line
@dataclass(frozen=True, eq=False)
class TokenMap:
    """How the tokens of an image lie, and what of the encoder follows them.

    Args:
        grid: rows and columns of the map. class_token: whether the first token stands beside it.
        width: D' of what ``rest`` gives.
        rest: tokens (N, T, D) -> embedding (N, D'), frozen; None where only shapes matter.
    """

    grid: tuple[int, int]
    class_token: bool
    width: int
    rest: Callable[[Tensor], Tensor] | None = None

    def vectors(self, tokens: Tensor) -> Tensor:
        """Return what the rest of the encoder makes of tokens (N, T, D): (N, D')."""
        if self.rest is None:
            raise FitError("a head on tokens needs the rest of the encoder, which is not known")
        return torch.cat([self.rest(part) for part in tokens.split(_TOKEN_ROWS)])


@one_line
@dataclass(frozen=True, eq=False)
class HeadContext:
    """What a head can be built from.

    Args:
        dim: D, of the features it gets. num_classes: C.
        class_counts: training rows of each class, (C,).
        text_features: unit text embedding of each class, (C, D_joint), or None.
        projection: pooled -> joint space, (D, D_joint), where the features are pooled; else None.
        logit_scale: of the encoder, exponentiated, or None.
        directions: what :meth:`text_directions` returned when a saved head was fitted, (C, D).
        tokens: where the features are token maps (N, T, D), else None.
        sentences: unit embedding of each sentence of a class, (C, M, D_joint), zeros beyond the
            last; None: there are none, or no head of the method asks for them.
    """

    dim: int
    num_classes: int
    class_counts: Tensor
    text_features: Tensor | None = None
    projection: Tensor | None = None
    logit_scale: float | None = None
    directions: Tensor | None = None
    tokens: TokenMap | None = None
    sentences: Tensor | None = None

    @property
    def width(self) -> int:
        """Dimension of the vectors: that of the features, or of what follows their tokens."""
        return self.dim if self.tokens is None else self.tokens.width

    def text_directions(self) -> Tensor:
        """Return unit class directions in the space of the features, (C, D).

        In the joint space they are the text embeddings t_c. For pooled features f the score
        (f P) t_c = f (P t_c), so the direction is P t_c, normalised as LIFT does (Shi et al.,
        ICML 2024): this drops its length, so step 0 is close to zero-shot, not equal.

        Raises:
            FitError: there are no class texts, or they live in another space.
        """
        if self.directions is not None:
            return self.directions
        if self.text_features is None:
            raise FitError(f"text initialisation needs class texts; {NO_TEXTS}")
        text = self.text_features.to(torch.float32)
        if self.projection is not None:
            text = text @ self.projection.to(torch.float32).T
        if text.shape != (self.num_classes, self.dim):
            raise FitError(
                f"class texts of shape {tuple(text.shape)} do not fit features of dimension "
                f"{self.dim}: the encoder has no projection from this field to the text space"
            )
        return F.normalize(text, dim=1)

    def sentence_directions(self) -> Tensor:
        """Return unit directions of each class's sentences in the space of the features, (C, M, D),
        zeros beyond the last; without sentences those of the classes, (C, 1, D).

        Raises:
            FitError: there are no class texts, or they live in another space.
        """
        if self.sentences is None:
            return self.text_directions()[:, None]
        classes, number, joint = self.sentences.shape
        flat = replace(self, num_classes=classes * number, directions=None, sentences=None,
                       text_features=self.sentences.reshape(-1, joint))  # fmt: skip
        return flat.text_directions().view(classes, number, -1)

    def kept(self, name: str) -> Tensor | None:
        """Return a tensor that a head keeps by name; ``directions`` are computed where needed."""
        value: Tensor | None = (
            self.text_directions() if name == "directions" else getattr(self, name)
        )
        return value

    def require_texts(self) -> Tensor:
        """Return the text embeddings, (C, D_joint), that features or their projection meet.

        Raises:
            FitError: there are none, or they live in another space.
        """
        if self.text_features is None:
            raise FitError(f"{_NEEDS_TEXTS}; {NO_TEXTS}")
        joint = self.dim if self.projection is None else self.projection.shape[1]
        if self.text_features.shape != (self.num_classes, joint):
            raise FitError(
                f"class texts of shape {tuple(self.text_features.shape)} do not fit features of "
                f"dimension {self.dim}: the encoder has no projection from this field to the text "
                "space"
            )
        return self.text_features

    def scale_or(self, scale: float | None) -> float:
        """Return a stated scale, else the encoder's.

        Raises:
            FitError: there is neither.
        """
        if scale is None and self.logit_scale is None:
            raise FitError("the encoder has no logit_scale; state the head's scale, such as 100")
        return float(self.logit_scale if scale is None else scale)  # type: ignore[arg-type]


class AffineWeights(NamedTuple):
    """A classifier as weight (C, D') and bias (C,) or None, differentiable in the parameters."""

    weight: Tensor
    bias: Tensor | None


class Head(nn.Module):
    """Base of all heads; hyper-parameters are keyword arguments kept under their own names.

    Attributes:
        num_experts: E.
        inits: names that :meth:`initialise` knows. inits_of_rows: those that read training rows;
            of no effect where a class below has an ``initialise`` of its own, see
            :meth:`reads_rows`.
        fixed_representation: ``represent`` has no parameters, so that a fit may do it once.
        keeps: tensors of class texts in the context that the head goes on using; they become its
            buffers ``context_NAME`` and travel with its state. may_keep: others, if any.
        sized_by_state: buffers and parameters whose shape follows from the training rows, so that
            a freshly built head takes theirs from the state it loads.
        adopts_a_part: what :meth:`adopt` takes over is not all that the head has, so that it is
            initialised at random before.
        unit_rows: ``normalise`` makes rows of unit length.
        at_prediction: hyper-parameters that only act at prediction: they may be set on a fitted
            head (``head.alpha = 2.0``), so that trying many values costs no second fit.
        reads_sentences: its initialisation looks at every sentence of a class.
        residual: exponent a of the class prior n**a that the logits of a fitted training-free head
            carry (0 balanced, 1 as in the data); None: it cannot be stated.
    """

    num_experts: int = 1
    at_prediction: ClassVar[tuple[str, ...]] = ()
    reads_sentences: ClassVar[bool] = False
    residual: float | None = None
    inits: ClassVar[tuple[str, ...]] = ("random", "class_mean", "text")
    inits_of_rows: ClassVar[tuple[str, ...]] = ("class_mean",)
    fixed_representation: ClassVar[bool] = False
    keeps: ClassVar[tuple[str, ...]] = ()
    may_keep: ClassVar[tuple[str, ...]] = ()
    sized_by_state: ClassVar[tuple[str, ...]] = ()
    adopts_a_part: ClassVar[bool] = False
    unit_rows: bool = False
    equation: ClassVar[str]

    def __init__(self, context: HeadContext) -> None:
        super().__init__()
        self.dim, self.width = context.dim, context.width
        self.num_classes = context.num_classes
        for name in (*self.keeps, *self.may_keep):
            value = context.kept(name)
            if value is None and name in self.keeps:
                raise FitError(f"{_NEEDS_TEXTS}; {NO_TEXTS}")
            kept = None if value is None else value.detach().to(torch.float32).clone()
            self.register_buffer(f"context_{name}", kept)

    def represent(self, features: Tensor) -> Tensor:
        """Return (E, N, D') for features (N, D)."""
        return features[None]

    def normalise(self, representation: Tensor) -> Tensor:
        """Return what the product of :meth:`affine` is taken with, (E, N, D'); no parameters."""
        return representation

    def classify(self, representation: Tensor) -> Tensor:
        """Return logits of each expert, (E, N, C), for (E, N, D')."""
        raise NotImplementedError

    def fit(
        self, features: Tensor, labels: Tensor, weights: Tensor | None, context: HeadContext
    ) -> None:
        """Set the state of a training-free head from its training rows.

        Args:
            features: (N, D), transformed. labels: (N,). weights: of the rows, (N,), or None.
            context: what it was built from.
        """
        raise FitError(f"{type(self).__name__} has no closed form: it is trained by gradient steps")

    def adopt(self, previous: Head) -> None:
        """Start from the head of the stage before.

        Raises:
            FitError: a head of another kind, whose parameters have no place here.
        """
        if type(previous) is not type(self):
            raise FitError(f"{type(self).__name__} cannot start from a {type(previous).__name__}")
        self.load_state_dict(previous.state_dict())

    def combine(self, logits: Tensor) -> Tensor:
        """Return (N, C) for (E, N, C): the mean over experts."""
        return logits[0] if len(logits) == 1 else logits.mean(dim=0)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (N, C) for features (N, D)."""
        return self.combine(self.classify(self.represent(features)))

    def affine(self) -> AffineWeights | None:
        """Return ``classify`` as one product with what :meth:`normalise` gives, where it is one:
        a fit then needs no autograd."""
        return None

    @classmethod
    def reads_rows(cls, how: str) -> bool:
        """Whether an initialisation reads training rows.

        A class whose ``initialise`` is its own is taken to read them always, unless it says
        ``inits_of_rows`` itself.
        """
        owner: type[Head] = next(kind for kind in cls.__mro__ if "initialise" in vars(kind))
        return "inits_of_rows" not in vars(owner) or how in owner.inits_of_rows

    def initialise(
        self,
        how: str,
        features: Tensor,
        labels: Tensor,
        generator: Generator,
        context: HeadContext,
    ) -> None:
        """Set the parameters before training.

        Args:
            how: one of ``inits``.
            features, labels: training rows, (N, D) and (N,); none of them where
                :meth:`reads_rows` says so.
            generator: for ``random``, on the CPU.
            context: for ``text``.

        Raises:
            FitError: an initialisation that this head does not know or cannot have.
        """
        self.require_known(how)
        with torch.no_grad():
            if how == "random":
                self.set_weight(self.random_weight(generator))
            elif how == "class_mean":
                rows = self.normalise(self.represent(features))[0]
                self.set_weight(class_means(rows, labels, self.num_classes))
            else:
                self.set_weight(context.text_directions())

    def require_known(self, how: str) -> None:
        """Refuse an initialisation that the head does not have.

        Raises:
            FitError: with those it has.
        """
        if how not in self.inits:
            raise FitError(
                f"{type(self).__name__} has no initialisation {how!r}; known: "
                f"{', '.join(self.inits) or 'none, it is fitted in closed form'}"
            )

    def random_weight(self, generator: Generator) -> Tensor:
        """Return (C, D') uniform in +-1/sqrt(D'), the default of torch's Linear."""
        bound = self.width**-0.5
        return (torch.rand(self.num_classes, self.width, generator=generator) * 2 - 1) * bound

    def set_weight(self, weight: Tensor) -> None:
        """Take a class weight (C, D) as the start; heads that have none override ``initialise``."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Return the hyper-parameters that rebuild the head."""
        return {name: getattr(self, name) for name in keyword_arguments(type(self))}

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Make room for what only the state knows the shape of, then load."""
        for name in self.sized_by_state:
            if (value := state_dict.get(prefix + name)) is not None:
                self._make_room(name, value)
        for name in (f"context_{name}" for name in self.may_keep):
            value = state_dict.get(prefix + name)
            if value is None or self._buffers[name] is None:
                self._buffers[name] = None if value is None else value.clone()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _make_room(self, name: str, value: Tensor) -> None:
        current: Tensor = getattr(self, name)
        if current.shape == value.shape:
            return
        room = torch.empty_like(value, dtype=current.dtype, device=current.device)
        if isinstance(current, nn.Parameter):
            room = nn.Parameter(room, requires_grad=current.requires_grad)
        setattr(self, name, room)


@torch.no_grad()
def predict_logits(head: Head, features: Tensor, block: int = 8192) -> Tensor:
    """Return logits (N, C) for transformed features (N, D), by blocks of rows."""
    parts = [head(features[i : i + block]) for i in range(0, len(features), block)]
    return torch.cat(parts) if parts else features.new_zeros((0, head.num_classes))


def predicted_labels(logits: Tensor) -> Tensor:
    """Return the class of the largest logit over the last axis, the first of equal ones, int64."""
    if logits.device.type != "cpu" or logits.dtype not in (torch.float32, torch.float64):
        return logits.argmax(dim=-1)
    # fifteen times as fast as torch's own on 8,192 x 1,000
    return torch.from_numpy(np.asarray(logits.detach().numpy().argmax(axis=-1)))


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the unit-normalised mean feature of each class, (C, D); zero for an empty class."""
    sums = sums_by_class(features, labels, num_classes)
    counts = label_counts(labels, num_classes).clamp(min=1)
    return F.normalize(sums / counts[:, None], dim=1)


def sums_by_class(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the sum of the features of each class, (C, D)."""
    sums = torch.zeros(num_classes, features.shape[1], dtype=features.dtype, device=features.device)
    return sums.index_add_(0, labels, features)


def uses_texts(head: type[Head]) -> bool:
    """Whether a head goes on using class texts, so that its context should have them."""
    return bool({"text_features", "directions"} & {*head.keeps, *head.may_keep})


def keyword_arguments(maker: Callable[..., Any]) -> dict[str, Any]:
    """Return name -> default of what a head, or a function that makes one, can be told."""
    import inspect

    parameters = inspect.signature(maker).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
