"""Heads against plain double-precision references, closed forms and limits.

The references are written from the publications with numpy alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.heads import HEADS, Head, HeadContext
from ltcache.heads.gda import discriminant
from ltcache.heads.neighbours import spaced_rows
from tests.heads.started import CLASSES, DIM, disturbed, make_context, make_rows, started

COUNTS = np.array([9, 5, 3, 2, 1])


def _double(name: str, **options: Any) -> tuple[Head, np.ndarray, np.ndarray]:
    """Return a head fitted on double-precision rows, the rows and their labels."""
    features, labels = make_rows(name, torch.float64)
    context = make_context()
    head = HEADS[name](context, **options).double()
    head.fit(features, labels, None, context)
    return head.eval(), features.numpy(), labels.numpy()


def _logits(head: Head, features: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return head(torch.from_numpy(features)).numpy()


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _texts() -> np.ndarray:
    text = make_context().text_features
    assert text is not None
    return text.double().numpy()


def _parameters(head: Head) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in head.state_dict().items()}


def test_l2norm_linear_keeps_the_length_of_features() -> None:
    head = disturbed(started("l2norm_linear")).double()
    features = make_rows(dtype=torch.float64)[0].numpy()
    expected = features @ _unit(_parameters(head)["weight"]).T
    np.testing.assert_allclose(_logits(head, features), expected, rtol=1e-12)
    np.testing.assert_allclose(_logits(head, 3 * features), 3 * expected, rtol=1e-12)


def _calibrated(name: str) -> tuple[Head, Head, np.ndarray, np.ndarray]:
    """Return a head that took over a linear one, disturbed; both logits before it was."""
    previous = disturbed(started("linear")).double()
    head = HEADS[name](make_context()).double()
    head.adopt(previous)
    features = make_rows(dtype=torch.float64)[0].numpy()
    return head, previous, features, _logits(previous, features)


def test_lws_starts_from_the_head_before_and_scales_its_logits() -> None:
    head, _, features, before = _calibrated("lws")
    np.testing.assert_allclose(_logits(head, features), before, rtol=1e-12)
    scale = np.array([1.0, 0.5, 2.0, 3.0, 0.1])
    with torch.no_grad():
        head.class_scale.copy_(torch.from_numpy(scale))
    np.testing.assert_allclose(_logits(head, features), scale * before, rtol=1e-12)


def test_marc_starts_from_the_head_before_and_adds_lengths() -> None:
    head, previous, features, before = _calibrated("marc")
    np.testing.assert_allclose(_logits(head, features), before, rtol=1e-12)
    a, b = np.array([1.0, 2.0, 0.5, 1.5, 1.1]), np.array([0.3, -0.2, 0.0, 1.0, 2.0])
    with torch.no_grad():
        head.margin_scale.copy_(torch.from_numpy(a))
        head.margin_offset.copy_(torch.from_numpy(b))
    lengths = np.linalg.norm(previous.weight.detach().numpy(), axis=1)
    np.testing.assert_allclose(_logits(head, features), a * before + b * lengths, rtol=1e-12)


def test_disalign_starts_with_the_predictions_of_the_head_before() -> None:
    head, _, features, before = _calibrated("disalign")
    np.testing.assert_allclose(_logits(head, features), 1.5 * before, rtol=1e-12)
    names = {"weight", "bias_vector"}
    with torch.no_grad():
        for number, (name, value) in enumerate(head.named_parameters()):
            if name not in names:
                value += torch.linspace(-1, 1 + number, value.numel()).view_as(value)
    p = _parameters(head)
    gate = 1 / (1 + np.exp(-(features @ p["confidence.weight"].T + p["confidence.bias"])))
    expected = (1 + gate * p["alpha"]) * before + gate * p["beta"]
    np.testing.assert_allclose(_logits(head, features), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["lws", "marc", "disalign"])
def test_calibration_trains_its_own_parameters_only(name: str) -> None:
    head = HEADS[name](make_context())
    frozen = {n for n, p in head.named_parameters() if not p.requires_grad}
    assert frozen == {"weight", "bias_vector"}
    assert HEADS["lws"](make_context(), learn_weight=True).weight.requires_grad
    with pytest.raises(FitError, match="needs a stage before it"):
        head.initialise("previous", *make_rows(), torch.Generator(), make_context())


@pytest.mark.parametrize("name", ["lws", "marc", "disalign"])
def test_calibration_follows_a_cosine_head_with_its_scale(name: str) -> None:
    previous = disturbed(started("cosine"))
    features, _ = make_rows()
    head = HEADS[name](make_context(), classifier="cosine")
    head.adopt(previous)
    factor = 1.5 if name == "disalign" else 1.0
    torch.testing.assert_close(head(features), factor * previous(features))
    again = HEADS[name](make_context(), classifier="cosine")
    again.adopt(disturbed(head))
    assert torch.equal(again(features), head(features)), "and one of its own kind"
    with pytest.raises(FitError, match=r"set head\.classifier=cosine"):
        HEADS[name](make_context()).adopt(previous)
    with pytest.raises(FitError, match="not a ExpertsHead"):
        HEADS[name](make_context()).adopt(started("experts"))
    with pytest.raises(FitError, match="not a BALLADAdapterHead"):
        HEADS[name](make_context()).adopt(started("ballad_adapter"))


@pytest.mark.parametrize("variant", ["cl2n", "l2n", "un"])
def test_ncm_is_the_nearest_mean_of_transformed_rows(variant: str) -> None:
    head, features, labels = _double("ncm", variant=variant)
    rows = {"cl2n": _unit(features - features.mean(0)), "l2n": _unit(features), "un": features}
    x = rows[variant]
    means = np.stack([x[labels == c].mean(0) for c in range(CLASSES)])
    expected = -((x[:, None] - means) ** 2).sum(2)
    np.testing.assert_allclose(_logits(head, features), expected, atol=1e-12)
    head.temperature = 2.0
    np.testing.assert_allclose(_logits(head, features), expected / 2, atol=1e-12)


def test_ncm_of_rows_far_from_the_origin_keeps_its_digits() -> None:
    features, labels = make_rows()
    near, far = (HEADS["ncm"](make_context(), variant="un") for _ in "12")
    near.fit(features, labels, None, make_context())
    far.fit(features + 1000, labels, None, make_context())
    torch.testing.assert_close(far(features + 1000), near(features), rtol=1e-3, atol=1e-3)


def test_weighted_rows_count_like_repeated_ones() -> None:
    features, labels = make_rows()
    times = torch.arange(20) % 3 + 1
    repeated, weighted = (HEADS["ncm"](make_context()) for _ in "12")
    weighted.fit(features, labels, times.float(), make_context())
    rows = (features.repeat_interleave(times, 0), labels.repeat_interleave(times))
    repeated.fit(*rows, None, make_context())
    torch.testing.assert_close(weighted(features), repeated(features))


@pytest.mark.parametrize("name", ["ncm", "gda"])
def test_a_class_without_rows_has_no_mean(name: str) -> None:
    features, labels = make_rows()
    head = HEADS[name](make_context())
    with pytest.raises(FitError, match=r"1 of 5 classes have no training rows.*\(labels 4\)"):
        head.fit(features, labels.clamp(max=3), None, make_context())


def _gaussian(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    means = np.stack([x[labels == c].mean(0) for c in range(CLASSES)])
    within = np.cov((x - means[labels]).T)
    ridged = (len(x) - 1) * within + np.trace(within) * np.eye(DIM)
    weight = means @ (DIM * np.linalg.pinv(ridged))
    return weight, -0.5 * (weight * means).sum(1)


def test_gda_against_its_formula() -> None:
    head, features, labels = _double("gda", alpha=0.3)
    x = _unit(features)
    weight, bias = _gaussian(x, labels)
    expected = 20 * x @ _texts().T + 0.3 * (x @ weight.T + bias)
    np.testing.assert_allclose(_logits(head, features), expected, rtol=1e-10, atol=1e-10)
    alone, _, _ = _double("gda", text=False)
    np.testing.assert_allclose(_logits(alone, features), x @ weight.T + bias, rtol=1e-10)
    assert alone.context_text_features is None and head.residual == 0.0


def test_gda_without_weight_on_the_gaussians_is_zero_shot() -> None:
    head, features, _ = _double("gda", alpha=0.0)
    zero_shot, _, _ = _double("zero_shot")
    np.testing.assert_allclose(_logits(head, features), _logits(zero_shot, features), rtol=1e-12)


@pytest.mark.parametrize("within", [0.0, 1.0])
def test_gda_with_a_covariance_like_the_identity_is_nearest_class_mean(within: float) -> None:
    means = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(4)).double()
    weight, bias = discriminant(means, within * torch.eye(DIM, dtype=torch.float64), rows=20)
    rows, _ = make_rows(dtype=torch.float64)
    scores = rows @ weight.T + bias
    distances = torch.cdist(rows, means).square()
    slope = scores[:, :1] - scores
    torch.testing.assert_close(slope / slope[0, 1], (distances - distances[:, :1]) / (
        distances[0, 1] - distances[0, 0]))  # fmt: skip


def test_gda_survives_fewer_rows_than_dimensions_and_equal_channels() -> None:
    context = HeadContext(64, 3, torch.tensor([2, 1, 1]))
    features = torch.ones(4, 64)
    features[:, 0] = torch.tensor([0.0, 0.1, 1.0, -1.0])
    head = HEADS["gda"](context)
    head.fit(features, torch.tensor([0, 0, 1, 2]), None, context)
    assert head(features).argmax(1).tolist() == [0, 0, 1, 2]


def test_zero_shot_in_both_spaces() -> None:
    head, features, _ = _double("zero_shot")
    expected = 20 * _unit(features) @ _texts().T
    np.testing.assert_allclose(_logits(head, features), expected, rtol=1e-12)
    context = make_context(pooled=True)
    assert context.projection is not None and context.text_features is not None
    pooled = started("zero_shot", context).double()
    rows = _unit(features @ context.projection.double().numpy())
    expected = 20 * rows @ context.text_features.double().numpy().T
    np.testing.assert_allclose(_logits(pooled, features), expected, rtol=1e-12)
    hot = started("zero_shot", scale=3.0)
    torch.testing.assert_close(hot(make_rows()[0]) / 3, started("zero_shot")(make_rows()[0]) / 20)


def test_texts_of_another_space_are_refused() -> None:
    joint = HeadContext(
        7, CLASSES, torch.ones(CLASSES), text_features=make_context().text_features, logit_scale=9.0
    )
    rows = torch.randn(20, 7), make_rows()[1]
    for name in ("zero_shot", "gda", "tip_adapter"):
        with pytest.raises(FitError, match="do not fit features of dimension 7"):
            HEADS[name](joint).fit(*rows, None, joint)
    scaleless = HeadContext(6, CLASSES, torch.ones(CLASSES), make_context().text_features)
    with pytest.raises(FitError, match="no logit_scale"):
        HEADS["zero_shot"](scaleless)


@pytest.mark.parametrize("variant", ["code", "poster"])
def test_ballad_adapter_against_its_formula(variant: str) -> None:
    head = started("ballad_adapter", variant=variant, ratio=0.3).double()
    features = make_rows(dtype=torch.float64)[0].numpy()
    p = _parameters(head)
    adapted = features @ p["adapter"].T
    if variant == "poster":
        adapted = np.maximum(adapted + p["adapter_bias"], 0)
    mixed = 0.3 * adapted + 0.7 * features
    np.testing.assert_allclose(_logits(head, features), 20 * _unit(mixed) @ _texts().T, rtol=1e-12)
    representation = head.represent(torch.from_numpy(features))[0].detach().numpy()
    np.testing.assert_allclose(representation, mixed, rtol=1e-12)
    assert [n for n, _ in head.named_parameters()] == [n for n in p if n.startswith("adapter")]


def test_ballad_adapter_without_its_share_is_zero_shot_with_any_classifier() -> None:
    features, _ = make_rows()
    zero_shot = started("zero_shot")(features)
    for classifier in ("text", "cosine"):
        head = started("ballad_adapter", ratio=0.0, classifier=classifier)
        torch.testing.assert_close(head(features), zero_shot)
    linear = started("ballad_adapter", ratio=0.0, classifier="linear")
    lengths = features.norm(dim=1, keepdim=True)
    torch.testing.assert_close(linear(features), lengths * zero_shot)


def test_ballad_adapter_goes_on_with_another_classifier() -> None:
    features, _ = make_rows()
    before = disturbed(started("ballad_adapter"))
    for classifier in ("text", "cosine"):
        head = HEADS["ballad_adapter"](make_context(), classifier=classifier)
        head.adopt(before)
        torch.testing.assert_close(head(features), before(features))
    again = HEADS["ballad_adapter"](make_context(), classifier="cosine")
    again.adopt(disturbed(head))
    torch.testing.assert_close(again(features), head(features))
    with pytest.raises(FitError, match="cannot start from another head"):
        HEADS["ballad_adapter"](make_context(), variant="poster").adopt(before)


def _tip(
    x: np.ndarray, keys: np.ndarray, owner: np.ndarray, alpha: float, beta: float, factor: Any
) -> np.ndarray:
    values = np.eye(CLASSES)[owner] * factor
    return 20 * x @ _texts().T + alpha * np.exp(-beta * (1 - x @ keys.T)) @ values


@pytest.mark.parametrize("balanced", [True, False])
def test_tip_adapter_against_its_formula(balanced: bool) -> None:
    head, features, labels = _double("tip_adapter", alpha=2.0, beta=5.5, shots=4, balanced=balanced)
    x = _unit(features)
    index = np.concatenate(
        [
            np.flatnonzero(labels == c)[np.arange(min(n, 4)) * n // min(n, 4)]
            for c, n in enumerate(COUNTS)
        ]
    )
    factor = 4 / np.minimum(COUNTS, 4) if balanced else 1.0
    expected = _tip(x, x[index], labels[index], 2.0, 5.5, factor)
    np.testing.assert_allclose(_logits(head, features), expected, rtol=1e-10)
    assert head.residual == (0.0 if balanced else None)


def test_tip_adapter_with_full_classes_is_the_published_sum() -> None:
    context = make_context()
    features, labels = make_rows(dtype=torch.float64)[0], torch.arange(20) % CLASSES
    logits = []
    for balanced in (True, False):
        head = HEADS["tip_adapter"](context, shots=4, balanced=balanced).double()
        head.fit(features, labels, None, context)
        logits.append(head(features))
    torch.testing.assert_close(*logits)


def test_tip_adapter_limits_are_zero_shot_and_the_nearest_key() -> None:
    head, features, labels = _double("tip_adapter", alpha=0.0)
    zero_shot, _, _ = _double("zero_shot")
    np.testing.assert_allclose(_logits(head, features), _logits(zero_shot, features), rtol=1e-12)
    generator = np.random.default_rng(0)
    new = generator.normal(size=(50, DIM))
    sharp, _, _ = _double("tip_adapter", alpha=1.0, beta=300.0, scale=0.0, balanced=False)
    nearest = labels[(_unit(new) @ _unit(features).T).argmax(1)]
    assert (_logits(sharp, new).argmax(1) == nearest).all()


def test_tip_adapter_f_trains_the_keys_that_tip_adapter_stores() -> None:
    features, labels = make_rows()
    stored, trained = started("tip_adapter"), started("tip_adapter_f")
    torch.testing.assert_close(trained(features), stored(features))
    assert [n for n, _ in trained.named_parameters()] == ["keys"]
    optimiser = torch.optim.SGD(trained.parameters(), lr=1.0)
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(trained(features), labels)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < losses[0]


def test_kept_rows_are_spaced_over_each_class() -> None:
    labels = torch.tensor([0] * 10 + [1] * 3 + [3])
    assert spaced_rows(labels, 4, 4).tolist() == [0, 2, 5, 7, 10, 11, 12, 13]
    shuffled = torch.tensor([1, 0, 1, 0, 0])
    assert spaced_rows(shuffled, 2, 2).tolist() == [1, 3, 0, 2]
    assert spaced_rows(shuffled, 2, 9).tolist() == [1, 3, 4, 0, 2]


@pytest.mark.parametrize("balanced", [True, False])
def test_knn_votes(balanced: bool) -> None:
    head, features, labels = _double("knn", k=6, temperature=0.3, balanced=balanced)
    x = _unit(features)
    near = x @ x.T
    expected = np.zeros((20, CLASSES))
    for row, neighbours in enumerate(np.argsort(-near, axis=1)[:, :6]):
        for i in neighbours:
            vote = np.exp(near[row, i] / 0.3) / (COUNTS[labels[i]] if balanced else 1)
            expected[row, labels[i]] += vote
    expected /= expected.sum(1, keepdims=True)
    found = np.exp(_logits(head, features))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1)
    assert head.residual == (0.0 if balanced else 1.0)
    with pytest.raises(FitError, match="must be positive"):
        HEADS["knn"](make_context(), k=0)


def test_one_neighbour_decides_alone() -> None:
    head, features, labels = _double("knn", k=1)
    assert (_logits(head, features).argmax(1) == labels).all()


def test_experts_start_as_their_classifiers_and_then_differ() -> None:
    features = make_rows(dtype=torch.float64)[0].numpy()
    head = started("experts", how="random", experts=4).double()
    p = _parameters(head)
    plain = np.stack([features @ p["weight"][e].T for e in range(4)])
    np.testing.assert_allclose(_logits(head, features), plain.mean(0), rtol=1e-10, atol=1e-12)
    assert np.abs(plain[0] - plain[1]).max() > 0.1
    p = _parameters(disturbed(head))
    for e in range(4):
        b = {n: p[n].reshape(4, -1)[e] for n in ("down_bias", "up_bias", "bias_vector")}
        hidden = np.maximum(features @ p["down"][e].T + b["down_bias"], 0)
        rows = features + hidden @ p["up"][e].T + b["up_bias"]
        plain[e] = rows @ p["weight"][e].T + b["bias_vector"]
    np.testing.assert_allclose(_logits(head, features), plain.mean(0), rtol=1e-10)


def test_experts_from_equal_texts_part_by_training() -> None:
    features, labels = make_rows()
    head = started("experts", how="text", classifier="cosine").train()
    first = head.classify(head.represent(features))
    torch.testing.assert_close(first[0], first[2])
    optimiser = torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(3):
        experts = head.classify(head.represent(features))
        sum(F.cross_entropy(z, labels) for z in experts).backward()
        optimiser.step()
        optimiser.zero_grad()
    assert (experts[0] - experts[2]).abs().max() > 1e-3
    biases = [p for n, p in started("experts").named_parameters() if "bias" in n]
    assert len(biases) == 3 and all(p.ndim == 1 for p in biases), "biases must not decay"
    with pytest.raises(FitError, match="at least 1"):
        HEADS["experts"](make_context(), experts=0)


def test_reslt_against_its_formula_in_training_and_at_test() -> None:
    head = disturbed(started("reslt")).double()
    features = make_rows(dtype=torch.float64)[0].numpy()
    p = _parameters(head)
    rows = features @ p["branches"].T
    norm = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
    norm = np.maximum(norm * p["norm.weight"] + p["norm.bias"], 0)
    branches = np.split(norm, 3, axis=1)
    expected = sum(branch @ p["weight"].T for branch in branches)
    np.testing.assert_allclose(_logits(head.train(), features), expected, rtol=1e-8, atol=1e-10)
    p = _parameters(head.eval())
    rows = (rows - p["norm.running_mean"]) / np.sqrt(p["norm.running_var"] + 1e-5)
    rows = np.maximum(rows * p["norm.weight"] + p["norm.bias"], 0)
    weight = p["weight"] / np.linalg.norm(p["weight"], axis=1, keepdims=True) ** 0.7
    expected = sum(branch @ weight.T for branch in np.split(rows, 3, axis=1))
    np.testing.assert_allclose(_logits(head, features), expected, rtol=1e-10)
    head.gamma = 0.0
    expected = sum(branch @ p["weight"].T for branch in np.split(rows, 3, axis=1))
    np.testing.assert_allclose(_logits(head, features), expected, rtol=1e-10)


def test_sg_attention_starts_as_its_classifier_and_follows_its_formula() -> None:
    features = make_rows(dtype=torch.float64)[0].numpy()
    head = started("sg_attention", how="text", bottleneck=3).double()
    zero_shot = 25 * _unit(features) @ _texts().T
    np.testing.assert_allclose(_logits(head, features), zero_shot, rtol=1e-6, atol=1e-6)
    p = _parameters(disturbed(head))
    texts = p["context_directions"]
    scores = _unit(features) @ p["query"].T @ (texts @ p["key"].T).T / 0.05
    attention = np.exp(scores - scores.max(1, keepdims=True))
    attention /= attention.sum(1, keepdims=True)
    mixed = attention @ (texts @ p["value"].T) @ p["output"].T
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    expected = features + p["gamma"] * lengths * mixed
    found = head.represent(torch.from_numpy(features))[0].detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_sg_attention_reads_the_texts_from_the_first_step() -> None:
    """With a bottleneck as wide as the texts span, attention is that of the cosines themselves."""
    head = started("sg_attention", how="text")
    with torch.no_grad():
        head.gamma.fill_(1.0)
    features, _ = make_rows()
    x = F.normalize(features, dim=1)
    texts = make_context().text_features
    assert texts is not None
    mixed = torch.softmax(x @ texts.T / 0.05, dim=1) @ texts
    added = (head.represent(features)[0] - features) / features.norm(dim=1, keepdim=True)
    torch.testing.assert_close(added, mixed, atol=1e-5, rtol=1e-4)


def _tokens(count: int) -> torch.Tensor:
    return torch.randn(4, count, DIM, generator=torch.Generator().manual_seed(5)).double()


def _convolved(field: np.ndarray, kernel: np.ndarray, bias: np.ndarray, step: int) -> np.ndarray:
    """Depthwise convolution of (H, W, D) with (D, k, k), zero outside, taps ``step`` apart."""
    height, width, _ = field.shape
    reach = kernel.shape[1] // 2
    result = np.tile(bias, (height, width, 1))
    for i, j, a, b in np.ndindex(height, width, 2 * reach + 1, 2 * reach + 1):
        y, x = i + step * (a - reach), j + step * (b - reach)
        if 0 <= y < height and 0 <= x < width:
            result[i, j] += kernel[:, a, b] * field[y, x]
    return result


@pytest.mark.parametrize("grid", [(4, 5), (2, 10)])  # of the second, kernels pass the border
def test_visual_attention_is_an_identity_at_first_then_a_gate(grid: tuple[int, int]) -> None:
    options = {"grid": grid, "class_token": True, "kernel": 9, "dilation": 3}
    head = HEADS["visual_attention"](make_context(), **options).double()
    tokens = _tokens(21)
    assert torch.equal(head.gated(tokens), tokens)
    torch.testing.assert_close(head.represent(tokens)[0], tokens[:, 1:].mean(1))
    p = _parameters(disturbed(head))
    gated = head.gated(tokens).detach().numpy()
    for before, after in zip(tokens.numpy(), gated, strict=True):
        field = before[1:].reshape(*grid, DIM)
        gate = _convolved(field, p["near.weight"][:, 0], p["near.bias"], 1)
        gate = _convolved(gate, p["far.weight"][:, 0], p["far.bias"], 3)
        gate = gate @ p["pointwise.weight"][:, :, 0, 0].T + p["pointwise.bias"]
        np.testing.assert_allclose(after[1:].reshape(*grid, DIM), gate * field, rtol=1e-10)
        assert (after[0] == before[0]).all(), "the class token is not gated"


def test_visual_attention_kernels_are_those_of_van() -> None:
    head = HEADS["visual_attention"](make_context())
    assert head.near.kernel_size == (5, 5) and head.near.groups == DIM
    assert head.far.kernel_size == (7, 7) and head.far.dilation == (3, 3)


def test_the_rest_of_the_encoder_reads_the_gated_class_token() -> None:
    context = make_context()
    options = {"class_token": True, "pool": "class_token", "width": 4}
    head = HEADS["visual_attention"](context, **options).double()
    tokens = _tokens(10)
    with pytest.raises(FitError, match="rest of the encoder"):
        head(tokens)
    mixing = torch.nn.Linear(DIM, 4).double()
    head.attach(lambda t: mixing(t.mean(dim=1, keepdim=True).expand_as(t)))
    assert head.represent(tokens).shape == (1, 4, 4)
    head.attach(mixing)
    assert head.rest is mixing and "mixing" not in "".join(head.state_dict())
    assert sum(p.numel() for p in head.parameters()) == sum(
        v.numel() for v in head.state_dict().values()
    )
    joint = HeadContext(
        DIM, CLASSES, context.class_counts, torch.eye(CLASSES, 4), torch.ones(DIM, 4), 20.0
    )
    head.initialise("text", tokens, torch.arange(4), torch.Generator(), joint)
    assert torch.equal(head.weight.detach(), torch.eye(CLASSES, 4).double())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": 20, "dilation": 5}, "no odd kernel"),
        ({"pool": "class_token"}, "class_token=true"),
        ({"pool": "max"}, "mean, class_token"),
    ],
)
def test_visual_attention_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FitError, match=message):
        HEADS["visual_attention"](make_context(), **options)


def test_visual_attention_refuses_what_is_no_map() -> None:
    head = HEADS["visual_attention"](make_context())
    with pytest.raises(FitError, match="8 tokens are no map of 2 x 2"):
        head(torch.zeros(2, 8, DIM))
    with pytest.raises(FitError, match="needs tokens"):
        head(torch.zeros(2, DIM))


def test_unknown_choices_are_refused_with_those_known() -> None:
    for name, option in (
        ("ncm", "variant"),
        ("experts", "classifier"),
        ("lws", "classifier"),
        ("ballad_adapter", "variant"),
    ):
        with pytest.raises(FitError, match=f"head.{option}='best' is none of"):
            HEADS[name](make_context(), **{option: "best"})
