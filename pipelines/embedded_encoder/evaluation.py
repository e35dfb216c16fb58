"""Zero-shot and frozen-feature evaluation on Emoji-LT, by split and vendor."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pipelines.embedded_encoder.corpus import read_rows

WITHOUT_KIN = ("twemoji", "emojione", "fxemoji")


@dataclass(frozen=True)
class EmojiLT:
    """Emoji-LT in memory; rows of all splits in one order."""

    images: np.ndarray  # (N, 64, 64, 3) uint8
    labels: np.ndarray  # (N,)
    vendors: np.ndarray  # (N,) str
    splits: np.ndarray  # (N,) str
    names: list[str]
    templates: list[str]

    def rows(self, split: str) -> np.ndarray:
        return np.flatnonzero(self.splits == split)

    @property
    def counts(self) -> np.ndarray:
        """(C,) training images of each class."""
        return np.bincount(self.labels[self.rows("train")], minlength=len(self.names))


def load(folder: Path) -> EmojiLT:
    rows = [(s, r) for s in ("train", "val", "test") for r in read_rows(folder / f"{s}.csv")]
    images = []
    with zipfile.ZipFile(folder / "images.zip") as archive:
        for _, row in rows:
            with Image.open(io.BytesIO(archive.read(row["path"]))) as image:
                images.append(np.asarray(image.convert("RGB")))
    return EmojiLT(
        np.stack(images),
        np.array([int(r["label"]) for _, r in rows]),
        np.array([r["vendor"] for _, r in rows]),
        np.array([s for s, _ in rows]),
        [r["name"] for r in read_rows(folder / "classes.csv")],
        json.loads((folder / "dataset.json").read_text("utf-8"))["templates"],
    )


def scores(predicted: np.ndarray, rows: np.ndarray, data: EmojiLT) -> dict[str, float]:
    """Accuracy in percent: overall, mean per class, many, medium, few, mean over strange vendors.

    `headline` is the mean per class, averaged over the vendors without kin in the training corpus.
    """
    y, counts = data.labels[rows], data.counts
    hit = predicted == y

    def per_class(mask: np.ndarray) -> np.ndarray:
        return np.array(
            [hit[mask & (y == c)].mean() if (mask & (y == c)).any() else np.nan
             for c in range(len(counts))]
        )  # fmt: skip

    recall = per_class(np.ones(len(y), bool))
    result = {
        "overall": hit.mean(),
        "mean": np.nanmean(recall),
        "many": np.nanmean(recall[counts > 100]),
        "medium": np.nanmean(recall[(counts >= 20) & (counts <= 100)]),
        "few": np.nanmean(recall[counts < 20]),
    }
    for vendor in sorted(set(data.vendors)):
        result[vendor] = np.nanmean(per_class(data.vendors[rows] == vendor))
    result["headline"] = np.mean([result[v] for v in WITHOUT_KIN])
    return {k: round(float(100 * v), 1) for k, v in result.items()}


def zero_shot(
    embeddings: Tensor, class_embeddings: Tensor, data: EmojiLT, split: str
) -> dict[str, float]:
    """Scores of the nearest class embedding; (N, D) of all rows and (C, D), both normalised."""
    rows = data.rows(split)
    return scores((embeddings[rows] @ class_embeddings.T).argmax(1).numpy(), rows, data)


def head(
    features: Tensor,
    data: EmojiLT,
    split: str,
    cosine: bool = False,
    adjusted: bool = True,
    epochs: int = 40,
    seed: int = 0,
) -> dict[str, float]:
    """Scores of a linear or cosine head on frozen features (N, D), logit-adjusted or plain."""
    torch.manual_seed(seed)
    train = data.rows("train")
    x, y = F.normalize(features.float(), dim=1), torch.from_numpy(data.labels)
    mean = x[train].mean(0)
    x = F.normalize(x - mean, dim=1)  # features of small encoders share a large mean
    prior = torch.from_numpy(np.log(data.counts / data.counts.sum())).float() * adjusted
    classes = len(data.names)
    weight = F.normalize(
        torch.stack([x[train][y[train] == c].mean(0) for c in range(classes)]), dim=1
    )
    weight = weight.clone().requires_grad_()
    bias = torch.zeros(classes, requires_grad=True)
    optimiser = torch.optim.AdamW([weight, bias], lr=5e-3, weight_decay=1e-3)
    batches = max(1, len(train) // 256)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * batches)

    def logits(features: Tensor) -> Tensor:
        w = F.normalize(weight, dim=1) if cosine else weight
        return 16 * features @ w.T + (0 if cosine else bias)

    for _ in range(epochs):
        for chosen in torch.from_numpy(train)[torch.randperm(len(train))].chunk(batches):
            loss = F.cross_entropy(logits(x[chosen]) + prior, y[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    rows = data.rows(split)
    with torch.no_grad():
        return scores(logits(x[rows]).argmax(1).numpy(), rows, data)


def line(title: str, result: dict[str, float]) -> str:
    keys = ("overall", "mean", "many", "medium", "few", "headline")
    vendors = " ".join(f"{k}={v}" for k, v in result.items() if k not in keys)
    return f"{title:34s} " + " ".join(f"{k} {result[k]:5.1f}" for k in keys) + f"  [{vendors}]"
