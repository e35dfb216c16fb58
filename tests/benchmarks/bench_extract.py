"""Extraction end to end, against the bound of its parts and against a plain open_clip loop.

    python -m tests.benchmarks.bench_extract [--model embedded|vit-s|vit-b] [--images N]
        [--batch B] [--repeats R] [--threads T] [--workers W]

Situations: ``embedded``, small drawings in one zip file, where the overhead of Python per image
counts; ``vit-s`` and ``vit-b``, photographs of 500 x 375 pixels and about 100 KB. Weights are
random (except the embedded encoder's own), float32 and Pillow's exact decoding on every side, and
no class texts are encoded. Everything runs in turn in one process; a ratio is the median over
rounds, with its range, so only the ratios of one run mean something.

The work-conserving bound. On a CPU decoding and forward passes compete for the same cores, so no
schedule can take less than

    bound seconds = (CPU-seconds of decoding alone + CPU-seconds of forward alone) / cores

``parts`` is the same with measured time instead of CPU-seconds: decoding alone on all cores, then
forward alone. Both agree on a quiet machine; on a busy one CPU-seconds ignore what other processes
take (so the ratio to the bound falls) and ``parts`` suffers as much as what it is compared with.
Ratios named CPU compare CPU-seconds with CPU-seconds: overhead without waiting, whatever else runs.
Forward alone is measured in three ways, with compute threads that spin at barriers for long, as is
the default, and briefly, and several batches at once with a thread each; the best counts.
``others`` says how many cores other processes took on average. On a GPU the bound is the slower of
the two parts.

The peer is the loop that people write: a Dataset that opens a file and applies open_clip's own
transform, a DataLoader, ``encode_image``, one array in the end; with its best number of workers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from ltcache.encoder import Encoder, load_encoder
from ltcache.extract import extract
from ltcache.images import decode, open_store
from ltcache.manifest import ClassList, Manifest, read_manifest
from ltcache.process import ConcurrentPasses, spin_briefly, threads_of_passes
from tests.benchmarks.timing import Ratio

PEER_WORKERS = (0, 1, 2, 4)
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Situation:
    """What is encoded by what.

    Args:
        manifest: unlabelled rows, so that no class texts are encoded.
        files: the same images as files, for the peer.
        batch: images in one forward pass, on all sides.
    """

    name: str
    encoder: Encoder
    manifest: Manifest
    files: list[Path]
    batch: int


def photographs(root: Path, count: int, seed: int = 0) -> Path:
    """Write ``count`` JPEGs of 500 x 375 pixels and about 100 KB: smooth shapes plus texture."""
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True)
    for number in range(count):
        coarse = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC))
        fine = rng.normal(0, 18, (375, 500, 1)) + rng.normal(0, 4, (375, 500, 3))
        pixels = np.clip(smooth + fine, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{number:05d}.jpg", quality=88)
    return root


def unlabelled(manifest: Manifest, count: int) -> Manifest:
    """Return the first rows of a manifest without their classes."""
    rows = manifest.rows.slice(0, count).select(["row_id", "key", "uri", "label", "split"])
    label = pa.array(np.full(len(rows), -1), pa.int64())
    rows = rows.set_column(3, "label", label)
    return replace(manifest, rows=rows, classes=ClassList(()), descriptions=None, groups=None)


def embedded_encoder(work: Path) -> Encoder:
    """Return the embedded encoder, or one of its size with random weights."""
    try:
        from ltcache.embedded import encoder_path

        encoder_path()
    except (ImportError, OSError):
        from tests.encoder.tiny_models import build, tiny_config, write_folder

        config = tiny_config(embed_dim=512, image_size=64)
        config["vision_cfg"] |= {"layers": 6, "width": 192, "head_width": 64}
        return load_encoder(f"local-dir:{write_folder(work / 'encoder', config, build(config))}")
    return load_encoder("embedded")


def drawings(work: Path, count: int, batch: int) -> Situation:
    """The embedded encoder on the packaged drawings."""
    manifest = unlabelled(read_manifest("emoji_lt"), count)
    assert manifest.root is not None
    with zipfile.ZipFile(manifest.root) as archive:
        archive.extractall(work / "files")
    files = [work / "files" / uri for uri in manifest.rows["uri"].to_pylist()]
    return Situation("embedded", embedded_encoder(work), manifest, files, batch)


def photos(name: str, architecture: str) -> Callable[[Path, int, int], Situation]:
    """An architecture with random weights on photographs."""

    def make(work: Path, count: int, batch: int) -> Situation:
        root = photographs(work / "photos", count)
        manifest = unlabelled(read_manifest(root), count)
        files = [root / uri for uri in manifest.rows["uri"].to_pylist()]
        return Situation(name, load_encoder(architecture, "random:0"), manifest, files, batch)

    return make


SITUATIONS: dict[str, tuple[Callable[[Path, int, int], Situation], int]] = {
    "embedded": (drawings, 3072),
    "vit-s": (photos("vit-s", "ViT-S-32-alt"), 384),
    "vit-b": (photos("vit-b", "ViT-B-32"), 192),
}
"""Name -> how it is made, and how many images give a few seconds of work on two cores."""


def decode_all(situation: Situation, threads: int) -> np.ndarray:
    """Read and decode every image; uint8 (N, 3, H, W)."""
    store = open_store(situation.manifest.root)
    preprocessing = situation.encoder.preprocessing
    uris = situation.manifest.rows["uri"].to_pylist()
    pixels = np.empty((len(uris), 3, *preprocessing.size), np.uint8)

    def task(rows: range) -> None:
        for row in rows:
            pixels[row] = decode(store.read(uris[row]), preprocessing).pixels

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(task, (range(i, len(uris), threads) for i in range(threads))))
    return pixels


def forward_all(situation: Situation, pixels: np.ndarray) -> None:
    """Encode decoded images, batch by batch."""
    for batch in torch.from_numpy(pixels).split(situation.batch):
        situation.encoder.encode_images(batch)


def forward_spinning_briefly(situation: Situation, pixels: np.ndarray) -> None:
    """The same, with compute threads that sleep soon at a barrier, as beside ltcache's decoders."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(spin_briefly).result()
        forward_all(situation, pixels)


def forward_at_once(situation: Situation, pixels: np.ndarray) -> None:
    """The same, as many batches at once as there are cores, with one compute thread each."""
    with threads_of_passes(1), ConcurrentPasses(CORES) as passes:
        batches = torch.from_numpy(pixels).split(situation.batch)
        for done in [passes.submit(situation.encoder.encode_images, batch) for batch in batches]:
            done.result()


class Files(torch.utils.data.Dataset[torch.Tensor]):
    """The peer's dataset: one file, open_clip's own transform."""

    def __init__(self, files: list[Path], transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.files = files
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(self.files[index]))


def plain_loop(situation: Situation, workers: int) -> np.ndarray:
    """The peer: features float32 (N, D)."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    encoder = situation.encoder
    cfg = PreprocessCfg(**{**encoder.preprocessing.to_dict(), "mode": "RGB"})
    dataset = Files(situation.files, image_transform_v2(cfg, is_train=False))
    model = encoder.model.to(memory_format=torch.contiguous_format)  # as open_clip loads it
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # more workers than processors: that is what we ask
        loader = torch.utils.data.DataLoader(dataset, situation.batch, num_workers=workers)
        rows = [model.encode_image(images.to(encoder.device)).cpu() for images in loader]
    if encoder.numerics()["memory_format"] == "channels_last":
        model.visual.to(memory_format=torch.channels_last)
    return torch.cat(rows).numpy()


@dataclass
class Clock:
    """Seconds of each named piece of work: measured, of this process' CPU, and of others."""

    wall: dict[str, list[float]]
    cpu: dict[str, list[float]]
    others: list[float]

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Measure one repetition."""
        busy, cpu, wall = _busy_cores(), _own_cpu(), time.perf_counter()
        yield
        wall, cpu = time.perf_counter() - wall, _own_cpu() - cpu
        self.wall[name].append(wall)
        self.cpu[name].append(cpu)
        self.others.append(max(0.0, (_busy_cores() - busy - cpu) / wall))

    def seconds(self, name: str) -> float:
        """Median measured seconds."""
        return statistics.median(self.wall[name])


def _own_cpu() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _busy_cores() -> float:
    """Return CPU-seconds that all processes of the machine have used (0 where unknown)."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system = (int(value) for value in fields[:3])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def measure(situation: Situation, work: Path, repeats: int, workers: int | None) -> dict[str, Any]:
    """Run every side ``repeats`` times, interleaved, after one that does not count."""
    clock = Clock(defaultdict(list), defaultdict(list), [])
    pixels = decode_all(situation, CORES)
    forward_all(situation, pixels[: 2 * situation.batch])
    report: Any = None
    for repeat in range(repeats):
        with clock.measure("decode"):
            decode_all(situation, CORES)
        with clock.measure("forward"):
            forward_all(situation, pixels)
        with clock.measure("forward, brief"):
            forward_spinning_briefly(situation, pixels)
        if situation.encoder.device.type == "cpu":
            with clock.measure("forward, at once"):
                forward_at_once(situation, pixels)
        with clock.measure("ours"):
            report = extract(
                situation.manifest,
                work / f"cache-{repeat}",
                encoder=situation.encoder,
                batch_size=situation.batch,
                workers=workers,
            )
        for count in PEER_WORKERS:
            with clock.measure(f"peer {count}"):
                plain_loop(situation, count)
    return _ratios(situation, clock, len(pixels), report.binding)


def _ratios(situation: Situation, clock: Clock, images: int, binding: str) -> dict[str, Any]:
    wall, cpu = clock.wall, clock.cpu
    peers = [f"peer {count}" for count in PEER_WORKERS]
    peer = min(peers, key=clock.seconds)
    ways = [name for name in wall if name.startswith("forward")]
    forward, forward_cpu = _least(wall, ways), _least(cpu, ways)
    total = [a + b for a, b in zip(cpu["decode"], forward_cpu, strict=True)]
    if situation.encoder.device.type == "cuda":
        parts = bound = [max(a, b) for a, b in zip(wall["decode"], forward, strict=True)]
    else:
        parts = [a + b for a, b in zip(wall["decode"], forward, strict=True)]
        bound = [seconds / CORES for seconds in total]
    return {
        "situation": situation.name,
        "images": images,
        "decode/s": images / clock.seconds("decode"),
        "forward/s": images / statistics.median(forward),
        "ours/s": images / clock.seconds("ours"),
        "ours/bound": Ratio.of(bound, wall["ours"]),
        "ours/parts": Ratio.of(parts, wall["ours"]),
        "ours/peer": Ratio.of(wall[peer], wall["ours"]),
        "CPU parts/ours": Ratio.of(total, cpu["ours"]),
        "CPU peer/ours": Ratio.of(_least(cpu, peers), cpu["ours"]),
        "best peer": f"{peer.removeprefix('peer ')} workers",
        "binds": binding,
        "others": statistics.median(clock.others),
    }


def _least(times: dict[str, list[float]], names: Sequence[str]) -> list[float]:
    """Return the least of some pieces of work in each round."""
    return [min(each) for each in zip(*(times[name] for name in names), strict=True)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(SITUATIONS), help="all by default")
    parser.add_argument("--images", type=int, help="a few seconds of work by default")
    parser.add_argument("--batch", type=int, default=16, help="images in one forward pass")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="compute threads")
    parser.add_argument("--workers", type=int, help="decoding threads of ltcache")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(
        f"{CORES} cores, {torch.get_num_threads()} compute threads, "
        f"{options.workers or 'default'} decoding threads, batches of {options.batch}, "
        f"fp32, Pillow exact, medians of {options.repeats}"
    )
    for name in [options.model] if options.model else SITUATIONS:
        make, images = SITUATIONS[name]
        with tempfile.TemporaryDirectory(prefix="bench-extract-") as folder:
            situation = make(Path(folder), options.images or images, options.batch)
            result = measure(situation, Path(folder), options.repeats, options.workers)
        print("  ".join(_cell(key, value) for key, value in result.items()), flush=True)


def _cell(name: str, value: Any) -> str:
    return f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"


if __name__ == "__main__":
    main()
