"""VL-LTR's head and its anchor sentences against plain references and limits."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.heads import HEADS, HeadContext, LanguageGuidedHead, anchor_sentences, zero_shot_logits

CLASSES, MOST, DIM, ROWS, SCALE = 4, 5, 6, 30, 12.0
COUNT = [5, 3, 1, 4]


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def _sentences() -> Tensor:
    rows = F.normalize(_draw(CLASSES, MOST, DIM, seed=1), dim=2)
    for label, count in enumerate(COUNT):
        rows[label, count:] = 0
    return rows


LABELS = torch.arange(ROWS) % CLASSES
FEATURES = 3 * _draw(ROWS, DIM, seed=2)
MEANS = F.normalize(_sentences().sum(dim=1), dim=1)
CONTEXT = HeadContext(
    DIM, CLASSES, torch.bincount(LABELS), text_features=MEANS, logit_scale=SCALE,
    sentences=_sentences(),
)  # fmt: skip


def _started(context: HeadContext = CONTEXT, **options: float) -> LanguageGuidedHead:
    head = LanguageGuidedHead(context, **options).double()
    head.initialise("random", FEATURES, LABELS, Generator().manual_seed(3), context)
    return head.eval()


def _layer_norm(x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5)


def test_the_logits_of_the_sentences_are_their_formula() -> None:
    head = _started()
    with torch.no_grad():
        head.query.add_(0.3 * _draw(DIM, DIM, seed=4))
        head.key.add_(0.3 * _draw(DIM, DIM, seed=5))
    query, key, texts = head.query.detach().numpy(), head.key.detach().numpy(), _sentences().numpy()
    found = head.text_logits(FEATURES).detach().numpy()
    for row, f in enumerate(FEATURES.numpy()):
        for label, count in enumerate(COUNT):
            own = texts[label, :count]
            scores = [query @ _layer_norm(f) @ (key @ _layer_norm(k)) / math.sqrt(DIM) for k in own]
            weights = np.exp(scores - np.max(scores))
            v = weights / weights.sum() @ own
            wanted = SCALE * f @ v / np.linalg.norm(f) / np.linalg.norm(v)
            assert found[row, label] == pytest.approx(wanted, abs=1e-5)  # sentences are float32


def test_the_prediction_is_a_mean_of_probabilities() -> None:
    head = _started(alpha=0.3)
    plain, text = head.classify(head.represent(FEATURES)).detach().softmax(dim=2)
    torch.testing.assert_close(head(FEATURES).detach().exp(), 0.3 * plain + 0.7 * text)


@pytest.mark.parametrize(("alpha", "which"), [(1.0, 0), (0.0, 1)])
def test_either_classifier_alone(alpha: float, which: int) -> None:
    head = _started(alpha=alpha)
    alone = head.classify(head.represent(FEATURES))[which].detach()
    torch.testing.assert_close(head(FEATURES).detach(), alone.log_softmax(dim=1))


def test_one_sentence_a_class_is_zero_shot() -> None:
    head = _started(replace(CONTEXT, sentences=None))
    wanted = zero_shot_logits(FEATURES.float(), MEANS.float(), None, SCALE)
    torch.testing.assert_close(head.text_logits(FEATURES).detach().float(), wanted)


def test_anchors_are_those_that_the_images_of_the_class_are_likely_for() -> None:
    found, there = anchor_sentences(_sentences(), FEATURES, LABELS, scale=SCALE, most=2)
    rows = F.normalize(FEATURES, dim=1).numpy()
    for label, count in enumerate(COUNT):
        scores = []
        for sentence in _sentences()[label, :count].numpy():
            logits = SCALE * rows @ sentence
            log_p = logits - np.log(np.exp(logits).sum())
            scores.append(-log_p[LABELS.numpy() == label].mean())
        wanted = _sentences()[label][np.argsort(scores)[:2]]
        assert there[label].tolist() == [True] * min(2, count) + [False] * (2 - min(2, count))
        torch.testing.assert_close(found[label][there[label]], wanted)


def test_with_room_for_all_every_sentence_stays() -> None:
    found, there = anchor_sentences(_sentences(), FEATURES, LABELS, scale=SCALE, most=MOST)
    assert torch.equal(found, _sentences())
    assert there.sum(dim=1).tolist() == COUNT


def test_a_class_without_images_keeps_its_first_sentences() -> None:
    some = LABELS != 0
    found, _ = anchor_sentences(_sentences(), FEATURES[some], LABELS[some], scale=SCALE, most=2)
    assert torch.equal(found[0], _sentences()[0, :2])


def test_pooled_features_meet_the_sentences_in_their_own_space() -> None:
    projection = _draw(8, DIM, seed=6)
    context = replace(CONTEXT, dim=8, projection=projection)
    found = context.sentence_directions().double()
    wanted = F.normalize(_sentences() @ projection.T, dim=2)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    assert not found[2, 1:].any()


def test_what_it_refuses() -> None:
    for options in ({"alpha": 1.5}, {"anchors": 0}):
        with pytest.raises(FitError, match=r"head\.alpha=.* anchors="):
            HEADS["language_guided"](CONTEXT, **options)
