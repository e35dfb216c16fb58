"""BALLAD's contrastive loss against a plain reference and against open_clip's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ltcache.finetune.contrastive import supervised_contrastive

SCALE = 14.3


def embeddings(rows: int, dims: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(2, rows, dims, generator=generator, dtype=torch.float64)
    return 3 * both[0], both[1] / 5


def plain(image: Tensor, text: Tensor, labels: list[int], scale: float) -> float:
    """Return the loss by loops over pairs, one number at a time."""

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    images, texts = image.tolist(), text.tolist()
    rows, total = range(len(labels)), 0.0
    for anchors, others in ((images, texts), (texts, images)):
        for i in rows:
            scores = [math.exp(scale * cosine(anchors[i], others[j])) for j in rows]
            positives = [j for j in rows if labels[j] == labels[i]]
            total -= sum(math.log(scores[j] / sum(scores)) for j in positives) / len(positives)
    return total / len(labels)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 4], [2, 0, 2, 2, 1, 0], [5, 5, 5], [7]])
@pytest.mark.parametrize("by_class", [True, False])
def test_equals_a_plain_reference(labels: list[int], by_class: bool) -> None:
    image, text = embeddings(len(labels))
    if by_class:  # one text for each class, as in training; else each row has words of its own
        text = embeddings(8, seed=1)[1][labels]
    value = supervised_contrastive(image, text, torch.tensor(labels), SCALE)
    assert value.dtype == torch.float64
    assert float(value) == pytest.approx(plain(image, text, labels, SCALE), rel=1e-12, abs=1e-12)


def plain_of_vl_ltr(
    image: Tensor,
    text: Tensor,
    labels: list[int],
    scale: float,
    e: float,
    b: float,
    teacher: Tensor,
) -> float:
    """Return twice VL-LTR's loss by loops: the sum of both directions, one number at a time."""

    def softmax(row: list[float]) -> list[float]:
        return [math.exp(z) / sum(map(math.exp, row)) for z in row]

    unit = [
        [[x / math.hypot(*row) for x in row] for row in part.tolist()] for part in (image, text)
    ]
    count, total = len(labels), 0.0
    scores = [
        [scale * sum(map(math.prod, zip(x, t, strict=True))) for t in unit[1]] for x in unit[0]
    ]
    known = teacher.tolist()
    for z, taught in (
        (scores, known),
        (list(zip(*scores, strict=True)), list(zip(*known, strict=True))),
    ):
        for i in range(count):
            found, aim = softmax(list(z[i])), softmax(list(taught[i]))
            same = [float(labels[i] == labels[j]) for j in range(count)]
            for j in range(count):
                target = (1 - e) * same[j] / sum(same) + e / count
                total -= ((1 - b) * target + b * aim[j]) * math.log(found[j]) / count
    return total


@pytest.mark.parametrize(("smoothing", "distillation"), [(0.1, 0.5), (0.3, 0.0), (0.0, 1.0)])
def test_smoothing_and_distillation_equal_a_plain_reference(
    smoothing: float, distillation: float
) -> None:
    labels = [2, 0, 2, 2, 1, 0]
    image, text = embeddings(len(labels))
    teacher = 5 * torch.randn(6, 6, generator=torch.Generator().manual_seed(4)).double()
    given = {"smoothing": smoothing, "distillation": distillation}
    value = supervised_contrastive(
        image, text, torch.tensor(labels), SCALE, **given, teacher_logits=teacher
    )
    expected = plain_of_vl_ltr(image, text, labels, SCALE, smoothing, distillation, teacher)
    assert float(value) == pytest.approx(expected, rel=1e-12)


def test_is_twice_clip_loss_where_all_classes_differ() -> None:
    from open_clip.loss import ClipLoss

    image, text = (torch.nn.functional.normalize(x, dim=1) for x in embeddings(9))
    image, text = image.requires_grad_(), text.requires_grad_()
    scale = torch.tensor(SCALE, dtype=torch.float64, requires_grad=True)
    value = supervised_contrastive(image, text, torch.arange(9), scale)
    clip = 2 * ClipLoss()(image, text, scale)
    torch.testing.assert_close(value, clip, rtol=1e-13, atol=0)
    ours = torch.autograd.grad(value, [scale])
    theirs = torch.autograd.grad(clip, [scale])
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_gradients_are_those_of_differences() -> None:
    image, text = (x.requires_grad_() for x in embeddings(5))
    labels = torch.tensor([0, 1, 0, 2, 1])
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, t, s: supervised_contrastive(x, t, labels, s), (image, text, scale)
    )


def test_autocast_and_half_precision_do_not_reach_it() -> None:
    image, text = (x.float() for x in embeddings(6))
    labels = torch.tensor([0, 1, 0, 2, 1, 3])
    exact = supervised_contrastive(image, text, labels, 100.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(supervised_contrastive(image, text, labels, 100.0), exact)
    rough = supervised_contrastive(image.half(), text.half(), labels, 100.0)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=1e-2, atol=1e-2)


def test_no_overflow_at_clips_scale() -> None:
    image = torch.eye(4)
    labels = torch.arange(4)
    assert float(supervised_contrastive(image, image, labels, 100.0)) == pytest.approx(0, abs=1e-6)
    wrong = supervised_contrastive(image, -image, labels, 1000.0)
    assert float(wrong) == pytest.approx(2 * (1000 + math.log(3)), rel=1e-6)
