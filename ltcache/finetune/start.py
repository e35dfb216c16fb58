"""What a training begins with besides the encoder: a head, and statistics that a loss needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.finetune.spec import FineTuning, ObjectiveTerm
from ltcache.fit import STATISTICS, FitOptions, LabelledRows, StageInput, fit_head
from ltcache.heads import HEADS, Head, HeadContext
from ltcache.losses import LOSSES
from ltcache.methods import (
    COSINE,
    Estimate,
    FeatureSpec,
    Method,
    Train,
    counts_as_drawn,
    residual_prior,
)

PROBE = "probe"


class StartValues:
    """Start values that follow from the encoder as it is before the tuning.

    Args:
        tuning: with every setting written out.
        context: of heads on the encoder's features.
        features: gives the training images' features and labels, on the CPU; called once at most.
        seed: of whatever is random.
        allow_double_correction: see :func:`ltcache.fit.fit_head`.
    """

    def __init__(
        self,
        tuning: FineTuning,
        context: HeadContext,
        features: Callable[[], LabelledRows],
        *,
        seed: int = 0,
        allow_double_correction: bool = False,
    ) -> None:
        self.tuning = tuning
        self.context = context
        self._features = features
        self._seed = seed
        self._allow = allow_double_correction

    @cached_property
    def rows(self) -> LabelledRows:
        """The training images' features."""
        return self._features()

    def head(self) -> tuple[Head | None, str]:
        """Return the head as it starts and the initialisation that was taken, of several the first
        that the data allow; None where class texts are the classifier.

        Raises:
            FitError: the head is none that gradient steps train, or no initialisation can be had.
        """
        classifier = self.tuning.classifier
        if self.tuning.scores_texts:
            return None, ""
        head = HEADS[classifier.head](self.context, **classifier.options)
        ways = classifier.init.split("|")
        for way in ways:
            try:
                self._initialise(head, way)
                return head, way
            except FitError:
                if way == ways[-1]:
                    raise
        raise FitError("no initialisation was named")

    def estimated(self) -> Mapping[str, Tensor]:
        """Return what the losses need, tensors (C,)."""
        if self.tuning.statistic is None:
            return {}
        unit = LabelledRows(F.normalize(self.rows.features, dim=1), self.rows.labels)
        task = StageInput(unit, None, self.context, "l2", Generator().manual_seed(self._seed))
        found: Mapping[str, Tensor] = STATISTICS[self.tuning.statistic](
            task, **self.tuning.statistic_options
        )
        return found

    def counts(self) -> Tensor:
        """Return the class counts that losses are built from, (C,), float64.

        Raises:
            FitError: a loss would correct a prior that the sampler has balanced already.
        """
        counts = self.context.class_counts.to(torch.float64)
        for term in self.tuning.logit_terms:
            counts = counts_as_drawn(self._stage(term), self.context.class_counts, self._allow)
        return counts

    def residual_prior(self, estimated: Mapping[str, Tensor]) -> float | None:
        """Return the exponent of the class prior that the logits carry; None: nobody can say."""
        if len(self.tuning.terms) != 1 or not self.tuning.logit_terms:
            return None
        (term,) = self.tuning.terms
        kind: Any = LOSSES[term.name]
        if kind.corrects == "partial":
            return None
        given = {name: estimated[name] for name in kind.needs}
        stage = replace(self._stage(term), composites=self.tuning.composites)
        return residual_prior(stage, kind(self.counts(), **given, **term.options))

    def _initialise(self, head: Head, way: str) -> None:
        if way == PROBE:
            head.adopt(self._probe())
            return
        head.require_known(way)
        rows = self.rows if way == "class_mean" else LabelledRows(torch.zeros(0, head.dim), _NONE)
        generator = Generator().manual_seed(self._seed)
        head.initialise(way, rows.features, rows.labels, generator, self.context)

    def _probe(self) -> Head:
        """Return the head fitted to the features before the tuning (Kumar et al., ICLR 2022)."""
        if not self.tuning.logit_terms:
            raise FitError("init=probe needs a loss on logits")
        before: list[Estimate] = []
        if self.tuning.statistic is not None:
            before = [Estimate(self.tuning.statistic, self.tuning.statistic_options)]
        method = Method(
            name=PROBE,
            title="the classifier of a fine-tuning, on the features before it",
            feature=FeatureSpec(self.tuning.classifier.field),
            stages=(*before, self._stage(self.tuning.logit_terms[0])),
            reference="Kumar et al., ICLR 2022",
            fidelity="exact",
            differs="Nothing.",
        )
        return fit_head(
            method,
            self.rows,
            self.context,
            seed=self._seed,
            options=FitOptions(allow_double_correction=self._allow),
        ).head

    def _stage(self, term: ObjectiveTerm) -> Train:
        classifier = self.tuning.classifier
        head = "cosine" if self.tuning.scores_texts else classifier.head
        return Train(
            head=head,
            head_options={} if self.tuning.scores_texts else classifier.options,
            init="text|class_mean",
            loss=term.name,
            loss_options=term.options,
            sampler=self.tuning.sampler,
            optimisation=COSINE,
        )


_NONE = torch.zeros(0, dtype=torch.long)
