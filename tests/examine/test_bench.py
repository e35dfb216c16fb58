"""bench: what it measures and what it recommends."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ltcache.cli.bench import bench_lines
from ltcache.encoder import Encoder, EncoderChoice, load_encoder
from ltcache.errors import EncoderError, ImageError, UsageError
from ltcache.examine import bench as module
from ltcache.examine.bench import BenchResult, ForwardSpeed, bench
from ltcache.extract import LoopSpeed
from ltcache.manifest import read_manifest
from tests.conftest import Call, write_images
from tests.pretended_device import pretended_device


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.01)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_images(tmp_path / "photos" / "train", {"moth": 4, "newt": 3})
    return tmp_path / "photos"


def made(decoding: float, **rates: float) -> BenchResult:
    speeds = tuple(ForwardSpeed(name, 16, rate, 1.0, None) for name, rate in rates.items())
    return BenchResult("m", "cpu", 8, 0, 2, decoding, speeds)


def test_every_precision_and_batch_is_measured(tiny_clip: Path, photos: Path, call: Call) -> None:
    status, printed, told = call(
        "bench", photos, "--model", f"local-dir:{tiny_clip}", "--batch-size", "4,2", "--json",
        "--device", "cpu",
    )  # fmt: skip
    found = json.loads(printed)
    assert status == 0 and found["images"] == 7 and found["failed"] == 0
    speeds = [(speed["precision"], speed["batch"]) for speed in found["speeds"]]
    assert speeds == [("fp32", 2), ("fp32", 4), ("bf16", 2), ("bf16", 4)]
    for speed in found["speeds"]:
        assert speed["images_per_second"] > 0 and speed["gigabytes"] is None
        exact = speed["precision"] == "fp32"
        assert speed["least_cosine"] > (0.9999 if exact else 0.9)
    assert found["best"] in found["speeds"] and "forward passes in bf16" in told
    loop = found["loop"]
    assert loop["images_per_second"] > 0 and found["transfer"] is None
    assert 0 < sum(loop[stage] for stage in ("decode", "encode", "write")) <= 1
    assert 0 < found["bound"] < min(found["decoding"], found["best"]["images_per_second"])


def test_what_is_printed_can_be_given_to_extract(tiny_clip: Path, photos: Path, call: Call) -> None:
    (photos / "train" / "moth" / "broken.png").write_bytes(b"no image")
    model = f"local-dir:{tiny_clip}"
    status, printed, _ = call("bench", photos, "--model", model, "--batch-size", "3")
    assert status == 0 and f"{model} on " in printed and "8 images, 1 failed" in printed
    assert " binds; faster with " in printed and "all at once waits " in printed
    recommended = printed.splitlines()[-1].removeprefix("ltcache extract ... ").split()
    cache = photos.parent / "cache"
    status, _, _ = call("extract", photos, "--out", cache, "--model", model, *recommended)
    assert status == 3  # the broken one


def test_images_that_cannot_be_decoded_are_in_no_rate(
    tiny_clip: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = photos / "train" / "moth"
    for path in broken.iterdir():
        path.write_bytes(b"no image")
    looped: list[str] = []

    def loop(root: object, uris: list[str], *_: object, **__: object) -> LoopSpeed:
        looped.extend(uris)
        return LoopSpeed(1, 0.5, 0.3, 0.1)

    monkeypatch.setattr(module, "trial_loop", loop)
    times = iter(range(1000))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(times) / 1024)
    model = EncoderChoice(f"local-dir:{tiny_clip}", device="cpu")
    found = bench(read_manifest(photos), model, batches=[2])
    assert (found.images, found.failed, found.decoding) == (7, 4, 3 * 1024)
    assert looped and all("newt" in uri for uri in looped)


def test_another_precision_must_be_worth_it() -> None:
    assert made(100, fp32=100, bf16=119).best.precision == "fp32"
    worth = made(100, fp32=100, bf16=121)
    assert worth.best.precision == "bf16"
    far = tuple(replace(s, least_cosine=0.98) for s in worth.speeds if s.precision == "bf16")
    assert replace(worth, speeds=worth.speeds[:1] + far).best.precision == "fp32"


def test_processors_are_shared_on_a_cpu_alone() -> None:
    one = made(300, fp32=100)
    assert one.bound == pytest.approx(75) and one.binds == "encoding"
    assert replace(one, device="cuda:0").bound == 100
    assert made(50, fp32=100).binds == "decoding"


@pytest.mark.parametrize(
    ("device", "transfer", "waits", "binds", "remedy"),
    [
        ("cpu", None, (0.2, 0.7, 0.1), "encoding", "a GPU"),
        ("cpu", None, (0.8, 0.1, 0.1), "decoding", "smaller once"),
        ("cuda:0", 500, (0.8, 0.1, 0.1), "decoding", "--decode-processes"),
        ("cuda:0", 500, (0.1, 0.8, 0.1), "encoding", "--gpus"),
        ("cuda:0", 90, (0.1, 0.8, 0.1), "transfer", "--gpus"),
        ("cuda:0", 500, (0.1, 0.1, 0.8), "writing", "--out"),
    ],
)
def test_the_loop_says_what_binds_and_what_to_change(
    device: str,
    transfer: float | None,
    waits: tuple[float, float, float],
    binds: str,
    remedy: str,
) -> None:
    loop = LoopSpeed(80, *waits)
    found = replace(made(300, fp32=100), device=device, transfer=transfer, loop=loop)
    assert found.binds == binds and remedy in found.remedy
    lines = bench_lines(found)
    assert f"{binds} binds; faster with {found.remedy}" in lines
    assert any(line.startswith("80 images/s, 3.5 h for a million") for line in lines)


def test_the_sample_is_spread_over_the_rows(
    tiny_clip: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    real = module.decode
    monkeypatch.setattr(module, "decode", lambda data, p: read.append(data) or real(data, p))
    found = bench(
        read_manifest(photos), EncoderChoice(f"local-dir:{tiny_clip}"), images=3, batches=[2]
    )
    expected = [
        photos / "train" / name for name in ("moth/000.png", "moth/003.png", "newt/002.png")
    ]
    assert sorted(read) == sorted(path.read_bytes() for path in expected)
    assert found.images == 3


def test_what_memory_does_not_hold_is_left_out(
    tiny_clip: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, most = Encoder.encode_images, 4

    def limited(self: Encoder, pixels: torch.Tensor, *more: object) -> object:
        if len(pixels) > most:
            raise torch.cuda.OutOfMemoryError
        return real(self, pixels, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Encoder, "encode_images", limited)
    manifest, model = read_manifest(photos), EncoderChoice(f"local-dir:{tiny_clip}", device="cpu")
    found = bench(manifest, model, batches=[8, 4])
    assert {speed.batch for speed in found.speeds} == {4}
    with pytest.raises(EncoderError, match="does not hold 8 images of .*try smaller batches"):
        bench(manifest, model, batches=[8])


def test_on_a_gpu_only_passes_are_timed(tiny_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    copied: list[int] = []
    real = Encoder.submit

    def noted(self: Encoder, pixels: torch.Tensor, *more: Any) -> Any:
        copied.append(len(pixels))
        return real(self, pixels, *more)

    monkeypatch.setattr(Encoder, "submit", noted)
    with pretended_device():
        encoder = load_encoder(f"local-dir:{tiny_clip}", device="cuda")
        pixels = torch.zeros(4, 3, *encoder.preprocessing.size, dtype=torch.uint8)
        rate, features = module._forward(encoder, pixels, 2)
    assert rate > 0 and len(features) == 4
    assert copied == [2, 2]  # of the features; not in the seconds that are measured


def test_a_precision_that_a_gpu_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    assert module.precisions_of(torch.device("cuda")) == ["fp32", "bf16", "fp16"]


def test_bad_input_is_refused(tiny_clip: Path, photos: Path, call: Call) -> None:
    manifest, model = read_manifest(photos), EncoderChoice(f"local-dir:{tiny_clip}", device="cpu")
    for wrong in ({"images": 0}, {"batches": [4, 0]}):
        with pytest.raises(UsageError, match="at least one"):
            bench(manifest, model, **wrong)
    assert call("bench", photos, "--batch-size", "4,x")[0] == 2
    for path in photos.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(ImageError, match="moth/000.png: "):
        bench(manifest, model)
    for path in photos.rglob("*.png"):
        path.unlink()
    with pytest.raises(ImageError, match=f"moth/000.png: .*looked for in {photos}"):
        bench(manifest, model)
