"""What a pool is scored with: unit text rows of every class, and a temperature."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ltcache.cache import PromptEmbeddings
from ltcache.errors import UsageError
from ltcache.records import one_line

POOLINGS = ("mean", "max")


@one_line
@dataclass(frozen=True, eq=False)
class MeanMixture:
    """Class texts and class means that queries are mixed of.

    Args:
        text: float64 (M, C, D), unit rows. class_sums: (C, D), sums of the unit embeddings of each
            class's training images, zeros where a class has none.
        weight: of the class means, 0..1.
    """

    text: np.ndarray
    class_sums: np.ndarray
    weight: float

    def without(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return (M, n, D): the query of each image's class, made without that image.

        Args:
            images: float64 (n, D), unit embeddings of training images. labels: (n,), theirs.
        """
        sums = self.class_sums[labels] - images
        sums[np.linalg.norm(sums, axis=1) < 1e-6] = 0  # the only image of its class
        return mixed_queries(self.text[:, labels], sums, self.weight)


@one_line
@dataclass(frozen=True, eq=False)
class ClassQueries:
    """One or several unit rows per class; logits are their largest product, over tau.

    Args:
        rows: float64 (M, C, D), unit rows; a class with fewer than M repeats its first one.
        tau: temperature of the softmax, above 0: 1 / logit_scale of the encoder.
        mixture: what the rows were mixed of, where class means are in them.

    Raises:
        UsageError: fewer than two classes (a softmax over one is always 1), or tau not above 0.
    """

    rows: np.ndarray
    tau: float
    mixture: MeanMixture | None = None

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise UsageError("a softmax over prompts needs at least two classes")
        if not (np.isfinite(self.tau) and self.tau > 0):
            raise UsageError(f"tau is {self.tau}: it must be above 0")

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.rows.shape[1])

    @property
    def dim(self) -> int:
        """D."""
        return int(self.rows.shape[2])

    @cached_property
    def scaled(self) -> np.ndarray:
        """Float64 (M, C, D): rows over tau, so that a product with them is a logit."""
        return self.rows / self.tau

    @cached_property
    def halves(self) -> np.ndarray:
        """Float64 (M, 2, C, D): each sentence's rows as :func:`two_halves`."""
        return np.stack([two_halves(rows) for rows in self.rows])


def class_queries(
    prompts: PromptEmbeddings,
    tau: float,
    *,
    pooling: str = "mean",
    class_means: np.ndarray | None = None,
    weight: float = 0.0,
) -> ClassQueries:
    """Return the queries of all classes.

    Args:
        prompts: class texts; several sentences of a class are its synonyms.
        tau: temperature.
        pooling: ``mean``: the unit mean of a class's sentences (prompt ensembling); ``max``: the
            sentence that is nearest to the image.
        class_means: (C, D), mean unit embedding of each class's training images, or sum; zeros
            for a class without any, which keeps its texts.
        weight: of the class mean, 0..1, in ``unit((1 - weight) text + weight unit(mean))``.

    Raises:
        UsageError: unknown pooling, or a weight that cannot be meant.
    """
    if pooling not in POOLINGS:
        raise UsageError(f"pooling {pooling!r} is unknown; known: {', '.join(POOLINGS)}")
    if not 0 <= weight <= 1:
        raise UsageError(f"the weight of the class means is {weight}: it lies between 0 and 1")
    if weight and class_means is None:
        raise UsageError("prompts are mixed with class means, but there are none")
    rows = _sentences(prompts) if pooling == "max" else prompts.mean[None]
    rows = unit(rows.astype(np.float64))
    if not weight or class_means is None:
        return ClassQueries(rows, float(tau))
    mixed = mixed_queries(rows, class_means, weight)
    return ClassQueries(mixed, float(tau), MeanMixture(rows, class_means, weight))


def mixed_queries(rows: np.ndarray, class_means: np.ndarray, weight: float) -> np.ndarray:
    """Return float64 unit rows ``(1 - weight) rows + weight unit(class_means)``.

    Args:
        rows: (..., C, D), unit rows. class_means: (C, D), zeros where a class has no image.
    """
    means = class_means.astype(np.float64)
    there = np.linalg.norm(means, axis=-1, keepdims=True) > 0
    return unit(np.where(there, (1 - weight) * rows + weight * unit(means), rows))


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows of unit length along the last axis; zeros stay zeros."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, np.finfo(rows.dtype).tiny))


def two_halves(rows: np.ndarray) -> np.ndarray:
    """Return float64 (2, n, D): unit rows as coarse values and what these leave.

    Products of the coarse values are multiples of 2**-52, and those of a coarse with a fine value
    multiples of 2**-74: no sum of them, of unit rows with D up to 4096, needs more digits than
    float64 has. So none is rounded, and no order of summation, library or device changes it. What
    is left out is below 1e-12 (Ozaki et al., Numerical Algorithms 59, 2012).
    """
    high = np.round(rows * 2.0**26) / 2.0**26
    return np.stack([high, np.round((rows - high) * 2.0**48) / 2.0**48])


def _sentences(prompts: PromptEmbeddings) -> np.ndarray:
    """Return (M, C, D) sentences; places beyond a class's count repeat its first sentence."""
    rows = prompts.sentences.copy()
    beyond = np.arange(rows.shape[1]) >= prompts.count[:, None]
    rows[beyond] = np.broadcast_to(rows[:, :1], rows.shape)[beyond]
    return np.ascontiguousarray(rows.transpose(1, 0, 2))
