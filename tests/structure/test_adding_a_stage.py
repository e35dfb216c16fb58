"""A kind of stage is added in a module of its own, and everything takes it.

What ``ltcache/README.md`` lists for the package is all that the module does: a dataclass with its
entry in ``STAGES``, and a function with its entry in ``RUNNERS``.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from ltcache.cli import cli
from ltcache.errors import UsageError
from ltcache.fit import RUNNERS, FittedHead, LabelledRows, fit_adapter, fit_head
from ltcache.heads import HeadContext, predict_logits
from ltcache.methods import (
    METHODS,
    STAGES,
    FeatureSpec,
    Method,
    build_head,
    known_overrides,
    override,
)
from ltcache.runs import open_run
from tests.fakes import FakeCache

MODULE = '''
"""Class means that are pulled towards the class prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from ltcache.fit import RUNNERS, StageResult
from ltcache.heads import HEADS, class_means
from ltcache.methods import STAGES, CatalogueField, MethodStage


@dataclass(frozen=True)
class PulledMeans(MethodStage):
    PARTS: ClassVar = {"head": CatalogueField(HEADS, "head_options")}

    head: str = "cosine"
    head_options: Mapping[str, Any] = field(default_factory=dict)
    share: float = 0.5
    order: tuple[str, ...] = ("mean", "prompt")

    def needs_prompts(self):
        return self.share > 0


def run(stage, task, previous, choice):
    head = HEADS[stage.head](task.context, **stage.head_options)
    means = class_means(task.rows.features, task.rows.labels, task.context.num_classes)
    if stage.share:
        means = torch.lerp(means, task.context.text_directions(), stage.share)
    with torch.no_grad():
        head.set_weight(means)
    return StageResult(head, None)


STAGES["pulled_means"] = PulledMeans
RUNNERS[PulledMeans] = run
'''
COUNTS = torch.tensor([60, 20, 8])


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The module, as ``ltcache --import`` imports it; afterwards the catalogues are as before."""
    folder = tmp_path_factory.mktemp("additions")
    (folder / "pulled_means.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        stages, runners = dict(STAGES), dict(RUNNERS)
        yield importlib.import_module("pulled_means")
        for catalogue, before in ((STAGES, stages), (RUNNERS, runners)):
            catalogue.clear()  # type: ignore[attr-defined]
            catalogue.update(before)  # type: ignore[attr-defined]
        del sys.modules["pulled_means"]


@pytest.fixture
def method(added: ModuleType) -> Method:
    return Method(
        name="pulled",
        title="class means, pulled towards the class prompts",
        feature=FeatureSpec("embedding", transform="l2"),
        stages=(added.PulledMeans(),),
        reference="this file",
        fidelity="exact",
        differs="nothing",
    )


def rows_and_context() -> tuple[LabelledRows, HeadContext]:
    draw = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(3), COUNTS)
    means = torch.randn(3, 10, generator=draw)
    features = means[labels] + torch.randn(len(labels), 10, generator=draw)
    prompts = means + torch.randn(3, 10, generator=draw)
    return LabelledRows(features, labels), HeadContext(10, 3, COUNTS, text_features=prompts)


def fitted(method: Method) -> FittedHead:
    return fit_head(method, *rows_and_context(), choose=False)


def test_its_fields_and_the_options_of_its_parts_are_settings(method: Method) -> None:
    known = known_overrides(method)
    assert (known["head"], known["share"], known["order"]) == ("cosine", 0.5, ("mean", "prompt"))
    assert "head.scale" in known and "head_options" not in known
    changed = override(method, {"share": "0.25", "stages.0.head.scale": "8"})
    assert known_overrides(changed)["share"] == 0.25
    assert vars(changed.stages[0])["head_options"]["scale"] == 8.0
    assert changed.name == "pulled (share=0.25, head.scale=8)"
    ordered = override(method, {"order": "prompt,mean"})
    assert known_overrides(ordered)["order"] == ("prompt", "mean")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("shar", 1, "method pulled: no setting 'shar'; did you mean 'share'"),
        ("share", "much", "share='much' cannot be read as float"),
        ("head", "cosin", "unknown head 'cosin'; did you mean 'cosine'"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(
    method: Method, key: str, value: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        override(method, {key: value})


def test_its_record_is_read_as_it_was_written(method: Method) -> None:
    full = override(method, {"share": 0.25})
    plain = json.loads(json.dumps(full.to_dict()))
    assert plain["stages"][0]["stage"] == "pulled_means"
    assert Method.from_dict(plain) == full


def test_a_record_of_an_unknown_kind_is_refused(method: Method) -> None:
    plain = method.to_dict()
    plain["stages"][0]["stage"] = "pulled_mean"
    with pytest.raises(UsageError, match="unknown stage 'pulled_mean'; did you mean"):
        Method.from_dict(plain)


def test_it_is_fitted_and_its_head_built_again(method: Method) -> None:
    method = override(method, {"share": 0.25})
    (rows, context), found = rows_and_context(), fitted(method)
    again = build_head(method.stages, found.choices, context)
    again.load_state_dict(found.head.state_dict())
    features = found.transform(rows.features)
    logits = predict_logits(found.head, features)
    torch.testing.assert_close(predict_logits(again, features), logits)
    assert not torch.equal(
        logits, predict_logits(fitted(override(method, {"share": 0})).head, features)
    )


def test_a_run_on_a_cache_has_the_class_prompts_that_it_needs(
    method: Method, tmp_path: Path
) -> None:
    cache: Any = FakeCache(COUNTS.numpy())
    fit_adapter(cache, method, tmp_path / "pulled")
    fit_adapter(cache, method, tmp_path / "means", overrides={"share": 0})
    records = [open_run(tmp_path / name).record for name in ("pulled", "means")]
    assert [record.identities.get("prompts") is not None for record in records] == [True, False]


def test_ltcache_methods_shows_it(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "pulled", method)
    shown = CliRunner().invoke(cli, ["methods", "pulled"]).output
    assert "stage 0: PulledMeans\n  head: cosine" in shown and "share = 0.5" in shown
