"""Extraction beside what people use for it: clip-retrieval's ``clip_inference`` and Ray Data.

    python -m tests.benchmarks.bench_peers --archive photos.zip [--images N] [--rounds R]
        [--clip-retrieval PYTHON] [--only NAME ...] [--skip-faults]

All three encode the same JPEG files with the embedded encoder, one compute thread, two decoding
workers, batches of 16, in a process of their own. ``--clip-retrieval`` names the Python of an
environment in which that package is installed (and from which ``ltcache`` can be imported); its
reader, mapper, writer and runner do the work, and only what loads the model is replaced, by what
gives them this one. What Ray Data does is the pipeline that its documentation shows, which curation
libraries such as NeMo Curator build upon: read files, decode, ``map_batches`` with a model, write
Parquet.

Of each are measured, in turn: images per second, of the clock and of processors, and the most
memory of all its processes together (PSS). Then what becomes of a folder with one truncated file,
and of a run that is killed in the middle, at once and when the same command runs again.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.benchmarks.process_tree import Measured, measured

BATCH, WORKERS, SHARD = 16, 2, 128


# What runs in the processes that are measured


def run_ltcache(images: Path, out: Path) -> None:
    """Extract as a user types it."""
    from ltcache.cli import main

    main(
        ["extract", str(images), "--unlabelled", "--out", str(out), "--threads", "1",
         "--workers", str(WORKERS), "--batch-size", str(BATCH), "--shard-size", str(SHARD)]
    )  # fmt: skip


def model_and_transform() -> tuple[Any, Callable[[Any], Any]]:
    """Return the model and open_clip's own transform for it."""
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from ltcache.encoder import load_encoder

    torch.set_num_threads(1)
    encoder = load_encoder("embedded", device="cpu")
    how = PreprocessCfg(**{**encoder.preprocessing.to_dict(), "mode": "RGB"})
    return encoder.model, image_transform_v2(how, is_train=False)


def run_clip_retrieval(images: Path, out: Path) -> None:
    """Let clip-retrieval's own parts encode a folder, in partitions of a shard each."""
    model, transform = model_and_transform()
    loading, sentences = ModuleType("all_clip"), ModuleType("sentence_transformers")
    loading.load_clip = lambda **_: (model, transform, None)  # type: ignore[attr-defined]
    sentences.SentenceTransformer = None  # type: ignore[attr-defined]
    sys.modules |= {"all_clip": loading, "sentence_transformers": sentences}
    from clip_retrieval.clip_inference.mapper import ClipMapper
    from clip_retrieval.clip_inference.reader import FilesReader
    from clip_retrieval.clip_inference.runner import Runner
    from clip_retrieval.clip_inference.writer import NumpyWriter

    partitions = -(-len(list(images.glob("*.jpg"))) // SHARD)

    class Silent:
        def start(self) -> None: ...
        def end(self) -> None: ...
        def __call__(self, _: Any) -> None: ...

    runner = Runner(
        lambda sampler: FilesReader(
            sampler, transform, None, str(images), BATCH, WORKERS, enable_text=False
        ),
        lambda: ClipMapper(True, False, False, False, "embedded", False, ""),
        lambda number: NumpyWriter(number, str(out), False, True, False, partitions),
        lambda _: Silent(),
        partitions,
    )
    for number in range(partitions):
        runner(number)


class RayEncoder:
    """What an actor of Ray Data does with a batch."""

    def __init__(self) -> None:
        self.model, _ = model_and_transform()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import torch

        with torch.inference_mode():
            features = self.model.encode_image(torch.from_numpy(batch["pixels"]))
            features /= features.norm(dim=-1, keepdim=True)
        return {"path": batch["path"], "features": features.half().numpy()}


class RayDecoder:
    """What decodes one file."""

    def __init__(self) -> None:
        _, self.transform = model_and_transform()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from PIL import Image

        image = Image.open(io.BytesIO(row["bytes"]))
        return {"path": row["path"], "pixels": self.transform(image).numpy()}


def run_ray_data(images: Path, out: Path) -> None:
    """Read, decode, encode and write by Ray Data, on this machine."""
    import ray

    ray.init(include_dashboard=False, num_cpus=WORKERS + 1, log_to_driver=False)
    blocks = -(-len(list(images.glob("*.jpg"))) // SHARD)
    files = ray.data.read_binary_files(str(images), include_paths=True, override_num_blocks=blocks)
    decoded = files.map(RayDecoder, concurrency=WORKERS)
    decoded.map_batches(RayEncoder, batch_size=BATCH, concurrency=1).write_parquet(str(out))


RUNS = {"ltcache": run_ltcache, "clip-retrieval": run_clip_retrieval, "ray-data": run_ray_data}


def rows_in(out: Path) -> int:
    """Return how many images have features in what a run has written, also a half one."""
    import h5py
    import numpy as np
    import pyarrow.parquet as pq

    found = 0
    for file in out.rglob("*"):
        if file.match("views/center/*.h5") and file.with_suffix(".json").exists():
            with h5py.File(file) as opened:
                values = opened["embedding"][()]
                found += int(np.isfinite(values.reshape(len(values), -1)).all(axis=1).sum())
        elif file.match("img_emb/*.npy"):
            found += len(np.load(file))
        elif file.suffix == ".parquet" and file.parent == out and "manifest" not in file.name:
            found += pq.read_metadata(file).num_rows if file.stat().st_size else 0
    return found


# What measures them


def measure(
    name: str,
    python: str,
    images: Path,
    out: Path,
    kill_when: Callable[[], bool] | None = None,
) -> Measured:
    """Run one of them; kill all its processes once ``kill_when`` says so."""
    command = [python, "-m", "tests.benchmarks.bench_peers", "--run", name, str(images), str(out)]
    settings = {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    return measured(command, settings, kill_when)


def unpack(archive: Path, folder: Path, count: int) -> Path:
    """Write the first JPEGs of an archive into one folder, numbered."""
    folder.mkdir(parents=True)
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if name.lower().endswith((".jpg", ".jpeg"))]
        for number, name in enumerate(sorted(names)[:count]):
            (folder / f"{number:05d}.jpg").write_bytes(opened.read(name))
    return folder


def speed(pythons: Mapping[str, str], images: Path, work: Path, rounds: int) -> None:
    """Print how fast each is, in turn."""
    count = len(list(images.iterdir()))
    for turn in range(rounds):
        for name, python in pythons.items():
            out = work / f"{name}-{turn}"
            found = measure(name, python, images, out)
            print(
                f"round {turn + 1} {name:15} status {found.status} rows {rows_in(out)} of {count}  "
                f"{count / found.wall:6.1f} images/s, {count / found.cpu:6.1f} per processor "
                f"second  wall {found.wall:6.1f} s  cpu {found.cpu:6.1f} s  "
                f"peak {found.peak:5.0f} MB  load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
            if found.status:
                print(found.said)


def faults(pythons: Mapping[str, str], images: Path, work: Path, count: int) -> None:
    """Print what each does with a truncated file, a kill and a rerun."""
    some = work / "some"
    some.mkdir()
    for file in sorted(images.iterdir())[:count]:
        shutil.copy(file, some)
    spoilt = shutil.copytree(some, work / "spoilt")
    bad = sorted(spoilt.iterdir())[count // 2]
    bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2])
    for name, python in pythons.items():
        out = work / f"{name}-spoilt"
        found = measure(name, python, spoilt, out)
        print(f"truncated {name:15} status {found.status} rows {rows_in(out)} of {count}")
        print("    " + found.said.replace("\n", "\n    ")[:600], flush=True)
        out = work / f"{name}-killed"
        killed = measure(
            name, python, some, out, lambda out=out: out.exists() and rows_in(out) >= count // 2
        )
        left = rows_in(out) if out.exists() else 0
        again = measure(name, python, some, out)
        rerun = measure(name, python, some, out)
        print(
            f"killed {name:15} status {killed.status} after {killed.cpu:.1f} s cpu, rows left "
            f"{left}; again: status {again.status} rows {rows_in(out)} cpu {again.cpu:.1f} s; once "
            f"more, finished: status {rerun.status} rows {rows_in(out)} cpu {rerun.cpu:.1f} s",
            flush=True,
        )


def main() -> None:
    """Run one of them, or measure all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--archive", type=Path, help="a zip file of JPEGs")
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--faulty", type=int, default=640, help="images of the runs with faults")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clip-retrieval", help="a Python that has it")
    parser.add_argument("--ray", help="a Python that has Ray")
    parser.add_argument("--skip-faults", action="store_true")
    asked = parser.parse_args()
    if asked.run:
        name, images, out = asked.run
        RUNS[name](Path(images), Path(out))
        return
    known = {
        "ltcache": sys.executable, "clip-retrieval": asked.clip_retrieval, "ray-data": asked.ray
    }  # fmt: skip
    pythons = {name: python for name, python in known.items() if python}
    with tempfile.TemporaryDirectory() as folder:
        images = unpack(asked.archive, Path(folder) / "images", asked.images)
        speed(pythons, images, Path(folder), asked.rounds)
        if not asked.skip_faults:
            faults(pythons, images, Path(folder), asked.faulty)


if __name__ == "__main__":
    main()
