"""One loss, one head, one method: each is added in a module of its own, and everything takes it.

The places that ``ltcache/README.md`` lists for them in the package are the entry in a catalogue,
which is all that is done here.
"""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ltcache.fit import LabelledRows, fit_head
from ltcache.heads import HEADS, HeadContext, LinearHead, predict_logits
from ltcache.losses import LOSSES, OffsetCrossEntropy
from ltcache.methods import (
    METHODS,
    FeatureSpec,
    Method,
    Train,
    known_overrides,
    method_by_name,
    override,
)

COUNTS = torch.tensor([60, 20, 8])
QUICK = {"optimisation.epochs": 8, "optimisation.min_steps": 0}


class SharpenedLoss(OffsetCrossEntropy):
    """CE(z + power log pi, y)."""

    reference, equation = "this file", "CE(z + power log pi, y)"

    def __init__(
        self, class_counts: Tensor, *, power: float = 2.0, smooth_prior: bool = False
    ) -> None:
        super().__init__(class_counts, smooth_prior=smooth_prior)
        self.set_offset(power * self.prior.log())
        self.power = power


class TemperedHead(LinearHead):
    """z = (W f + b) / temperature."""

    equation = "z = (W f + b) / temperature"

    def __init__(self, context: HeadContext, *, temperature: float = 4.0) -> None:
        super().__init__(context)
        self.temperature = temperature

    def classify(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.classify`."""
        return F.linear(representation, self.weight, self.bias_vector) / self.temperature

    def affine(self) -> None:
        """See :meth:`Head.affine`: left to autograd."""


@pytest.fixture
def catalogues(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``ltcache --import MODULE`` does: the module enters its names into the catalogues."""
    module = types.ModuleType("additions")
    monkeypatch.setitem(sys.modules, "additions", module)
    monkeypatch.setitem(LOSSES, "sharpened", SharpenedLoss)
    monkeypatch.setitem(HEADS, "tempered", TemperedHead)
    method = Method(
        name="sharpened",
        title="tempered head, sharpened prior",
        feature=FeatureSpec(),
        stages=(Train(head="tempered", loss="sharpened"),),
        reference="this file",
        fidelity="exact",
        differs="nothing",
    )
    monkeypatch.setitem(METHODS, method.name, method)


def rows() -> LabelledRows:
    draw = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(3), COUNTS)
    means = torch.randn(3, 10, generator=draw)
    return LabelledRows(means[labels] + 3 * torch.randn(len(labels), 10, generator=draw), labels)


def logits(method: Method) -> Tensor:
    context = HeadContext(10, 3, COUNTS)
    fitted = fit_head(override(method, QUICK), rows(), context, choose=False)
    return predict_logits(fitted.head, fitted.transform(rows().features))


def test_a_loss_takes_settings_and_changes_the_fit(catalogues: None) -> None:
    method = override(METHODS["ce"], {"loss": "sharpened"})
    assert known_overrides(method)["loss.power"] == 2.0
    plain = override(METHODS["ce"], {"loss": "sharpened", "loss.power": 0.0})
    torch.testing.assert_close(logits(plain), logits(METHODS["ce"]))
    shares = [logits(m).argmax(dim=1).bincount(minlength=3)[2] for m in (method, METHODS["ce"])]
    assert shares[0] > shares[1], "the rare class gains from the prior in the loss"


def test_a_head_takes_settings_and_is_trained_in_any_method(catalogues: None) -> None:
    method = override(METHODS["logit-adjustment"], {"head": "tempered", "head.temperature": 1.0})
    torch.testing.assert_close(
        logits(method), logits(METHODS["logit-adjustment"]), rtol=1e-4, atol=1e-4
    )


def test_a_method_is_found_by_name_and_written_down(catalogues: None) -> None:
    method = method_by_name("sharpened")
    full = override(method, {"loss.power": 1.5})
    assert Method.from_dict(full.to_dict()) == full
    assert full.stages[0].head_options == {"temperature": 4.0}
    assert torch.isfinite(logits(method)).all()
