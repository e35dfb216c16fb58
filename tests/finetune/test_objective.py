"""The objective: its terms one by one, its sum, and what micro-batches may do with it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.finetune.contrastive import supervised_contrastive
from ltcache.finetune.objective import EmbeddedBatch, TuningObjective
from ltcache.finetune.spec import ObjectiveTerm
from ltcache.losses import LOSSES, SeesawLoss

CLASSES, DIMS, ROWS = 5, 7, 12
COUNTS = torch.tensor([40.0, 20.0, 9.0, 4.0, 2.0])
GENERATOR = torch.Generator().manual_seed(3)
IMAGES = torch.randn(ROWS, DIMS, generator=GENERATOR, dtype=torch.float64)
TEXTS = torch.randn(CLASSES, DIMS, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.randint(0, 4, (ROWS,), generator=GENERATOR)  # the rarest class does not occur
SCALE = 9.0


def embedded(**given: Tensor) -> EmbeddedBatch:
    plain = {"images": IMAGES, "labels": LABELS, "logit_scale": SCALE, "texts": TEXTS}
    return EmbeddedBatch(**{**plain, **given})


def own_logits() -> Tensor:
    return SCALE * F.normalize(IMAGES, dim=1) @ F.normalize(TEXTS, dim=1).T


def test_a_weighted_sum_of_its_terms() -> None:
    terms = [
        ObjectiveTerm("contrastive", weight=0.25),
        ObjectiveTerm("logit_adjustment", {"tau": 0.5}, weight=2.0),
    ]
    objective = TuningObjective(terms, COUNTS)
    contrastive = supervised_contrastive(IMAGES, TEXTS[LABELS], LABELS, SCALE)
    prior = (COUNTS / COUNTS.sum()).double().log()
    adjusted = F.cross_entropy(own_logits() + 0.5 * prior, LABELS)
    values = objective.terms(embedded())
    torch.testing.assert_close(values["contrastive"], contrastive, rtol=1e-12, atol=0)
    torch.testing.assert_close(values["logit_adjustment"], adjusted, rtol=1e-6, atol=0)
    whole = 0.25 * values["contrastive"] + 2 * values["logit_adjustment"]
    torch.testing.assert_close(objective(embedded()), whole, rtol=1e-14, atol=0)


def test_texts_of_the_batchs_classes_do_for_the_contrastive_term() -> None:
    objective = TuningObjective([ObjectiveTerm("contrastive")], COUNTS)
    classes = LABELS.unique()
    few = embedded(texts=TEXTS[classes], classes=classes)
    assert torch.equal(objective(few), objective(embedded()))


def test_a_heads_logits_come_before_texts() -> None:
    logits = torch.randn(ROWS, CLASSES, generator=GENERATOR, dtype=torch.float64)
    objective = TuningObjective([ObjectiveTerm("cross_entropy")], COUNTS)
    expected = F.cross_entropy(logits, LABELS)
    torch.testing.assert_close(objective(embedded(logits=logits)), expected)
    torch.testing.assert_close(objective(embedded()), F.cross_entropy(own_logits(), LABELS))


def test_class_weights_count_once_they_are_due() -> None:
    kind = "class_balanced"
    objective = TuningObjective([ObjectiveTerm(kind)], COUNTS)
    loss = LOSSES[kind](COUNTS)
    assert loss.class_weights is not None
    weights = loss.class_weights[LABELS]
    values = loss(own_logits(), LABELS)
    expected = (weights * values).sum() / weights.sum()
    torch.testing.assert_close(objective(embedded(), progress=1.0), expected)


@pytest.mark.parametrize("name", list(LOSSES))
def test_micro_batches_add_up_where_it_says_so(name: str) -> None:
    objective = TuningObjective(
        [ObjectiveTerm(name)], COUNTS, estimated={"delta": torch.arange(5.0)}
    ).eval()
    objective.observe(LABELS)
    whole = objective(embedded(), 1.0)
    parts = torch.zeros((), dtype=torch.float64)
    for rows in torch.arange(ROWS).split(5):
        part = objective(embedded(images=IMAGES[rows], labels=LABELS[rows]), 1.0)
        parts += len(rows) / ROWS * part
    assert bool(torch.isclose(parts, whole, rtol=1e-12)) == objective.by_rows


def test_contrast_needs_the_whole_batch() -> None:
    assert TuningObjective([ObjectiveTerm("cross_entropy")], COUNTS).by_rows
    assert not TuningObjective(
        [ObjectiveTerm("cross_entropy"), ObjectiveTerm("contrastive")], COUNTS
    ).by_rows


def test_noise_belongs_to_the_step() -> None:
    def values(objective: TuningObjective, *steps: int) -> list[float]:
        found = []
        for step in steps:
            objective.begin_step(step)
            found.append(float(objective(embedded())))
        return found

    first = values(TuningObjective([ObjectiveTerm("gcl")], COUNTS, seed=4), 0, 1, 2)
    assert len(set(first)) == 3
    assert (
        values(TuningObjective([ObjectiveTerm("gcl")], COUNTS, seed=4), 2) == first[2:]
    )  # as after a resume
    assert values(TuningObjective([ObjectiveTerm("gcl")], COUNTS, seed=5), 2) != first[2:]


def test_counts_seen_are_part_of_its_state() -> None:
    objective = TuningObjective([ObjectiveTerm("seesaw", {"p": 0.7})], COUNTS)
    objective.observe(LABELS)
    again = TuningObjective([ObjectiveTerm("seesaw", {"p": 0.7})], COUNTS)
    assert not torch.equal(again(embedded()), objective(embedded()))
    again.load_state_dict(objective.state_dict())
    assert torch.equal(again(embedded()), objective(embedded()))
    direct = SeesawLoss(COUNTS, p=0.7)
    direct.observe(LABELS)
    torch.testing.assert_close(objective(embedded()), direct(own_logits(), LABELS).mean())


def test_logits_keep_their_digits_under_autocast() -> None:
    single = {"images": IMAGES.float(), "texts": TEXTS.float()}
    objective = TuningObjective(
        [ObjectiveTerm("cross_entropy"), ObjectiveTerm("contrastive")], COUNTS
    )
    exact = objective(embedded(**single))
    with torch.autocast("cpu", torch.bfloat16):
        value = objective(embedded(**single))
    torch.testing.assert_close(value, exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("terms", "given", "words"),
    [
        ([], {}, "at least one"),
        ([ObjectiveTerm("focal"), ObjectiveTerm("focal")], {}, "each once"),
        (
            [ObjectiveTerm("vocal")],
            {},
            "no term 'vocal'; there are contrastive, sentence_contrastive, cross_entropy",
        ),
        ([ObjectiveTerm("compensated_logit_adjustment")], {}, "needs delta"),
        ([ObjectiveTerm("focal", {"depth": 2})], {}, "focal.*depth"),
        ([ObjectiveTerm("contrastive")], {"texts": None}, "contrastive term needs the texts"),
        ([ObjectiveTerm("sentence_contrastive")], {}, "needs a sentence for each image"),
        (
            [ObjectiveTerm("sentence_contrastive")],
            {"sentences": IMAGES},
            "and a teacher",
        ),
        ([ObjectiveTerm("sentence_contrastive", {"smoothing": 2})], {}, "smoothing=2 must be"),
        ([ObjectiveTerm("focal")], {"texts": None}, "loss on logits needs the texts"),
        ([ObjectiveTerm("focal")], {"classes": torch.arange(5)}, "all classes"),
    ],
)
def test_what_cannot_be_is_refused(
    terms: list[ObjectiveTerm], given: dict[str, Tensor], words: str
) -> None:
    with pytest.raises(FitError, match=words):
        TuningObjective(terms, COUNTS)(embedded(**given))
