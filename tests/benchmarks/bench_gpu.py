"""All that a GPU speeds up, in one run of at most ten minutes: a table of ratios, and JSON.

    python -m tests.benchmarks.bench_gpu [--out gpu.json] [--minutes 9]
    python -m tests.benchmarks.bench_gpu --toy        (on a CPU in seconds: whether it still runs)

- ``extract``: JPEGs of 256 pixels through ViT-B-32, B-16 and L-14 with random weights, in bfloat16,
  against the slower of forward alone and decoding alone on all cores, which no schedule beats, and
  against the loop that people write: a DataLoader with open_clip's transform, ``encode_image``.
- ``fit``: an epoch of a head, against the two products of its steps.
- ``finetune``: a step of BALLAD's phase A and of LIFT, against the step of plain open_clip.
- ``retrieve``: the exact pass over a pool, against its products with blocks that are there already.

Ratios above 1 are faster than what they are compared with. Both sides run in turn, after a first
round that does not count, and medians are compared. Peak memory is that of the GPU. A part that
would begin after the minutes are over is left out and named, and so is one that fails.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ltcache.encoder import Encoder, load_encoder
from ltcache.extract import extract
from ltcache.manifest import read_manifest
from ltcache.retrieval.scoring.pool_scores import score_pool
from ltcache.retrieval.scoring.queries import ClassQueries, unit
from tests.benchmarks import bench_finetune
from tests.benchmarks.bench_extract import (
    CORES,
    Files,
    Situation,
    decode_all,
    forward_all,
    unlabelled,
)
from tests.benchmarks.bench_fit import Problem
from tests.class_folders import write_images
from tests.retrieval.array_pool import ArrayPool


@dataclass(frozen=True)
class BenchSizes:
    """How much is measured.

    Args:
        models: of extraction. tuned: of fine-tuning. images: to encode. batch: of both.
        rows, classes: of the fit. pool: rows of the retrieval. repeats: rounds that count.
    """

    models: tuple[str, ...] = ("ViT-B-32", "ViT-B-16", "ViT-L-14")
    tuned: str = "ViT-B-16"
    precision: str = "bf16"
    images: int = 8192
    batch: int = 256
    rows: int = 115_846
    classes: int = 1000
    pool: int = 2_000_000
    repeats: int = 3


TOY = BenchSizes(("embedded",), "embedded", "fp32", 24, 8, 2100, 12, 500, 1)


@dataclass(frozen=True)
class GPUResult:
    """One line of the table.

    Args:
        what: is measured. rate: of ours, in ``unit`` per second.
        ratios: speed of ours over that of what it is compared with, by its name.
        peak_gb: of the GPU while ours ran; None on a CPU.
    """

    what: str
    unit: str
    rate: float
    ratios: dict[str, float]
    peak_gb: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)


def medians(
    sides: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
) -> tuple[dict[str, float], float | None]:
    """Return median seconds of each side, run in turn, and the peak memory of ``ours``, in GB."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    peak = None
    for repeat in range(repeats + 1):
        for name, run in sides.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            begin = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
                if name == "ours":
                    peak = torch.cuda.max_memory_allocated(device) / 1e9
            if repeat:
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}, peak


def extraction(sizes: BenchSizes, device: torch.device, work: Path) -> Iterator[GPUResult]:
    """Measure extraction by each model."""
    root = work / "photos"
    write_photographs(root / "fox", sizes.images)
    manifest = unlabelled(read_manifest(root), sizes.images)
    files = [root / uri for uri in manifest.rows["uri"].to_pylist()]
    for model in sizes.models:
        situation = Situation(model, encoder_of(model, sizes, device), manifest, files, sizes.batch)
        pixels = decode_all(situation, CORES)
        out = iter(range(1000))
        sides: dict[str, Callable[[], object]] = {
            "decode": lambda s=situation: decode_all(s, CORES),  # type: ignore[misc]
            "forward": lambda s=situation, p=pixels: forward_all(s, p),  # type: ignore[misc]
            "ours": lambda s=situation, o=out: extract(  # type: ignore[misc]
                s.manifest, work / f"{s.name}-{next(o)}", encoder=s.encoder, batch_size=s.batch
            ),
        }
        if enough_shared_memory(situation):
            sides["loop"] = lambda s=situation: plain_loop(s)  # type: ignore[misc]
        found, peak = medians(sides, sizes.repeats, device)
        ratios = {"bound": max(found["decode"], found["forward"]) / found["ours"]}
        if "loop" in found:
            ratios["open_clip"] = found["loop"] / found["ours"]
        parts = {f"{name}/s": sizes.images / found[name] for name in ("decode", "forward")}
        yield GPUResult(
            f"extract {model}", "images", sizes.images / found["ours"], ratios, peak, parts
        )


def write_photographs(folder: Path, count: int, distinct: int = 64) -> None:
    """Write JPEGs of 256 pixels: a few pictures, told apart by bytes behind the picture's end."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    pictures = []
    for _ in range(min(count, distinct)):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((256, 256), Image.Resampling.BICUBIC))
        pixels = np.clip(smooth + rng.normal(0, 18, (256, 256, 1)), 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=88)
        pictures.append(file.getvalue())
    for number in range(count):
        content = pictures[number % len(pictures)] + number.to_bytes(8, "big")
        (folder / f"{number:05d}.jpg").write_bytes(content)


def enough_shared_memory(situation: Situation) -> bool:
    """Whether the peer's workers can hand over their batches; containers often have too little, and
    without workers the peer alone would take all the minutes."""
    if situation.encoder.device.type != "cuda":
        return True
    height, width = situation.encoder.preprocessing.size
    batch = situation.batch * 3 * height * width * 4
    return shutil.disk_usage("/dev/shm").free > 3 * CORES * batch


def encoder_of(model: str, sizes: BenchSizes, device: torch.device) -> Encoder:
    """Return an encoder with random weights, or the embedded one."""
    weights = None if model == "embedded" else "random:0"
    return load_encoder(model, weights, device=str(device), precision=sizes.precision)


def plain_loop(situation: Situation) -> torch.Tensor:
    """Return what the loop that people write gives, float32 (N, D)."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    encoder = situation.encoder
    cfg = PreprocessCfg(**{**encoder.preprocessing.to_dict(), "mode": "RGB"})
    dataset = Files(situation.files, image_transform_v2(cfg, is_train=False))
    on_gpu = encoder.device.type == "cuda"
    loader = torch.utils.data.DataLoader(
        dataset, situation.batch, num_workers=CORES if on_gpu else 0, pin_memory=on_gpu
    )
    with torch.inference_mode():
        rows = [
            encoder.model.encode_image(
                images.to(encoder.device, encoder.dtype, non_blocking=True)
            ).float().cpu()
            for images in loader
        ]  # fmt: skip
    return torch.cat(rows)


def fits(sizes: BenchSizes, device: torch.device, work: Path) -> Iterator[GPUResult]:
    """Measure an epoch of heads."""
    problem = Problem(sizes.rows, 512, sizes.classes, str(device))
    for head, batch, precision in (
        ("linear", 2048, "fp32"), ("cosine", 2048, "fp32"), ("linear", 512, "fp32"),
        ("linear", 2048, "bf16"),
    ):  # fmt: skip
        sides: dict[str, Callable[[], object]] = {
            "floor": lambda b=batch, p=precision: problem.floor(b, p),  # type: ignore[misc]
            "ours": lambda h=head, b=batch, p=precision: problem.fit(  # type: ignore[misc]
                h, "logit_adjustment", b, p, True
            ),
        }
        found, peak = medians(sides, sizes.repeats, device)
        name = f"fit {head}, batch {batch}, {precision}"
        ratios = {"bound": found["floor"] / found["ours"]}
        yield GPUResult(name, "rows", sizes.rows / found["ours"], ratios, peak)


def fine_tuning(sizes: BenchSizes, device: torch.device, work: Path) -> Iterator[GPUResult]:
    """Measure steps of fine-tuning."""
    encoder = load_encoder(
        sizes.tuned, None if sizes.tuned == "embedded" else "random:0", device="cpu"
    )
    names = {f"class {number}": 2 for number in range(min(sizes.classes, 100))}
    manifest = read_manifest(write_images(work / "classes" / "train", names).parent)
    generator = torch.Generator().manual_seed(0)
    shape = (sizes.batch // 2, 3, *encoder.preprocessing.size)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, len(names), shape[:1], generator=generator)
    setting = bench_finetune.Setting(
        encoder, manifest, pixels.to(device), labels.to(device), sizes.precision, len(labels)
    )
    for method in ("ballad", "lift"):
        steps = 10 if device.type == "cuda" else 1
        found = bench_finetune.measure(setting, method, "plain", steps, sizes.repeats)
        (_, rate, most), _, (_, ratio, _) = found
        peak = None if most is None else most / 1e9
        name = f"finetune {method}, {sizes.tuned}"
        yield GPUResult(name, "images", rate, {"open_clip": ratio}, peak)


def retrieval(sizes: BenchSizes, device: torch.device, work: Path) -> Iterator[GPUResult]:
    """Measure the exact pass with lists of a tenth of the classes."""
    rng = np.random.default_rng(0)
    part = rng.normal(size=(min(sizes.pool, 100_000), 512)).astype(np.float16)
    values = np.resize(part, (sizes.pool, 512))
    queries = ClassQueries(unit(rng.normal(size=(1, sizes.classes, 512))), 0.01)
    labels = np.arange(max(1, sizes.classes // 10))
    block = torch.randn(min(32_768, sizes.pool), 512, device=device)
    prompts = torch.from_numpy(queries.scaled[0]).to(device, torch.float32)
    logits = torch.empty(len(block), sizes.classes, device=device)

    def products() -> None:
        for _ in range(-(-sizes.pool // len(block))):
            torch.mm(block, prompts.T, out=logits)

    sides: dict[str, Callable[[], object]] = {
        "floor": products,
        "ours": lambda: score_pool(ArrayPool(values), queries, labels, 20, device=str(device)),
    }
    found, peak = medians(sides, sizes.repeats, device)
    ratios = {"bound": found["floor"] / found["ours"]}
    yield GPUResult("retrieve, fp32", "rows", sizes.pool / found["ours"], ratios, peak)


PARTS = {
    "extract": extraction,
    "fit": fits,
    "finetune": fine_tuning,
    "retrieve": retrieval,
}


def measured(
    sizes: BenchSizes, device: torch.device, seconds: float, parts: list[str]
) -> Iterator[GPUResult | str]:
    """Yield each result, or what was not measured and why."""
    end = time.monotonic() + seconds
    for name in parts:
        with tempfile.TemporaryDirectory(prefix="bench-gpu-") as work:
            if time.monotonic() > end:
                yield f"{name}: not measured, the minutes are over"
                continue
            try:
                for result in PARTS[name](sizes, device, Path(work)):
                    yield result
                    if time.monotonic() > end:
                        yield f"the rest of {name}: not measured, the minutes are over"
                        break
            except Exception as error:  # the other parts are worth their minutes
                traceback.print_exc()
                yield f"{name}: failed, {type(error).__name__}: {error}"


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("bench_gpu.json"))
    parser.add_argument("--minutes", type=float, default=9.0, help="after which nothing begins")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--toy", action="store_true", help="tiny sizes on the CPU")
    chosen = parser.parse_args(arguments)
    device = torch.device("cpu" if chosen.toy else "cuda")
    sizes = TOY if chosen.toy else BenchSizes()
    where = "CPU" if chosen.toy else torch.cuda.get_device_name(device)
    print(f"{where}, {CORES} cores, torch {torch.__version__}, {sizes.precision}")
    print(f"{'':32}{'per second':>20}{'of bound':>10}{'open_clip':>11}{'peak GB':>9}")
    results: list[dict[str, Any]] = []
    failed = False
    parts = chosen.parts.split(",")
    for result in measured(sizes, device, 60 * chosen.minutes, parts):
        if isinstance(result, str):
            print(result, flush=True)
            failed |= "failed" in result
            continue
        print(_line(result), flush=True)
        results.append(asdict(result))
        record = {"where": where, "cores": CORES, "torch": torch.__version__,
                  "sizes": asdict(sizes), "results": results}  # fmt: skip
        chosen.out.write_text(json.dumps(record, indent=1))
    if failed:
        raise SystemExit(1)


def _line(result: GPUResult) -> str:
    cells = [
        f"{result.ratios[name]:.2f}" if name in result.ratios else "-"
        for name in ("bound", "open_clip")
    ]
    peak = "-" if result.peak_gb is None else f"{result.peak_gb:.2f}"
    rate = f"{result.rate:,.0f} {result.unit}"
    notes = "".join(f"  {name} {value:,.0f}" for name, value in result.notes.items())
    return f"{result.what:32}{rate:>20}{cells[0]:>10}{cells[1]:>11}{peak:>9}{notes}"


if __name__ == "__main__":
    main()
