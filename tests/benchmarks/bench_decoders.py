"""How far other decoders are from Pillow, and what an image costs with each.

    python -m tests.benchmarks.bench_decoders IMAGES [--images N] [--model NAME] [--repeats R]

IMAGES is a folder or an archive of photographs. Printed are the differences of pixels as they are
decoded (levels of 0..255), the least and the mean cosine of the encoder's features of all images,
and processor time per image of decoding with resizing to the encoder's size: decoders in turn, the
median over the rounds. ``nvjpeg`` is among them where there is a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from ltcache.encoder import Encoder, load_encoder
from ltcache.images import DECODERS, PILLOW, decode, open_store
from ltcache.images.decoding import opened
from ltcache.manifest import read_manifest


def pixels(data: bytes, decoder: str) -> np.ndarray:
    """Return the pixels of a file in its own size."""
    with opened(data) as image:
        return np.asarray(DECODERS[decoder](image, data).convert("RGB")).astype(int)


def deviation(files: list[bytes], decoder: str) -> str:
    """Return how far pixels are from Pillow's."""
    apart = [np.abs(pixels(data, decoder) - pixels(data, PILLOW)) for data in files]
    same = sum(not image.any() for image in apart) / len(files)
    mean = float(np.mean([image.mean() for image in apart]))
    return f"pixels: mean {mean:.4f}, most {max(map(np.max, apart))}, equal {same:.1%} of images"


def features(files: list[bytes], decoder: str, encoder: Encoder) -> torch.Tensor:
    """Return the first field of all images."""
    crops = np.stack([decode(data, encoder.preprocessing, decoder).pixels for data in files])
    name = next(iter(encoder.dims))
    batches = torch.from_numpy(crops).split(16)
    return torch.cat([encoder.encode_images(batch, [name])[name] for batch in batches])


def cost(files: list[bytes], decoder: str, encoder: Encoder) -> float:
    """Return milliseconds of processor time for an image."""
    started = time.process_time()
    for data in files:
        decode(data, encoder.preprocessing, decoder)
    return (time.process_time() - started) / len(files) * 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    manifest = read_manifest(options.source, labelled=False)
    chosen = np.unique(np.linspace(0, len(manifest) - 1, options.images).astype(int))
    store = open_store(manifest.root)
    files = [store.read(uri) for uri in manifest.rows["uri"].take(chosen).to_pylist()]
    names = [n for n in DECODERS if n != "nvjpeg" or torch.cuda.is_available()]
    encoder = load_encoder(options.model, device="cpu")
    exact = features(files, PILLOW, encoder)
    rounds = [{n: cost(files, n, encoder) for n in names} for _ in range(options.repeats)]
    for name in names:
        ratio = statistics.median(one[name] / one[PILLOW] for one in rounds)
        alike = torch.nn.functional.cosine_similarity(features(files, name, encoder), exact)
        print(
            f"{name}, {len(files)} images: {deviation(files, name)}; cosine least "
            f"{alike.min():.6f}, mean {alike.mean():.6f}; "
            f"{statistics.median(one[name] for one in rounds):.2f} ms, {ratio:.2f} of Pillow's"
        )


if __name__ == "__main__":
    main()
