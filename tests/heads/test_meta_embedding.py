"""OLTR's meta-embedding against plain loops, its limits, and what it takes over."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call

from ltcache.errors import FitError
from ltcache.heads import HEADS, MetaEmbeddingHead, TokenMap
from tests.heads.started import CLASSES, DIM, disturbed, make_context, make_rows, started


def _head(**options: Any) -> MetaEmbeddingHead:
    head = disturbed(started("meta_embedding", **options)).double()
    assert isinstance(head, MetaEmbeddingHead)
    return head


def _softmax(z: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in z)
    return [math.exp(v) / total for v in z]


def _reference(head: MetaEmbeddingHead, v: list[float]) -> list[float]:
    """Return the logits of one row in plain loops."""
    p = {name: value.tolist() for name, value in head.state_dict().items()}
    recalled = _softmax(
        [
            sum(a * b for a, b in zip(p["recall_weight"][c], v, strict=True)) + p["recall_bias"][c]
            for c in range(CLASSES)
        ]
    )
    u = []
    nearest = min(math.dist(v, centroid) for centroid in p["memory"])
    for d in range(DIM):
        m = sum(recalled[c] * p["memory"][c][d] for c in range(CLASSES))
        e = math.tanh(
            sum(p["select_weight"][d][k] * v[k] for k in range(DIM)) + p["select_bias"][d]
        )
        u.append(10 / nearest * (v[d] + e * m))
    length = math.hypot(*u)
    return [
        16 * sum(u[d] / (1 + length) * w[d] / math.hypot(*w) for d in range(DIM))
        for w in p["weight"]
    ]


def test_logits_are_those_of_the_formula() -> None:
    head, rows = _head(), make_rows(dtype=torch.float64)[0]
    wanted = [_reference(head, row) for row in rows.tolist()]
    np.testing.assert_allclose(head(rows).detach().numpy(), wanted, rtol=1e-12)


def test_what_selects_nothing_scales_the_feature_alone() -> None:
    head, rows = _head(), make_rows(dtype=torch.float64)[0]
    with torch.no_grad():
        head.select_weight.zero_()
        head.select_bias.zero_()
    torch.testing.assert_close(head.embed(rows), head.reachability(rows) * rows)


def test_without_memory_it_is_a_squashed_cosine_classifier() -> None:
    head, rows = _head(meta=False), make_rows(dtype=torch.float64)[0]
    lengths = rows.norm(dim=1, keepdim=True)
    cosine = rows / lengths @ (head.weight / head.weight.norm(dim=1, keepdim=True)).T
    torch.testing.assert_close(head(rows), 16 * lengths / (1 + lengths) * cosine)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_on_its_centroid_has_a_bounded_reach(dtype: torch.dtype) -> None:
    head = _head().to(dtype)
    on_it = head.memory.detach().clone().requires_grad_()
    torch.testing.assert_close(head.reachability(on_it), torch.full((CLASSES, 1), 1e7, dtype=dtype))
    logits = head(on_it)
    logits.sum().backward()
    assert torch.isfinite(logits).all() and (logits.abs() <= 16).all()
    assert on_it.grad is not None and torch.isfinite(on_it.grad).all()
    near = on_it.detach() + 0.01 / math.sqrt(DIM)
    expected = torch.full((CLASSES, 1), 1000.0, dtype=dtype)
    torch.testing.assert_close(head.reachability(near), expected, rtol=1e-3, atol=0)


def test_the_memory_starts_as_class_means_and_gets_no_gradient_from_logits() -> None:
    head = started("meta_embedding")
    rows, labels = make_rows()
    means = torch.stack([rows[labels == c].mean(dim=0) for c in range(CLASSES)])
    torch.testing.assert_close(head.memory.detach(), means)
    head(rows).sum().backward()
    assert head.memory.grad is None and head.recall_weight.grad is not None


def test_it_recalls_by_the_linear_head_before_it() -> None:
    previous = disturbed(started("linear"))
    head = HEADS["meta_embedding"](make_context())
    head.adopt(previous)
    assert torch.equal(head.recall_weight, previous.weight)
    assert torch.equal(head.recall_bias, previous.bias_vector)
    head.adopt(started("linear", bias=False))
    assert not head.recall_bias.any()
    again = HEADS["meta_embedding"](make_context())
    again.adopt(before := _head().float())
    rows = make_rows()[0]
    assert torch.equal(again(rows), before(rows))


def test_what_it_refuses() -> None:
    head = HEADS["meta_embedding"](make_context())
    with pytest.raises(FitError, match="stage before has a CosineHead: set stages.0.head=linear"):
        head.adopt(started("cosine"))
    rows, labels = make_rows()
    with pytest.raises(FitError, match="gets no features here: it is trained on a cache"):
        head.initialise("random", rows[:0], labels[:0], torch.Generator(), make_context())
    with pytest.raises(FitError, match="not a ExpertsHead"):
        head.adopt(started("experts"))
    with pytest.raises(FitError, match=r"head\.reach=0\.0 must be positive"):
        HEADS["meta_embedding"](make_context(), reach=0.0)


GRID, WIDTH = (2, 3), 4
END = torch.randn(WIDTH, DIM, generator=torch.Generator().manual_seed(8), dtype=torch.float64)


def _rest(tokens: torch.Tensor) -> torch.Tensor:
    """Return a class token and the mean of the map, brought to another width."""
    return (tokens[:, 0] + tokens[:, 1:].mean(dim=1)) @ END.to(tokens).T


def _on_tokens(**options: Any) -> tuple[MetaEmbeddingHead, torch.Tensor]:
    """Return a head that has just started, and tokens, a class token before a map of 2 x 3."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randn(20, 7, DIM, generator=generator, dtype=torch.float64)
    context = replace(make_context(), tokens=TokenMap(GRID, True, WIDTH, _rest))
    head = MetaEmbeddingHead(context, **options).double()
    head.initialise("random", tokens, make_rows()[1], generator, context)
    return head.eval(), tokens


def test_the_attention_starts_as_an_exact_identity() -> None:
    head, tokens = _on_tokens(attention=True)
    assert torch.equal(head.represent(tokens)[0], _rest(tokens))
    plain, _ = _on_tokens()
    assert torch.equal(plain.represent(tokens), head.represent(tokens))
    assert torch.equal(plain.memory, head.memory) and head.memory.shape == (CLASSES, WIDTH)


def test_the_attention_is_that_of_the_formula() -> None:
    head, tokens = _on_tokens(attention=True)
    disturbed(head, 0.5)
    p = {k.removeprefix("modulated."): v.tolist() for k, v in head.state_dict().items()}

    def layer(name: str, row: list[float]) -> list[float]:
        products = [sum(a * b for a, b in zip(w, row, strict=True)) for w in p[f"{name}.weight"]]
        return [a + b for a, b in zip(products, p[f"{name}.bias"], strict=True)]

    expected = []
    for row in tokens.tolist():
        field = row[1:]
        theta, phi, value = ([layer(n, x) for x in field] for n in ("theta", "phi", "value"))
        where = _softmax(layer("spatial", [number for x in field for number in x]))
        changed = []
        for t, x in enumerate(field):
            near = _softmax([sum(a * b for a, b in zip(theta[t], o, strict=True)) for o in phi])
            mixed = [sum(n * v[k] for n, v in zip(near, value, strict=True)) for k in range(3)]
            mask = layer("mask", mixed)
            changed.append([a + where[t] * b for a, b in zip(x, mask, strict=True)])
        expected.append([row[0], *changed])
    found = head.represent(tokens)[0].detach().numpy()
    np.testing.assert_allclose(
        found, _rest(torch.tensor(expected, dtype=torch.float64)).numpy(), atol=1e-12
    )


def test_the_attention_learns_and_its_gradient_is_right() -> None:
    head, tokens = _on_tokens(attention=True)
    disturbed(head, 0.1)
    assert head.modulated is not None
    trained = {f"modulated.{n}": p for n, p in head.modulated.named_parameters()}
    values = [p.detach().requires_grad_() for p in trained.values()]

    def logits(*moved: torch.Tensor) -> torch.Tensor:
        return functional_call(head, dict(zip(trained, moved, strict=True)), (tokens[:2],))

    assert torch.autograd.gradcheck(logits, tuple(values))


def test_an_attention_needs_tokens_and_what_follows_them() -> None:
    with pytest.raises(FitError, match="--fields tokens"):
        started("meta_embedding", attention=True)
    context = replace(make_context(), tokens=TokenMap(GRID, True, WIDTH))
    with pytest.raises(FitError, match="the rest of the encoder"):
        MetaEmbeddingHead(context)(torch.zeros(2, 7, DIM))
