"""A class without rows: every method fits, or refuses with a remedy that works."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.fit import LabelledRows, fit_head
from ltcache.heads import HeadContext
from ltcache.methods import METHODS, Method, Train, known_overrides, override
from tests.fakes import fake_composites

DIM, EMPTY = 12, 4
COUNTS = torch.tensor([60, 30, 15, 8, 0])
MEANS = torch.randn(len(COUNTS), DIM, generator=torch.Generator().manual_seed(3))
CONTEXT = HeadContext(
    DIM, len(COUNTS), COUNTS, text_features=F.normalize(MEANS, dim=1), logit_scale=20.0
)


def _rows(counts: torch.Tensor, seed: int) -> LabelledRows:
    labels = torch.repeat_interleave(torch.arange(len(counts)), counts)
    noise = torch.randn(len(labels), DIM, generator=torch.Generator().manual_seed(seed))
    features = F.normalize(MEANS[labels] + 0.3 * noise, dim=1)
    images = torch.arange(len(labels)) % (len(labels) // 2)  # two crops each, or three
    composites = fake_composites(features, labels)
    return LabelledRows(features, labels, images=images, composites=composites)


TRAIN, VAL = _rows(COUNTS, 0), _rows(torch.tensor([5, 5, 5, 5, 0]), 1)


def _quick(method: Method) -> Method:
    keys = [f"stages.{k}.optimisation.epochs" for k, stage in enumerate(method.stages)
            if isinstance(stage, Train)]  # fmt: skip
    return override(method, dict.fromkeys(keys, 2))


@pytest.mark.parametrize("name", METHODS)
def test_a_refusal_of_an_empty_class_names_what_works(name: str) -> None:
    method = _quick(METHODS[name])
    try:
        fit_head(method, TRAIN, CONTEXT, val=VAL)
        return
    except FitError as error:
        text = str(error)
    assert f"1 of {len(COUNTS)} classes have no training rows" in text
    setting = re.search(r"set (\w+)=true", text)
    if setting is not None:
        fit_head(override(method, {setting[1]: "true"}), TRAIN, CONTEXT, val=VAL)
    assert "leave them out of the class list" in text
    fewer = replace(CONTEXT, num_classes=EMPTY, class_counts=COUNTS[:EMPTY],
                    text_features=CONTEXT.text_features[:EMPTY])  # type: ignore[index]  # fmt: skip
    fit_head(method, TRAIN, fewer, val=VAL)


def test_one_setting_smooths_the_prior_of_every_stage() -> None:
    both = override(METHODS["dr"], {"smooth_prior": "true"})
    assert [s.loss_options["smooth_prior"] for s in both.stages] == [True, True]  # type: ignore[union-attr]
    adjusted = override(METHODS["posthoc-la"], {"smooth_prior": True}).stages
    assert adjusted[0].loss_options["smooth_prior"] and adjusted[1].options["smooth_prior"]  # type: ignore[union-attr]
    assert known_overrides(METHODS["dr"])["smooth_prior"] is False
    assert "smooth_prior" not in known_overrides(METHODS["ncm"])
