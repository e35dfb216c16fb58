"""The convolutional tower: EfficientNet-lite0 with its last stages tuned against a text tower.

Two phases. `tune_tail` trains stages 5 and 6, the projection and the text tower on cached
stride-16 maps, where an image costs next to nothing. `tune_deep` then trains stages 3 to 6 on
augmented images at `PX` towards the features that the untouched network has at `TARGET_PX`, where
it sees drawings much better, with the text tower as it is. The result of the first is the teacher
of the ViT, the result of the second is the encoder that is shipped.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.embedded_encoder import teacher
from pipelines.embedded_encoder.captions import CONTEXT, Captions
from pipelines.embedded_encoder.student import MODEL_CFG, VOCABULARY, TextTower, create
from pipelines.embedded_encoder.training import (
    TextBank,
    augment,
    class_prior,
    contrastive,
    sampling_weights,
)

PX = 96
TARGET_PX = 160
DEEP_STAGE = 3
CONV_CFG: dict[str, Any] = {
    "embed_dim": MODEL_CFG["embed_dim"],
    "vision_cfg": {
        "timm_model_name": "tf_efficientnet_lite0",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": PX,
    },
    "text_cfg": {**MODEL_CFG["text_cfg"], "context_length": CONTEXT, "vocab_size": VOCABULARY},
}


class ConvEncoder(nn.Module):
    """Trunk, projection, text tower and scale; the trunk's early part may stay cached."""

    def __init__(self, trunk: nn.Module, captions: Captions) -> None:
        super().__init__()
        self.trunk = trunk
        dim = CONV_CFG["embed_dim"]
        self.proj = nn.Linear(teacher.FEATURE_DIM, dim, bias=False)
        nn.init.normal_(self.proj.weight, std=teacher.FEATURE_DIM**-0.5)
        self.used = captions.used_tokens()
        self.text = TextTower(create(), self.used)
        self.log_scale = nn.Parameter(torch.tensor(math.log(15.0)))

    @property
    def scale(self) -> Tensor:
        return self.log_scale.exp().clamp(max=50)

    def tail_modules(self) -> list[nn.Module]:
        return [*self.trunk.blocks[teacher.MAP_STAGE :], self.trunk.conv_head, self.trunk.bn2]

    def embed(self, pooled: Tensor) -> Tensor:
        return F.normalize(self.proj(pooled), dim=1)

    def clip_state(self) -> dict[str, Tensor]:
        """State dict of the open_clip model that CONV_CFG describes."""
        state = {f"visual.trunk.{k}": v for k, v in self.trunk.state_dict().items()}
        state |= {"visual.head.proj.weight": self.proj.weight}
        return state | self.text.clip_state(self.used, self.log_scale)


def tune_tail(
    model: ConvEncoder,
    maps: Tensor,
    features: Tensor,
    captions: Captions,
    minutes: float,
    checkpoint: Callable[[str], None],
    batch: int = 384,
    lr: float = 1e-3,
    tail_lr: float = 3e-4,
    class_weight: float = 0.5,
    keep_weight: float = 0.5,
    seed: int = 0,
) -> None:
    """Text tower, projection and last stages on maps (N, 112, 6, 6) and old features (N, 1280).

    `keep_weight` holds the tuned features near the old ones, which know a thousand natural classes
    and are what new concepts of a class are recognised by. The tail waits for a fifth of the time,
    until the random text tower gives useful gradients.
    """
    weights = sampling_weights(captions.examples)
    prior, rng = class_prior(captions, weights), np.random.default_rng(seed)
    tail = nn.ModuleList(model.tail_modules())
    others = [*model.proj.parameters(), *model.text.parameters(), model.log_scale]
    groups = [{"params": others, "base": lr}, {"params": list(tail.parameters()), "base": tail_lr}]
    optimiser = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), weight_decay=0.02)
    start, step, running = time.monotonic(), 0, {}
    last = start
    while (share := (time.monotonic() - start) / (60 * minutes)) < 1:
        opened = share > 0.2
        for group in optimiser.param_groups:
            warm = min(1.0, (step + 1) / 100) if group["base"] == lr else float(opened)
            group["lr"] = group["base"] * warm * (0.5 + 0.5 * math.cos(math.pi * share))
        tail.train(opened)
        rows = rng.choice(len(weights), batch, p=weights)
        index = torch.from_numpy(rows)
        old = features[index].float()
        if opened:
            x = maps[index].float()
            flipped = torch.from_numpy(rng.random(batch) < 0.5)
            x[flipped] = x[flipped].flip(3)
            x = F.dropout2d(x, 0.05)
            pooled = teacher.tail(model.trunk, x.contiguous(memory_format=torch.channels_last))
        else:
            pooled = old
        image = model.embed(F.dropout(pooled, 0.1))
        tokens, ids = captions.sample(rows.tolist())
        losses = {"con": contrastive(image, model.text(tokens), ids, model.scale)}
        known = captions.classes[index] >= 0
        logits = model.scale * image[known] @ model.text(captions.class_prompts()).T + prior
        losses["cls"] = class_weight * F.cross_entropy(logits, captions.classes[index][known])
        if opened:
            losses["keep"] = keep_weight * (1 - F.cosine_similarity(pooled, old).mean())
        optimiser.zero_grad()
        sum(losses.values()).backward()  # type: ignore[union-attr]
        nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 2.0)
        optimiser.step()
        step += 1
        for k, v in losses.items():
            running[k] = 0.98 * running.get(k, float(v.detach())) + 0.02 * float(v.detach())
        if step % 50 == 0:
            passed = time.monotonic() - start
            text = " ".join(f"{k} {v:.3f}" for k, v in running.items())
            print(f"tail {passed / 60:.1f} min {step} {step * batch / passed:.0f} img/s {text}",
                  flush=True)  # fmt: skip
        if time.monotonic() - last > 240:
            tail.eval()
            checkpoint(f"tail step {step}")
            last = time.monotonic()
    tail.eval()


def from_stage(model: ConvEncoder, maps: Tensor) -> Tensor:
    """Maps of stage DEEP_STAGE (N, 40, 12, 12) -> pooled features (N, 1280)."""
    for block in model.trunk.blocks[DEEP_STAGE : teacher.MAP_STAGE]:
        maps = block(maps)
    return teacher.tail(model.trunk, maps)


def early(model: ConvEncoder, x: Tensor) -> Tensor:
    """Images (N, 3, PX, PX) -> maps before stage DEEP_STAGE, without gradient."""
    with torch.no_grad():
        x = model.trunk.bn1(model.trunk.conv_stem(x))
        for block in model.trunk.blocks[:DEEP_STAGE]:
            x = block(x)
    return x


def tune_deep(
    model: ConvEncoder,
    images: np.ndarray,
    index: np.ndarray,
    targets: Tensor,
    captions: Captions,
    minutes: float,
    checkpoint: Callable[[str], None],
    batch: int = 128,
    lr: float = 4e-4,
    class_weight: float = 0.3,
    contrast_weight: float = 0.3,
    seed: int = 0,
) -> None:
    """Stages 3 to 6 and the projection, with every text encoded once.

    images: (M, 96, 96, 3) uint8, `index` (N,) the rows in use; targets: (N, 1280) features of the
    untouched network at TARGET_PX; captions: of the N examples.
    """
    weights = sampling_weights(captions.examples)
    prior, rng = class_prior(captions, weights), np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    bank, scale = TextBank(captions, model.text), model.scale.detach()
    model.trunk.eval()
    trained = nn.ModuleList([*model.trunk.blocks[DEEP_STAGE:], *model.tail_modules()[-2:]])
    mean = targets.float().mean(0)
    # The projection of old features to new ones is learnt, so that class and caption objectives may
    # move the pooled features while their content stays.
    bridge = nn.Linear(teacher.FEATURE_DIM, teacher.FEATURE_DIM)
    nn.init.eye_(bridge.weight)
    parameters = [*trained.parameters(), *model.proj.parameters(), *bridge.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0.02)
    start = last = time.monotonic()
    step, running = 0, {}
    while (share := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimiser.param_groups:
            warm = min(1.0, (step + 1) / 50)
            group["lr"] = lr * warm * (0.5 + 0.5 * math.cos(math.pi * share))
        trained.train()
        rows = rng.choice(len(weights), batch, p=weights)
        raw = torch.from_numpy(images[index[rows]]).permute(0, 3, 1, 2)
        x, _ = augment(raw, None, generator, PX)
        x = early(model, x.contiguous(memory_format=torch.channels_last))
        pooled = from_stage(model, x)
        target = targets[torch.from_numpy(rows)].float()
        cosine = F.cosine_similarity(bridge(pooled) - mean, target - mean).mean()
        embedding = model.embed(F.dropout(pooled, 0.1))
        texts, ids = bank.sample(rows.tolist())
        classes = captions.classes[torch.from_numpy(rows)]
        logits = scale * embedding[classes >= 0] @ bank.classes.T + prior
        losses = {
            "cos": 1 - cosine,
            "con": contrast_weight * contrastive(embedding, texts, ids, scale),
            "cls": class_weight * F.cross_entropy(logits, classes[classes >= 0]),
        }
        optimiser.zero_grad()
        sum(losses.values()).backward()  # type: ignore[union-attr]
        nn.utils.clip_grad_norm_(parameters, 2.0)
        optimiser.step()
        step += 1
        for k, v in losses.items():
            running[k] = 0.98 * running.get(k, float(v.detach())) + 0.02 * float(v.detach())
        if step % 25 == 0:
            passed = time.monotonic() - start
            text = " ".join(f"{k} {v:.3f}" for k, v in running.items())
            print(f"deep {passed / 60:.1f} min {step} {step * batch / passed:.0f} img/s {text}",
                  flush=True)  # fmt: skip
        if time.monotonic() - last > 300:
            trained.eval()
            checkpoint(f"deep step {step}")
            last = time.monotonic()
    trained.eval()


@torch.inference_mode()
def pooled_of_images(model: ConvEncoder, images: np.ndarray) -> Tensor:
    """Pooled features (N, 1280) of images (N, H, W, 3) uint8."""
    model.eval()
    found = []
    for start in range(0, len(images), 128):
        x = teacher.preprocess(torch.from_numpy(images[start : start + 128].copy()), PX)
        found.append(from_stage(model, early(model, x)))
    return torch.cat(found)


@torch.inference_mode()
def pooled_of_maps(model: ConvEncoder, maps: Tensor) -> Tensor:
    """Tuned pooled features (N, 1280) float16 of cached maps."""
    return torch.cat([teacher.tail(model.trunk, m.float()).half() for m in maps.split(256)])


def fresh(captions: Captions) -> ConvEncoder:
    """The pretrained trunk with a new projection and text tower."""
    trunk = teacher.load(teacher.default_weights())
    return ConvEncoder(copy.deepcopy(trunk), captions)
