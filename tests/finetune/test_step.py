"""Micro-batches have the gradient of the whole batch, whatever the loss, and on several ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ltcache.encoder import Encoder, load_encoder
from ltcache.encoder.adapters import set_trainable
from ltcache.encoder.fields import fields_of
from ltcache.finetune.classifier import ClassTexts
from ltcache.finetune.objective import TuningObjective
from ltcache.finetune.processes import ProcessRanks
from ltcache.finetune.sentences import DrawnSentences, FrozenTeacher
from ltcache.finetune.spec import ObjectiveTerm
from ltcache.finetune.step import FieldEmbedder, TrainingStep, accumulate, trained_parameters
from ltcache.heads import HEADS, HeadContext

ALONE = ("contrastive", "sentences")  # without a loss on logits
CLASSES, SIZE = 5, 32
COUNTS = torch.tensor([9.0, 7.0, 5.0, 3.0, 2.0])
CPU = torch.device("cpu")
SENTENCES = [[f"a photo of thing {n}", f"thing {n}"][: 1 + n % 2] for n in range(CLASSES)]
TERMS = {
    "contrastive": (ObjectiveTerm("contrastive"),),
    "cross entropy": (ObjectiveTerm("cross_entropy"),),
    "weighted": (ObjectiveTerm("class_balanced"),),
    "online counts": (ObjectiveTerm("seesaw"),),
    "sentences": (ObjectiveTerm("sentence_contrastive", weight=0.5),),
    "noise beside it": (ObjectiveTerm("gcl"), ObjectiveTerm("contrastive", weight=0.5)),
    "both": (ObjectiveTerm("seesaw_static", {"p": 0.7}), ObjectiveTerm("contrastive", weight=0.5)),
}


def make_step(
    folder: str, terms: tuple[ObjectiveTerm, ...], head: bool, device: torch.device = CPU
) -> TrainingStep:
    """Return a tiny dual encoder of which everything trains."""
    encoder = load_encoder(folder, device=str(device))
    set_trainable(encoder.model, image="full", text="full", logit_scale=True)
    texts = ClassTexts(encoder.model, encoder.tokenizer, SENTENCES, trains=True, device=device)
    embed = embedder(encoder, device)
    classifier = None
    if head:
        classifier = HEADS["cosine"](HeadContext(32, CLASSES, COUNTS))
        with torch.no_grad():
            classifier.set_weight(classifier.random_weight(torch.Generator().manual_seed(0)))
    objective = TuningObjective(terms, COUNTS)
    sentences = drawn_sentences(folder, texts, device) if terms == TERMS["sentences"] else None
    return TrainingStep(
        embed, objective, head=classifier, field="embedding", texts=texts, sentences=sentences
    ).to(device)


def embedder(encoder: Encoder, device: torch.device) -> FieldEmbedder:
    """Return what embeds images by an encoder."""
    fields, needed = fields_of(encoder.model), ("embedding",)
    return FieldEmbedder(encoder.model, fields, needed, encoder.preprocessing, device=device)


def drawn_sentences(
    folder: str, texts: ClassTexts, device: torch.device, scale: float = 20.0
) -> DrawnSentences:
    """Return sentences with a teacher, which is the encoder as it is but for its scale."""
    known = load_encoder(folder, device=str(device))
    other = ClassTexts(known.model, known.tokenizer, SENTENCES, trains=False, device=device)
    return DrawnSentences(texts, FrozenTeacher(embedder(known, device), other, scale), seed=3)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (10, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    return pixels, torch.tensor([0, 1, 2, 0, 0, 3, 1, 4, 2, 0])


def gradients(
    step: TrainingStep,
    micro_batch: int,
    wrapped: Any = None,
    rows: slice = slice(None),
    share: float = 1.0,
) -> Any:
    """Return the loss and parameter -> gradient of one batch, a pasted one below a share of 1."""
    pixels, labels = batch()
    if share < 1:
        labels = torch.stack([labels, labels.flip(0)], dim=1)
    step.begin_step(0)
    loss = accumulate(
        wrapped or step, pixels[rows].to(step.device), labels[rows], share=share,
        micro_batch=micro_batch, progress=0.5,
        backward=lambda value: value.backward(), seeded=lambda number: None,
    )  # fmt: skip
    found = {n: p.grad for n, p in trained_parameters(step).items() if p.grad is not None}
    return float(loss), found


def assert_same(found: Any, expected: Any) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[1].keys() == expected[1].keys()
    largest = max(float(value.abs().max()) for value in expected[1].values())
    assert largest > 0
    for name, value in expected[1].items():
        np.testing.assert_allclose(
            found[1][name], value, rtol=2e-3, atol=2e-5 * largest, err_msg=name
        )


@pytest.mark.parametrize(
    ("kind", "head", "share"),
    [
        *(
            (kind, head, 1.0)
            for kind in TERMS
            for head in (False, True)
            if not head or kind not in ALONE
        ),
        ("weighted", True, 0.75),
        ("cross entropy", True, 0.75),
        ("both", False, 0.75),
        ("contrastive", False, 0.75),
    ],
)  # contrastive alone would not train a head
def test_micro_batches_have_the_gradient_of_the_batch(
    towers: dict[str, str], kind: str, head: bool, share: float
) -> None:
    whole = gradients(make_step(towers["vit"], TERMS[kind], head), 10, share=share)
    parts = gradients(make_step(towers["vit"], TERMS[kind], head), 4, share=share)
    assert_same(parts, whole)
    assert any(name.startswith("model.visual.") for name in whole[1])
    assert any(name.startswith("model.transformer.") for name in whole[1]) or head


def share_of(rank: int, folder: str, model: str, kind: str, micro_batch: int, share: float) -> None:
    """Take one step as one of two processes, and leave loss and gradients in a file."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    step = make_step(model, TERMS[kind], False)
    wrapped = ProcessRanks(CPU, rank, 2).wrapped(step)
    rows = slice(0, 6) if rank == 0 else slice(6, 10)  # of unlike length
    loss, found = gradients(step, micro_batch, wrapped, rows, share)
    arrays = {name: value.numpy() for name, value in found.items()}
    np.savez(f"{folder}/{rank}.npz", loss=loss, **arrays)
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("kind", "micro_batch", "share"),
    [
        ("contrastive", 10, 1.0),
        ("contrastive", 4, 1.0),
        ("cross entropy", 4, 1.0),
        ("both", 4, 0.75),
        ("sentences", 10, 1.0),
        ("sentences", 4, 1.0),
    ],
)
def test_two_ranks_have_the_gradient_of_the_joined_batch(
    towers: dict[str, str], tmp_path: Path, kind: str, micro_batch: int, share: float
) -> None:
    arguments = (str(tmp_path), towers["vit"], kind, micro_batch, share)
    torch.multiprocessing.start_processes(share_of, arguments, 2, start_method="fork")
    whole = gradients(make_step(towers["vit"], TERMS[kind], False), 10, share=share)
    for rank in (0, 1):
        with np.load(tmp_path / f"{rank}.npz") as found:
            arrays = {name: torch.from_numpy(found[name]) for name in found if name != "loss"}
            assert_same((float(found["loss"]), arrays), whole)


def test_texts_of_a_frozen_tower_are_encoded_once(
    towers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_encoder(towers["vit"], device="cpu")
    calls: list[int] = []
    encode = encoder.model.encode_text
    monkeypatch.setattr(encoder.model, "encode_text", lambda x: calls.append(len(x)) or encode(x))
    texts = ClassTexts(encoder.model, encoder.tokenizer, SENTENCES, trains=False, device=CPU)
    everything = texts()
    some = texts(torch.tensor([1, 3]))
    assert calls == [sum(map(len, SENTENCES))]
    torch.testing.assert_close(some, everything[[1, 3]])
    torch.testing.assert_close(everything.norm(dim=1), torch.ones(CLASSES))


def test_a_tower_that_trains_encodes_the_classes_of_a_batch(towers: dict[str, str]) -> None:
    encoder = load_encoder(towers["vit"], device="cpu")
    set_trainable(encoder.model, text="full")
    made = [
        ClassTexts(encoder.model, encoder.tokenizer, SENTENCES, trains=trains, device=CPU)
        for trains in (True, False)
    ]
    some = torch.tensor([1, 3])
    rows = made[0](some)
    assert rows.requires_grad
    torch.testing.assert_close(rows.detach(), made[1](some), rtol=1e-5, atol=1e-6)
