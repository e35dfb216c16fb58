"""Distillation of the ViT from the tuned convolutional tower and its text tower.

The student sees augmented images, half of their patch tokens for most of the time, and learns the
teacher's whitened features, its stride-16 map token by token, its joint embedding, and the
contrastive and class objectives by itself. The text tower stays as the teacher left it, so every
text is encoded once, before training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.embedded_encoder.captions import Captions
from pipelines.embedded_encoder.corpus import Example
from pipelines.embedded_encoder.student import SIDE, TextTower, create, encode_tokens

SAMPLING = {"emoji": 4.0, "colour": 1.0, "mono": 0.4, "clipart": 1.5}
STORE_PX = 80  # the corpus in memory: sharp enough for 64 px after augmentation
PX = 64
PCA_DIM = 384


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters; lengths of phases are shares of the training time."""

    minutes: float
    seed: int = 0
    batch: int = 192
    lr: float = 1.2e-3
    weight_decay: float = 0.05
    kept_tokens: int = 28
    full_from: float = 0.72
    ema: float = 0.998
    checkpoint_minutes: float = 10.0
    # Weights of the losses.
    distil: float = 1.0
    tokens: float = 0.5
    joint: float = 1.0
    contrast: float = 0.25
    classes: float = 0.25


def sampling_weights(examples: Sequence[Example]) -> np.ndarray:
    """(N,) probability of each example; icons that carry a class name count as clip art does."""
    raw = np.array([SAMPLING[e.kind] for e in examples])
    raw[[bool(e.class_names) and e.kind in ("mono", "colour") for e in examples]] = 1.5
    weights: np.ndarray = raw / raw.sum()
    return weights


def class_prior(captions: Captions, weights: np.ndarray) -> Tensor:
    """(C,) log share of each class among the examples as drawn: keeps class prompts unbiased."""
    known = captions.classes >= 0
    prior = torch.zeros(len(captions.class_names))
    prior.index_add_(0, captions.classes[known], torch.from_numpy(weights).float()[known])
    return (prior / prior.sum()).clamp(min=1e-6).log()


@dataclass
class Corpus:
    """The corpus in memory with the teacher's cached outputs."""

    examples: Sequence[Example]
    images: Tensor  # (N, 3, STORE_PX, STORE_PX) uint8
    features: Tensor  # (N, 1280) float16, the teacher's tuned pooled features
    joint: Tensor  # (N, D) the teacher's normalised embeddings
    maps: Tensor  # (N, 112, s, s) float16
    weights: np.ndarray = field(init=False)  # (N,) sampling probability

    def __post_init__(self) -> None:
        self.weights = sampling_weights(self.examples)


def whitening(features: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Mean (D,) and projection (D, dim) to PCA components of about unit variance.

    Dividing by the square root of the standard deviation keeps part of the order of the
    components: full whitening would spend the student on noise.
    """
    mean = features.float().mean(0)
    centred = features.float() - mean
    _, singular, basis = torch.pca_lowrank(centred, q=dim, center=False, niter=2)
    deviation = singular / math.sqrt(len(features))
    projection = basis / deviation.clamp(min=1e-3).sqrt()
    return mean, projection / (centred @ projection).std(0).mean()


def augment(
    images: Tensor, maps: Tensor | None, generator: torch.Generator, px: int = PX
) -> tuple[Tensor, Tensor | None]:
    """Random flip, scale and shift of images and teacher maps alike.

    images: (N, 3, H, H) uint8 -> (N, 3, px, px) in [-1, 1]; maps: (N, C, SIDE, SIDE) or None.
    Every third image keeps its place, for the test images are not shifted.
    """
    n = len(images)
    moved = (torch.rand(n, generator=generator) < 2 / 3).float()
    scale = 1 + moved * (torch.rand(n, generator=generator) * 0.4 - 0.2)
    shift = moved[:, None] * (torch.rand(n, 2, generator=generator) * 0.3 - 0.15)
    flip = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * flip, scale, shift
    x = images.float() / 127.5 - 1
    grid = F.affine_grid(theta, [n, 3, px, px], align_corners=False)
    # Outside of a drawing is white: shift by one so that grid_sample's zeros mean white.
    x = F.grid_sample(x - 1, grid, mode="bilinear", align_corners=False) + 1
    brightness = 1 + 0.1 * (2 * torch.rand(n, 1, 1, 1, generator=generator) - 1)
    x = ((x + 1) * brightness).clamp(0, 2) - 1
    if maps is not None:
        grid = F.affine_grid(theta, [n, 1, SIDE, SIDE], align_corners=False)
        maps = F.grid_sample(maps, grid, padding_mode="border", align_corners=False)
    return x, maps


def choose_tokens(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(N, 3, PX, PX) -> (N, count) patch indices: random, patches with content preferred."""
    patches = F.unfold(x, PX // SIDE, stride=PX // SIDE)  # (N, 3 * 64, 64)
    content = (patches.std(1) > 0.02).float()
    uniform = torch.rand(content.shape, generator=generator).clamp(min=1e-6)
    gumbel = -(-uniform.log()).log()
    return (gumbel + 1.5 * content).topk(count, dim=1).indices.sort(dim=1).values


def contrastive(images: Tensor, texts: Tensor, ids: Tensor, scale: Tensor) -> Tensor:
    """Symmetric cross entropy of (N, D) pairs; rows with the same caption share the target."""
    logits = scale * images @ texts.T
    target = (ids[:, None] == ids[None]).float()
    target = target / target.sum(1, keepdim=True)
    forward = -(target * F.log_softmax(logits, 1)).sum(1).mean()
    backward = -(target * F.log_softmax(logits.T, 1)).sum(1).mean()
    return (forward + backward) / 2


class TextBank:
    """Embeddings of all captions and class names, each the mean over a few templates."""

    TEMPLATES = ("{}", "an emoji of {}", "an icon of {}")

    def __init__(self, captions: Captions, text: TextTower) -> None:
        self.captions = captions
        cores = {c for e in captions.examples for c in (*e.captions, *e.class_names)}
        self.index = {core: i for i, core in enumerate(sorted(cores))}
        self.embeddings = self._encode(list(self.index), text)
        self.classes = self._encode(captions.class_names, text)

    @torch.no_grad()
    def _encode(self, cores: Sequence[str], text: TextTower) -> Tensor:
        """(N,) texts -> (N, D), normalised."""
        total = sum(
            torch.cat(
                [
                    text(self.captions.tokenize([t.replace("{}", c) for c in cores[i : i + 256]]))
                    for i in range(0, len(cores), 256)
                ]
            )
            for t in self.TEMPLATES
        )
        assert isinstance(total, Tensor)
        return F.normalize(total, dim=1)

    def sample(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Embeddings (N, D) of one caption for each example and the captions' identities (N,)."""
        ids = torch.tensor([self.index[self.captions.single(i)] for i in rows])
        return self.embeddings[ids], ids


class MasterWeights:
    """bfloat16 working weights of a module, float32 masters for the optimiser, and an average."""

    def __init__(self, module: nn.Module, ema: float) -> None:
        self.masters = {
            k: nn.Parameter(v.detach().float().clone()) for k, v in module.named_parameters()
        }
        module.bfloat16()
        self.working = dict(module.named_parameters())
        self.average = {k: v.detach().clone() for k, v in self.masters.items()}
        self.ema = ema

    def gather_gradients(self) -> None:
        for name, working in self.working.items():
            self.masters[name].grad = None if working.grad is None else working.grad.float()
            working.grad = None

    @torch.no_grad()
    def scatter(self, step: int) -> None:
        decay = min(self.ema, (1 + step) / (10 + step))
        for name, master in self.masters.items():
            self.working[name].copy_(master)
            self.average[name].lerp_(master, 1 - decay)


class Trainer:
    """Holds models, optimiser and random states; `run` trains for a time."""

    def __init__(
        self,
        corpus: Corpus,
        captions: Captions,
        settings: Settings,
        text: TextTower,
        log_scale: Tensor,
    ) -> None:
        """text: the trained text tower with its scale; it is kept for export and not changed."""
        torch.manual_seed(settings.seed)
        self.corpus, self.captions, self.settings = corpus, captions, settings
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.numpy = np.random.default_rng(settings.seed)
        self.clip = create()
        width = self.clip.visual.proj.shape[0]
        self.used = captions.used_tokens()
        self.text = text
        self.mean, self.pca = whitening(corpus.features, PCA_DIM)
        self.targets = ((corpus.features.float() - self.mean) @ self.pca).half()
        maps = corpus.maps[:: max(1, len(corpus.maps) // 2000)].float()
        self.map_mean = maps.mean((0, 2, 3))[:, None, None]
        self.map_std = maps.std((0, 2, 3))[:, None, None] + 1e-3
        self.to_feature = nn.Linear(width, PCA_DIM)
        self.to_map = nn.Linear(width, maps.shape[1])
        self.log_scale = log_scale.detach().clone()
        self.scale = self.log_scale.exp().clamp(max=50)
        self.texts = TextBank(captions, text)
        self.class_prior = class_prior(captions, corpus.weights)
        self.student = MasterWeights(self.clip.visual, settings.ema)
        self.heads = [*self.to_feature.parameters(), *self.to_map.parameters()]
        self.optimiser = self._optimiser()
        self.step = 0

    @torch.no_grad()
    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Begin with a vision tower's weights, such as the average of an earlier round."""
        for name, master in self.student.masters.items():
            master.copy_(weights[name])
            self.student.working[name].copy_(master)
            self.student.average[name].copy_(master)

    def _optimiser(self) -> torch.optim.Optimizer:
        s = self.settings
        masters = list(self.student.masters.values())
        groups: list[dict[str, Any]] = [
            {"params": [p for p in masters if p.ndim > 1], "weight_decay": s.weight_decay},
            {"params": [p for p in masters if p.ndim <= 1], "weight_decay": 0.0},
            {"params": self.heads, "weight_decay": 0.01},
        ]
        return torch.optim.AdamW(groups, lr=s.lr, betas=(0.9, 0.98))

    def _class_loss(self, embeddings: Tensor, rows: np.ndarray, prompts: Tensor) -> Tensor:
        """Logit-adjusted cross entropy over class prompts, for examples whose class is known."""
        classes = self.captions.classes[torch.from_numpy(rows)]
        known = classes >= 0
        logits = self.scale * embeddings[known] @ prompts.T + self.class_prior
        return F.cross_entropy(logits, classes[known])

    def _draw(self, count: int) -> np.ndarray:
        return self.numpy.choice(len(self.corpus.weights), count, p=self.corpus.weights)

    def _student_loss(self, share: float) -> tuple[Tensor, dict[str, float]]:
        s, rows = self.settings, self._draw(self.settings.batch)
        index = torch.from_numpy(rows)
        maps = (self.corpus.maps[index].float() - self.map_mean) / self.map_std
        maps = F.interpolate(maps, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        x, maps = augment(self.corpus.images[index], maps, self.generator)
        keep = choose_tokens(x, s.kept_tokens, self.generator) if share < s.full_from else None
        pooled, tokens = encode_tokens(self.clip.visual, x.bfloat16(), keep)
        raw = (pooled @ self.clip.visual.proj).float()
        embeddings = F.normalize(raw, dim=1)
        target = self.targets[index].float()
        guess = self.to_feature(pooled.float())
        cosine = 1 - F.cosine_similarity(guess, target).mean()
        map_target = maps.flatten(2).transpose(1, 2)  # (N, 64, 112)
        if keep is not None:
            map_target = map_target.gather(1, keep[..., None].expand(-1, -1, maps.shape[1]))
        token_loss = F.smooth_l1_loss(self.to_map(tokens.float()), map_target)
        joint = self.corpus.joint[index].float()
        texts, ids = self.texts.sample(rows.tolist())
        contrast = contrastive(embeddings, texts, ids, self.scale)
        class_loss = self._class_loss(embeddings, rows, self.texts.classes)
        joint_loss = 1 - (embeddings * joint).sum(1).mean()
        total = (
            s.distil * (cosine + F.smooth_l1_loss(guess, target))
            + s.tokens * token_loss
            + s.joint * joint_loss
            + s.contrast * contrast
            + s.classes * class_loss
        )
        parts = {"cos": cosine, "tok": token_loss, "joint": joint_loss, "con": contrast}
        parts["cls"] = class_loss
        return total, {k: float(v.detach()) for k, v in parts.items()}

    def _one_step(self, share: float) -> dict[str, float]:
        warm = min(1.0, (self.step + 1) / 150)
        factor = warm * (0.5 * (1 + math.cos(math.pi * min(1.0, share))) * 0.99 + 0.01)
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.lr * factor
        loss, parts = self._student_loss(share)
        self.optimiser.zero_grad()
        loss.backward()
        self.student.gather_gradients()
        parameters = [p for g in self.optimiser.param_groups for p in g["params"]]
        nn.utils.clip_grad_norm_(parameters, 3.0)
        self.optimiser.step()
        self.step += 1
        self.student.scatter(self.step)
        return parts

    def run(
        self, checkpoint: Callable[[Trainer], None], log: Callable[[str], None] = print
    ) -> None:
        """Train for `settings.minutes`; the learning rate follows the clock, not the step."""
        start = last = time.monotonic()
        first, length = self.step, 60 * self.settings.minutes
        running: dict[str, float] = {}
        while (now := time.monotonic()) - start < length:
            parts = self._one_step((now - start) / length)
            for k, v in parts.items():
                running[k] = 0.98 * running.get(k, v) + 0.02 * v
            if self.step % 50 == 0:
                rate = (self.step - first) * self.settings.batch / (time.monotonic() - start)
                text = " ".join(f"{k} {v:.3f}" for k, v in running.items())
                log(f"{(now - start) / 60:5.1f} min step {self.step} {rate:.0f} img/s {text}")
            if now - last > 60 * self.settings.checkpoint_minutes:
                checkpoint(self)
                last = time.monotonic()
        checkpoint(self)

    def state(self) -> dict[str, Tensor]:
        """open_clip state dict with the averaged vision tower and the full token table."""
        visual = {f"visual.{k}": v.detach() for k, v in self.student.average.items()}
        return visual | self.text.clip_state(self.used, self.log_scale)
