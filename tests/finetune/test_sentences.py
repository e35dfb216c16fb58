"""VL-LTR's first stage: which sentences are drawn, what is learnt from them, and what it feeds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ltcache.cache import open_cache
from ltcache.encoder import load_encoder
from ltcache.errors import UsageError
from ltcache.extract import extract
from ltcache.finetune import TUNINGS, finetune_cache, override_tuning
from ltcache.finetune.assembly import ComputeOptions, assemble
from ltcache.finetune.objective import TuningObjective
from ltcache.finetune.processes import ProcessRanks
from ltcache.finetune.spec import CONTRASTIVE, ObjectiveTerm
from ltcache.finetune.step import TrainingStep, accumulate
from ltcache.fit import fit_adapter
from ltcache.manifest import Manifest
from tests.finetune.conftest import Tune

COUNTS = torch.tensor([14.0, 6.0, 3.0])
LABELS = torch.tensor([0, 0, 1, 2, 1, 0, 0])
NONE = {"loss.templates": "none"}
PLAIN = {**NONE, "loss.smoothing": 0, "loss.distillation": 0}


def described(pictures: Manifest) -> Manifest:
    """Return the manifest with several sentences of two classes."""
    said = {0: ("orange, with a bushy tail", "it hunts mice"), 2: ("small and wet",)}
    return replace(pictures, descriptions=said)


def built(manifest: Manifest, model: str, overrides: dict[str, Any], seed: int = 0) -> TrainingStep:
    tuning = override_tuning(TUNINGS["vl-ltr"], overrides)
    place = ProcessRanks(torch.device("cpu"))
    encoder = load_encoder(model, device="cpu")
    means = ComputeOptions(workers=0)
    return assemble(manifest, tuning, encoder, place, seed=seed, means=means).step


def pixels() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (7, 3, 32, 32), generator=generator, dtype=torch.uint8)


def gradients(step: TrainingStep) -> tuple[float, dict[str, Tensor]]:
    step.begin_step(0)
    value = accumulate(
        step, pixels(), LABELS, micro_batch=7, progress=0.0,
        backward=lambda loss: loss.backward(), seeded=lambda number: None,
    )  # fmt: skip
    found = {n: p.grad for n, p in step.named_parameters() if p.grad is not None}
    return float(value), found


def test_each_image_has_a_sentence_of_its_class_and_all_come(
    pictures: Manifest, towers: dict[str, str]
) -> None:
    step = built(described(pictures), towers["vit"], NONE)
    sentences, encoder = step.sentences, load_encoder(towers["vit"], device="cpu")
    assert sentences is not None
    said = [
        [f"a photo of a {name}.", *more]
        for name, more in zip(
            pictures.classes.names,
            (("orange, with a bushy tail", "it hunts mice"), (), ("small and wet",)),
            strict=True,
        )
    ]
    known = [F.normalize(encoder.encode_texts(texts), dim=1) for texts in said]
    drawn: Counter[tuple[int, int]] = Counter()
    for number in range(150):
        step.begin_step(number)
        with torch.no_grad():
            rows = sentences.rows(LABELS)
            assert torch.equal(rows, sentences.rows(LABELS))  # the same in a second pass
        for row, label in zip(rows, LABELS.tolist(), strict=True):
            near = (known[label] - row).abs().amax(dim=1)
            assert float(near.min()) < 1e-5
            drawn[label, int(near.argmin())] += 1
    for label, texts in enumerate(said):
        total = 150 * int((label == LABELS).sum())
        for number in range(len(texts)):
            assert abs(drawn[label, number] - total / len(texts)) < 4 * (total / 4) ** 0.5


def test_the_teacher_reads_the_same_sentences(pictures: Manifest, towers: dict[str, str]) -> None:
    """Before the first step it is the encoder itself, so that its logits are the step's."""
    step = built(described(pictures), towers["vit"], {})
    step.begin_step(3)
    assert step.sentences is not None and step.sentences.teacher is not None
    with torch.no_grad():
        fields = step.fields(pixels())
        own = F.normalize(fields["embedding"], dim=1) @ step.sentences.rows(LABELS).T
        logits = step.sentences.teacher_logits(fields["teacher"], LABELS)
    torch.testing.assert_close(logits, step.logit_scale * own, rtol=1e-4, atol=1e-4)


def test_one_sentence_without_smoothing_and_teacher_is_ballads_loss(
    pictures: Manifest, towers: dict[str, str]
) -> None:
    step = built(pictures, towers["vit"], PLAIN)
    assert step.sentences is not None and step.sentences.teacher is None
    value, found = gradients(step)
    other = built(pictures, towers["vit"], PLAIN)
    other.objective = TuningObjective([ObjectiveTerm(CONTRASTIVE, weight=0.5)], COUNTS)
    other.sentences = None
    expected, gradient = gradients(other)
    assert value == pytest.approx(expected, rel=1e-6)
    assert found.keys() == gradient.keys()
    for name, grad in gradient.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-3, atol=1e-5, msg=name)


def test_the_teacher_holds_the_encoder_back(pictures: Manifest, towers: dict[str, str]) -> None:
    """Distillation alone has no gradient at the start, and leads a moved encoder back."""
    alone = {"loss.distillation": 1.0}
    step = built(pictures, towers["vit"], alone)
    start, found = gradients(step)
    largest = max(float(grad.abs().max()) for grad in found.values())
    free = gradients(built(pictures, towers["vit"], {"loss.distillation": 0.0}))[1]
    assert largest < 1e-3 * max(float(grad.abs().max()) for grad in free.values())
    moved = built(pictures, towers["vit"], alone)
    projection = moved.model.visual.proj
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():  # from some places Adam steps too far, and is slow to come back
        projection.add_(torch.randn(projection.shape, generator=draw), alpha=0.1)
    values = [gradients(moved)[0]]
    optimiser = torch.optim.Adam([projection], lr=1e-2)
    for _ in range(40):
        optimiser.step()
        moved.zero_grad()
        values.append(gradients(moved)[0])
    assert values[0] > values[-1] > start
    assert values[-1] - start < 0.5 * (values[0] - start)


def test_the_frozen_copy_neither_trains_nor_moves(
    pictures: Manifest, towers: dict[str, str]
) -> None:
    step = built(pictures, towers["vit"], NONE)
    assert step.sentences is not None and step.sentences.teacher is not None
    teacher = step.sentences.teacher
    before = teacher.tower(pixels())["embedding"]
    names = {name for name, _ in step.named_parameters()}
    assert not any("teacher" in name or "sentences" in name for name in names)
    gradients(step)
    torch.optim.SGD([p for p in step.parameters() if p.requires_grad], lr=1.0).step()
    assert torch.equal(before, teacher.tower(pixels())["embedding"])
    assert not before.requires_grad
    assert not torch.allclose(before, step.embed(pixels())["embedding"])


def test_every_part_has_an_effect(pictures: Manifest, towers: dict[str, str]) -> None:
    told, few = described(pictures), {"loss.templates": "openai-simple"}
    changes = ({}, {"loss.smoothing": 0.0}, {"loss.distillation": 0.0}, NONE)
    steps = [built(told, towers["vit"], few | change) for change in changes]
    steps.append(built(told, towers["vit"], few, seed=1))
    values = [gradients(step)[0] for step in steps]
    assert len(set(values)) == len(values)
    assert gradients(built(told, towers["vit"], few))[0] == values[0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"composites": 0.5}, "draws one sentence for each: set composites=0"),
        ({"loss.templates": "opnai"}, "unknown loss.templates 'opnai'; did you mean 'openai'"),
    ],
)
def test_what_cannot_be_is_refused(tune: Tune, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tune("vl-ltr", overrides=overrides)


def test_it_feeds_the_second_stage(
    pictures: Manifest, towers: dict[str, str], tmp_path: Path
) -> None:
    """Tuned on sentences, extracted anew, and the language-guided head fitted on the same ones."""
    told = described(pictures)
    encoder = load_encoder(towers["vit"], device="cpu")
    extract(told, tmp_path / "cache", encoder=encoder, threads=1)
    made = finetune_cache(
        told, "vl-ltr", tmp_path / "tuned", tmp_path / "cache", device="cpu", workers=0,
        model=towers["vit"],
        overrides={"optimisation.epochs": 2, "optimisation.batch": 8, **NONE},
    )  # fmt: skip
    assert made is not None and made.run is not None
    cache = open_cache(tmp_path / "tuned" / "cache")
    assert cache.encoder == made.tuned.encoder.identity != open_cache(tmp_path / "cache").encoder
    quick = {"optimisation.epochs": 2}
    run = fit_adapter(cache, "vl-ltr", tmp_path / "run", prompts="descriptions", overrides=quick)
    assert run.head.sentences.shape[:2] == (3, 2)
    assert bool(torch.isfinite(run.head.sentences).all())
