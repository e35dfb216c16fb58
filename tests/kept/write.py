"""Write one artefact of every kind with the ltcache that is installed, as archives to keep.

    python -m tests.kept.write tests/kept/v0.1.0

Images and models are drawn from seeds and tiny. Rows of the text embedding that no prompt uses are
zero, so that an archive of a whole model packs into a tenth of its size.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image

from tests.encoder.tiny_models import build, tiny_config, write_folder

CLASSES = {"blue jay": 12, "moth": 6, "newt": 3}
HELD_OUT = 3
MODEL = ("--model", "local-dir:tiny")
QUICK = ("-s", "optimisation.epochs=2", "-s", "optimisation.batch=8")

METHODS = {
    "ce": "linear head",
    "lift-lp": "cosine head, class texts",
    "dr-cosine+h2t": "two stages and a fusion",
    "mislas": "scaled classifier",
    "lws": "scales of a kept classifier",
    "marc": "margins of a kept classifier",
    "disalign": "calibration of a kept classifier",
    "tau-norm": "a transformed head",
    "posthoc-la": "an adjusted head",
    "gla": "two heads adjusted",
    "ride": "experts",
    "reslt": "residual branches",
    "sade": "experts of three priors",
    "ballad": "adapter",
    "sage": "attention over class texts",
    "cross-modal": "class texts as rows",
    "tip-adapter": "votes of neighbours",
    "tip-adapter-f": "trained keys",
    "knn": "nearest rows",
    "ncm": "class means",
    "gda": "one covariance",
    "zero-shot": "nothing fitted",
}
UNTRAINED = ("tip-adapter", "knn", "ncm", "gda", "zero-shot")
TUNINGS = ("lift", "sage", "tin", "full")


def write_images(root: Path) -> None:
    """Write class folders below train, val and test, one of whose images is broken, and a pool."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for label, (name, count) in enumerate(CLASSES.items()):
            folder = root / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(count if split == "train" else HELD_OUT):
                _write_image(folder / f"{number}.png", label, rng)
    (root / "images" / "train" / "moth" / "broken.png").write_text("no image")
    (root / "pool").mkdir()
    for number in range(24):
        _write_image(root / "pool" / f"{number}.png", number % len(CLASSES), rng)


def _write_image(path: Path, label: int, rng: np.random.Generator) -> None:
    color = np.random.default_rng(label).integers(0, 256, 3)
    pixels = np.clip(color + rng.integers(-40, 40, (8, 8, 3)), 0, 255)
    image = Image.fromarray(pixels.astype(np.uint8))
    image.resize((32, 32), Image.Resampling.NEAREST).save(path)


def write_model(folder: Path) -> None:
    """Write a tiny dual encoder in which only tokens of the prompts have an embedding."""
    config = tiny_config()
    model = build(config)
    prompts = [f"a photo of a {name}." for name in CLASSES]
    used = torch.unique(open_clip.get_tokenizer("ViT-B-32")(prompts))
    embedding = model.token_embedding.weight.data
    kept = embedding[used].clone()
    embedding.zero_()
    embedding[used] = kept
    write_folder(folder, config, model)


def write_all(out: Path) -> None:
    """Make every artefact below a temporary folder and pack each into ``out``."""
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_images(root)
        write_model(root / "tiny")
        _make(root)
        _pack(root, ["tiny"], out / "model.zip")
        _pack(root, ["images"], out / "images.zip")
        _pack(root, ["cache"], out / "cache.zip")
        for folder in ("runs", "ensemble", "ablation", "pool-cache", "index"):
            _pack(root, [folder], out / f"{folder}.zip")
        _pack(root, ["retrieved", "decisions.json"], out / "retrieved.zip")
        for tuning in TUNINGS:
            shutil.rmtree(root / tuning / "cache")  # a cache like any other
            _pack(root, [tuning], out / f"tuned-{tuning}.zip")


def _make(root: Path) -> None:
    threads = ("--threads", "1")
    more = ("--views", "flip,rrc:2,cmo:2", "--fields", "embedding,pooled,tokens")
    extract = ("extract", "images", "--out", "cache", *MODEL, *more, *threads)
    _call(root, *extract, status=3)
    _call(root, "extract", "pool", "--unlabelled", "--out", "pool-cache", *MODEL, *threads)
    for method in METHODS:
        quick = () if method in UNTRAINED else QUICK
        _call(root, "fit-adapter", "cache", "--method", method, "--out", f"runs/{method}", *quick)
    tokens = ("-s", "feature.field=tokens", *QUICK)
    _call(root, "fit-adapter", "cache", "--method", "tin", "--out", "runs/tin", *QUICK)
    _call(root, "fit-adapter", "cache", "--method", "tin", *tokens, "-s", "head=visual_attention",
          "--out", "runs/tin-tokens")  # fmt: skip
    _call(root, "fit-adapter", "cache", "--method", "ce", "--seeds", "2", "--out", "runs/seeds",
          *QUICK)  # fmt: skip
    _call(root, "ensemble", "runs/ce", "zero-shot", "--out", "ensemble")
    _call(root, "ablate", "cache", "--methods", "ce,crt", "--seeds", "2", "--workers", "1", *QUICK,
          "--out", "ablation")  # fmt: skip
    retrieve = ("retrieve-tail", "cache", "pool-cache", "--per-class", "3", "--threshold", "0")
    _call(root, *retrieve, "--out", "retrieved", "--index", "flat", "--save-index", "index",
          "--without-guard", "margin", "--group", "few")  # fmt: skip
    _decide(root)
    for tuning in TUNINGS:
        _call(root, "finetune", "images", "--method", tuning, "--cache", "cache", "--out", tuning,
              "--workers", "0", *MODEL, *QUICK, status=3)  # fmt: skip


def _decide(root: Path) -> None:
    """Accept and reject one candidate each, as a person would with the gallery's export."""
    from ltcache.retrieval import open_retrieved
    from ltcache.retrieval.review.decisions import retrieval_identity

    result = open_retrieved(root / "retrieved")
    rows = result.table.select(["label", "key", "status", "reason"]).to_pylist()
    taken = next(row for row in rows if row["status"] == "accepted")
    left = next(
        row for row in rows if row["reason"] not in ("", "leak") and row["key"] != taken["key"]
    )
    chosen = [(taken, "reject"), (left, "accept")]
    decisions = [{"label": r["label"], "key": r["key"], "decision": d} for r, d in chosen]
    content = {"format": 1, "retrieval": retrieval_identity(result), "decisions": decisions}
    (root / "decisions.json").write_text(json.dumps(content))
    _call(root, "review", "retrieved", "--decisions", "decisions.json")


def _call(root: Path, *arguments: str, status: int = 0) -> None:
    from ltcache.cli import main

    print("ltcache", *arguments, flush=True)
    os.chdir(root)  # places in what is written are then relative to it
    try:
        main(arguments)
    except SystemExit as ended:
        if (ended.code or 0) != status:
            raise SystemExit(f"status {ended.code}, not {status}") from None


def _pack(root: Path, folders: Sequence[str], out: Path) -> None:
    files = [
        path for folder in folders for path in sorted([root / folder, *(root / folder).rglob("*")])
    ]
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in files:
            archive.write(path, path.relative_to(root))


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
