"""A training step of phase A and of LIFT, against the training loop of plain open_clip.

    python -m tests.benchmarks.bench_finetune [--model ViT-B-16] [--batch 128] [--classes 100]
        [--precision bf16] [--variants plain,checkpointing,compile] [--steps 10] [--repeats 5]
    python -m tests.benchmarks.bench_finetune --device cpu --quick

Images per second and peak memory of steps on random pixels that lie on the device, so that loading
does not count: forward, loss, backward, optimiser. Three cases, each with and without gradient
checkpointing and torch.compile, on both sides:

- ``ballad``: contrastive loss of images and the texts of their classes, both towers trained; the
  peer encodes one text per image and takes open_clip's ClipLoss;
- ``ballad-code``: cross entropy over the texts of all classes, both towers trained; so does the
  peer;
- ``lift``: adapters and a cosine head on a frozen tower; the peer is that of ``ballad-code``, which
  is what one has without adapters.

A step of each side is run in turn and medians of pairs are compared, so only ratios of one run mean
something. Our side is given uint8 pixels and normalises them; the peer's are normalised already.
Memory (CUDA): the peak over steps, less what the other side keeps on the device; on a CPU it is not
measured. Weights are random but for the embedded encoder.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from open_clip.loss import ClipLoss
from torch import Tensor
from torch.nn import functional as F

from ltcache.encoder import Encoder, load_encoder
from ltcache.encoder.adapters import train_mode
from ltcache.finetune import override_tuning, tuning_by_name
from ltcache.finetune.assembly import ComputeOptions, assemble
from ltcache.finetune.loop import TrainingSetup, encoder_optimiser
from ltcache.finetune.processes import processes
from ltcache.finetune.state import StateFolder
from ltcache.finetune.step import accumulate
from ltcache.manifest import Manifest, read_manifest
from tests.conftest import write_images

CASES = {"ballad": "contrastive", "ballad-code": "classes", "lift": "classes"}
"""Fine-tuning -> loss of the peer."""
VARIANTS = ("plain", "checkpointing", "compile", "checkpointing+compile")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, eq=False)
class Setting:
    """What both sides share.

    Args:
        pixels: uint8 (N, 3, H, W), labels: (N,), on the device.
    """

    encoder: Encoder
    manifest: Manifest
    pixels: Tensor
    labels: Tensor
    precision: str
    micro_batch: int

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return self.pixels.device


def ours(setting: Setting, method: str, variant: str) -> Callable[[], None]:
    """Return a step of a fine-tuning."""
    tuning = override_tuning(
        tuning_by_name(method),
        {"optimisation.batch": len(setting.labels), "optimisation.precision": setting.precision},
    )
    means = ComputeOptions(0, "checkpointing" in variant, "compile" in variant)
    with processes(str(setting.device)) as place:
        parts = assemble(setting.manifest, tuning, setting.encoder, place, seed=0, means=means)
    state = StateFolder(Path(tempfile.gettempdir()) / "never-written", {})
    training = TrainingSetup(tuning, parts.step, parts.batches, None, state, 0, setting.micro_batch)
    optimiser = encoder_optimiser(training)
    parts.step.train()
    train_mode(parts.step.model)
    labels = setting.labels.cpu()  # as a loader gives them

    def step() -> None:
        accumulate(
            parts.step,
            setting.pixels,
            labels,
            micro_batch=setting.micro_batch,
            progress=0.0,
            backward=lambda value: value.backward(),
            seeded=lambda number: None,
        )
        optimiser.step()
        optimiser.zero_grad()

    return step


def peer(setting: Setting, loss: str, variant: str) -> Callable[[], None]:
    """Return a step of the loop that people write around open_clip."""
    encoder, labels = setting.encoder, setting.labels
    model = copy.deepcopy(encoder.model).to(setting.device).requires_grad_(True).train()
    if "checkpointing" in variant:
        model.set_grad_checkpointing()
    visual: Any = torch.compile(model.encode_image) if "compile" in variant else model.encode_image
    mean, std = (
        torch.tensor(values, device=setting.device).view(1, 3, 1, 1)
        for values in (encoder.preprocessing.mean, encoder.preprocessing.std)
    )
    images = (setting.pixels.float() / 255 - mean) / std
    names = [f"a photo of a {name}." for name in setting.manifest.classes.names]
    tokens = encoder.tokenizer(names).to(setting.device)
    optimiser = torch.optim.SGD(model.parameters(), 1e-5, momentum=0.9, nesterov=True)
    clip_loss = ClipLoss()

    def step() -> None:
        with autocast(setting):
            rows = F.normalize(visual(images), dim=1)
            texts = model.encode_text(tokens[labels] if loss == "contrastive" else tokens)
            texts, scale = F.normalize(texts, dim=1), model.logit_scale.exp()
            if loss == "contrastive":
                value = clip_loss(rows, texts, scale)
            else:
                value = F.cross_entropy(scale * rows @ texts.T, labels)
        value.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def autocast(setting: Setting) -> Any:
    """Return the context of the peer's forward."""
    if setting.precision == "fp32":
        return nullcontext()
    return torch.autocast(setting.device.type, DTYPES[setting.precision])


def allocated(device: torch.device) -> int:
    """Return bytes on the device now; 0 on a CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def seconds(step: Callable[[], None], steps: int, device: torch.device) -> float:
    """Return the time of a few steps."""
    begin = time.perf_counter() if device.type == "cuda" else time.process_time()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter() - begin
    return time.process_time() - begin


def peak(step: Callable[[], None], device: torch.device) -> int | None:
    """Return the most bytes on the device during a step; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return torch.cuda.max_memory_allocated(device)


def measure(
    setting: Setting, method: str, variant: str, steps: int, repeats: int
) -> Iterator[tuple[str, float, int | None]]:
    """Yield side, images per second and peak bytes of both sides, then ``ratio``."""
    device = setting.device
    sides: dict[str, Callable[[], None]] = {}
    own: dict[str, int] = {}
    common = allocated(device)
    makers = {
        "ltcache": lambda: ours(setting, method, variant),
        "open_clip": lambda: peer(setting, CASES[method], variant),
    }
    for name, make in makers.items():
        before = allocated(device)
        sides[name] = make()
        sides[name]()  # compiles, and makes the optimiser's state
        own[name] = allocated(device) - before
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, step in sides.items():
            times[name].append(seconds(step, steps, device))
    other = {"ltcache": own["open_clip"], "open_clip": own["ltcache"]}
    for name, step in sides.items():
        rate = steps * len(setting.labels) / statistics.median(times[name])
        most = peak(step, device)
        yield name, rate, None if most is None else most - other[name] - common
    pairs = zip(times["open_clip"], times["ltcache"], strict=True)
    yield "ratio", statistics.median(two / one for two, one in pairs), None


def main() -> None:
    """Print a line per case and variant."""
    chosen = options()
    if chosen.quick:
        chosen.model, chosen.batch, chosen.steps, chosen.repeats = "embedded", 32, 1, 3
        chosen.classes, chosen.variants = 20, "plain,checkpointing"
    device = torch.device(chosen.device)
    pretrained = None if chosen.model == "embedded" else "random:0"
    encoder = load_encoder(chosen.model, pretrained, device="cpu")
    with tempfile.TemporaryDirectory() as work:
        names = {f"class {number}": 2 for number in range(chosen.classes)}
        manifest = read_manifest(write_images(Path(work) / "train", names).parent)
        generator = torch.Generator().manual_seed(0)
        shape = (chosen.batch, 3, *encoder.preprocessing.size)
        setting = Setting(
            encoder,
            manifest,
            torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).to(device),
            torch.randint(0, chosen.classes, (chosen.batch,), generator=generator).to(device),
            chosen.precision or ("bf16" if device.type == "cuda" else "fp32"),
            chosen.micro_batch or chosen.batch,
        )
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, its time"
        print(f"{chosen.model}, batch {chosen.batch}, {setting.precision}, {where}, torch "
              f"{torch.__version__}")  # fmt: skip
        print(f"{'':44}{'images/s':>10}{'peak GB':>10}{'ltcache / open_clip':>22}")
        for method in chosen.methods.split(","):
            for variant in chosen.variants.split(","):
                show(setting, method, variant, chosen)


def show(setting: Setting, method: str, variant: str, chosen: argparse.Namespace) -> None:
    """Measure one case and print it."""
    found = list(measure(setting, method, variant, chosen.steps, chosen.repeats))
    ratio = found[-1][1]
    memory = [most for _, _, most in found[:-1]]
    for name, rate, most in found[:-1]:
        bytes_ = "-" if most is None else f"{most / 1e9:.2f}"
        line = f"{f'{method}, {variant}':32}{name:12}{rate:10.1f}{bytes_:>10}"
        if name == "ltcache":
            line += f"{ratio:>12.2f} x speed"
            if memory[0] is not None and memory[1]:
                line += f", {memory[0] / memory[1]:.2f} x memory"
        print(line, flush=True)


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--micro-batch", type=int, help="of ltcache; the batch by default")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--precision", choices=("fp32", *DTYPES))
    parser.add_argument("--methods", default=",".join(CASES))
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="the embedded encoder, few steps")
    return parser.parse_args()


if __name__ == "__main__":
    main()
