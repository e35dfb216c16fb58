"""Every head in HEADS: shapes, gradients, extremes, relabelling, state."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.func import functional_call
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.heads import HEADS, Head, HeadContext, LinearHead, predict_logits, uses_texts
from tests.heads.started import CLASSES, DIM, disturbed, make_context, make_rows, started

NAMES = sorted(HEADS)
CLASSIFIERS = {
    "ballad_adapter": ("linear", "cosine"),
    "experts": ("cosine",),
    "reslt": ("cosine",),
    "sg_attention": ("linear",),
    "visual_attention": ("linear",),
}
MOVED_BY_AN_OBJECTIVE = {"meta_embedding": {"memory"}}  # logits carry no gradient to these
OPTIONS: list[tuple[str, dict[str, str]]] = [(name, {}) for name in NAMES]
OPTIONS += [(name, {"classifier": c}) for name, others in CLASSIFIERS.items() for c in others]


@pytest.mark.parametrize("name", NAMES)
def test_three_steps_and_their_shapes(name: str) -> None:
    head = started(name)
    features, _ = make_rows(name)
    representation = head.represent(features)
    experts = head.classify(representation)
    logits = head.combine(experts)
    assert representation.shape[:2] == (head.num_experts, 20)
    assert experts.shape == (head.num_experts, 20, CLASSES) and logits.shape == (20, CLASSES)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(head(features), logits)
    torch.testing.assert_close(predict_logits(head, features, block=7), logits.detach())
    assert predict_logits(head, features[:0]).shape == (0, CLASSES)


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_gradient_is_right_in_double_precision(name: str, options: dict[str, str]) -> None:
    features, _ = make_rows(name, torch.float64)
    head = disturbed(started(name, **options)).double().train()
    still = MOVED_BY_AN_OBJECTIVE.get(name, set())
    parameters = [(n, p) for n, p in head.named_parameters() if n not in still]
    trained = {n: p.detach().requires_grad_() for n, p in parameters}

    def logits(rows: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return functional_call(head, dict(zip(trained, values, strict=True)), (rows,))

    rows = features[:3].requires_grad_()
    assert torch.autograd.gradcheck(logits, (rows, *trained.values()))


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_affine_form_equals_classify(name: str, options: dict[str, str]) -> None:
    head = disturbed(started(name, **options))
    affine = head.affine()
    if affine is None or head.num_experts > 1:
        return
    representation = head.represent(make_rows(name)[0])
    rows = head.normalise(representation)
    torch.testing.assert_close(head.classify(representation), F.linear(rows, *affine))
    if head.unit_rows:
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(rows.shape[:-1]))


STARTS = [(name, how) for name in NAMES for how in HEADS[name].inits if how != "previous"]


@pytest.mark.parametrize(("name", "how"), STARTS)
def test_an_initialisation_says_whether_it_reads_rows(name: str, how: str) -> None:
    sentences = torch.randn(CLASSES, 70, DIM, generator=torch.Generator().manual_seed(4))
    context = replace(make_context(), sentences=F.normalize(sentences, dim=2))
    features, labels = make_rows(name)
    first = started(name, context, (features, labels), how).state_dict()
    try:
        none = started(name, context, (features[:0], labels[:0]), how).state_dict()
    except FitError:
        assert HEADS[name].reads_rows(how)
        return
    alike = all(torch.equal(first[key], value) for key, value in none.items())
    assert alike == (not HEADS[name].reads_rows(how))


def test_a_head_with_an_initialisation_of_its_own_is_taken_to_read_rows() -> None:
    class Own(LinearHead):
        def initialise(self, *_: object) -> None: ...

    class Told(Own):
        inits_of_rows = ()

    assert Own.reads_rows("random") and Told.reads_rows("random")
    assert not LinearHead.reads_rows("random") and LinearHead.reads_rows("class_mean")


@pytest.mark.parametrize("name", NAMES)
def test_classes_are_interchangeable(name: str) -> None:
    features, labels = make_rows(name)
    order = torch.tensor([3, 0, 4, 1, 2])
    before = started(name)(features)
    moved = started(name, make_context(order=order), (features, order.argsort()[labels]))
    if HEADS[name].inits == ("random",):  # a draw per class; move the draws along
        fixed = started(name).state_dict()
        moved.load_state_dict(
            {n: v[order] if v.shape[:1] == (CLASSES,) else v for n, v in fixed.items()}
        )
    torch.testing.assert_close(moved(features), before[:, order])


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_state_and_configuration_rebuild_the_head(
    name: str, options: dict[str, str], tmp_path: Path
) -> None:
    head = disturbed(started(name, **options))
    save_file(head.state_dict(), tmp_path / "h.safetensors")
    state = load_file(tmp_path / "h.safetensors")
    kept = {key: state[f"context_{key}"] for key in head.keeps}
    bare = HeadContext(DIM, CLASSES, torch.ones(CLASSES), logit_scale=20.0, **kept)
    again = HEADS[name](bare, **head.config())
    again.load_state_dict(state)
    features, _ = make_rows(name)
    assert torch.equal(again.eval()(features), head(features))


@pytest.mark.parametrize("name", NAMES)
def test_pooled_features_and_state_that_came_from_them(name: str) -> None:
    if name == "ballad_adapter":
        with pytest.raises(FitError, match="feature.field=embedding"):
            started(name, make_context(pooled=True))
        return
    head = started(name, make_context(pooled=True))
    state = head.state_dict()
    kept = {key: state[f"context_{key}"] for key in head.keeps}
    bare = HeadContext(DIM, CLASSES, torch.ones(CLASSES), logit_scale=20.0, **kept)
    again = HEADS[name](bare, **head.config())
    again.load_state_dict(state)
    features, _ = make_rows(name)
    assert torch.equal(again.eval()(features), head(features))


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_extreme_features_stay_finite(name: str, options: dict[str, str]) -> None:
    features, labels = make_rows(name)
    for factor in (0.0, 1e-12, 1e6):
        head = started(name, rows=(factor * features, labels), **options)
        assert torch.isfinite(head(factor * features)).all()
        assert torch.isfinite(started(name, **options)(factor * features)).all()


@pytest.mark.parametrize("name", NAMES)
def test_prediction_is_deterministic_and_independent_of_its_batch(name: str) -> None:
    head = disturbed(started(name))
    features, _ = make_rows(name)
    assert torch.equal(head(features), head(features))
    torch.testing.assert_close(head(features[3:5]), head(features)[3:5])


@pytest.mark.parametrize("name", NAMES)
def test_every_initialisation_works_and_random_follows_the_generator(name: str) -> None:
    features, labels = make_rows(name)
    head = HEADS[name](make_context()).eval()
    for how in set(head.inits) - {"previous"}:
        seen = []
        for seed in (0, 0):
            generator = torch.Generator().manual_seed(seed)
            head.initialise(how, features, labels, generator, make_context())
            seen.append(head(features).detach().clone())
        assert torch.equal(*seen)
    with pytest.raises(FitError, match="no initialisation 'best'"):
        head.initialise("best", features, labels, torch.Generator(), make_context())


@pytest.mark.parametrize("name", NAMES)
def test_what_acts_at_prediction_may_be_set_on_a_fitted_head(name: str) -> None:
    for option in HEADS[name].at_prediction:
        head = started(name)
        value = 2 * getattr(head, option)
        setattr(head, option, value)
        features, _ = make_rows(name)
        assert torch.equal(head(features), started(name, **{option: value})(features))


@pytest.mark.parametrize("name", NAMES)
def test_equal_weights_of_rows_count_like_none(name: str) -> None:
    if HEADS[name].inits:
        return
    features, labels = make_rows(name)
    head = HEADS[name](make_context())
    head.fit(features, labels, torch.full((20,), 3.0), make_context())
    torch.testing.assert_close(head(features), started(name)(features))


def test_heads_without_texts_say_what_they_need() -> None:
    bare = HeadContext(DIM, CLASSES, torch.ones(CLASSES), logit_scale=20.0)
    for name in NAMES:
        if HEADS[name].keeps:
            assert uses_texts(HEADS[name])
            with pytest.raises(FitError, match="text"):
                HEADS[name](bare)


def test_heads_trained_by_gradient_have_no_closed_form() -> None:
    features, labels = make_rows()
    with pytest.raises(FitError, match="trained by gradient steps"):
        Head.fit(started("linear"), features, labels, None, make_context())
