"""Objectives with a state, parameters of their own, and a second batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ltcache.errors import FitError
from ltcache.fit import FitJob, LabelledRows, fit_head, fit_many
from ltcache.heads import Head, HeadContext, predict_logits
from ltcache.methods import method_by_name, override
from ltcache.objectives import OBJECTIVES, HeadOutputs, TrainingBatch, TrainingStart, WeightedMean

CROPS, IMAGES, DIM = 3, 40, 6
IMAGE_LABELS = torch.arange(IMAGES) % 4
FEATURES = torch.randn(IMAGES, CROPS, DIM, generator=torch.Generator().manual_seed(0))
ROWS = LabelledRows(
    FEATURES.flatten(0, 1),
    IMAGE_LABELS.repeat_interleave(CROPS),
    images=torch.arange(IMAGES).repeat_interleave(CROPS),
)
VAL = LabelledRows(FEATURES[:8, 0], IMAGE_LABELS[:8])
CONTEXT = HeadContext(DIM, 4, torch.bincount(ROWS.labels))
QUICK = {"optimisation.epochs": 3, "optimisation.min_steps": 0, "optimisation.batch": 16}


class ProjectedObjective(WeightedMean):
    """Pulls the projections of two crops of an image together."""

    needs_partner = True
    seen: list[str]

    def begin(self, start: TrainingStart) -> None:
        """See :meth:`Objective.begin`."""
        assert isinstance(start.head, Head)
        self.seen = [f"begin {len(start.rows.labels)} {start.val is not None}"]
        torch.manual_seed(start.generator.initial_seed() % 2**31)
        self.projection = nn.Linear(start.head.dim, 2)
        self.first = self.projection.weight.detach().clone()
        self.steps = 0

    def forward(self, outputs: HeadOutputs, batch: TrainingBatch, progress: float) -> Tensor:
        """See :meth:`Objective.forward`."""
        assert outputs.partner is not None and batch.rows is not None
        assert batch.partner_labels is not None
        assert torch.equal(batch.labels, batch.partner_labels)
        assert torch.equal(outputs.representation[0], ROWS_SEEN[batch.rows])
        pair = [self.projection(o.representation[0]) for o in (outputs, outputs.partner)]
        return super().forward(outputs, batch, progress) + (pair[0] - pair[1]).square().mean()

    def end_step(self) -> None:
        """See :meth:`Objective.end_step`."""
        self.steps += 1

    def end_epoch(self, head: Head) -> None:
        """See :meth:`Objective.end_epoch`."""
        assert not head.training and not torch.is_grad_enabled()
        self.seen.append(f"epoch after {self.steps} steps")
        LAST.update(seen=self.seen, moved=bool((self.projection.weight != self.first).any()))


LAST: dict[str, object] = {}
ROWS_SEEN = ROWS.features


@pytest.fixture(autouse=True)
def _projected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "projected", ProjectedObjective)


CE = override(method_by_name("ce"), {"partner": "same_image", "feature.transform": "none", **QUICK})
METHOD = replace(CE, stages=(replace(CE.stages[0], objective="projected"),))


def test_hooks_are_called_and_the_parameters_of_the_objective_move() -> None:
    fitted = fit_head(METHOD, ROWS, CONTEXT, val=VAL)
    steps = -(-len(ROWS) // 16)
    assert LAST["seen"] == [
        "begin 120 True",
        *(f"epoch after {k * steps} steps" for k in (1, 2, 3)),
    ]
    assert LAST["moved"]
    assert not any("projection" in name for name in fitted.head.state_dict())


def test_a_factor_of_zero_holds_the_parameters_of_the_objective() -> None:
    held = replace(
        METHOD, stages=(replace(METHOD.stages[0], lr_factors={"objective.projection": 0.0}),)
    )
    fit_head(held, ROWS, CONTEXT, val=VAL)
    assert not LAST["moved"]


def test_many_fits_are_the_single_ones() -> None:
    jobs = [FitJob(METHOD, seed) for seed in (0, 1)]
    together = fit_many(jobs, ROWS, CONTEXT, val=VAL)
    for job, found in zip(jobs, together, strict=True):
        alone = fit_head(METHOD, ROWS, CONTEXT, val=VAL, seed=job.seed)
        for head in (alone.head, found.head):
            assert predict_logits(head, VAL.features).isfinite().all()
        assert torch.equal(
            predict_logits(alone.head, VAL.features), predict_logits(found.head, VAL.features)
        )


def test_without_a_partner_it_is_refused() -> None:
    with pytest.raises(FitError, match="objective projected needs partner="):
        fit_head(override(METHOD, {"partner": "none"}), ROWS, CONTEXT, val=VAL)


def test_images_of_one_crop_have_no_pairs() -> None:
    single = LabelledRows(FEATURES[:, 0], IMAGE_LABELS)
    with pytest.raises(FitError, match="pairs two crops of an image"):
        fit_head(METHOD, single, CONTEXT, val=VAL)
