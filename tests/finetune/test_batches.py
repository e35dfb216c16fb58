"""Batches of pixels: the same in any number of processes and ranks, and what bad images cost."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import signal
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from ltcache.errors import FitError, ImageError, ManifestError, UsageError
from ltcache.finetune.augmentation import CropFlip, Minimalist, Unchanged, sample_draws
from ltcache.finetune.batches import ImageBatches
from ltcache.finetune.pasting import ForegroundRows
from ltcache.finetune.reader import ImageBatch
from ltcache.images import Preprocessing, decode, open_store
from ltcache.manifest import Manifest, read_manifest
from ltcache.sampling import SAMPLERS, RowsByClass

SIZE = Preprocessing((16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def manifest(folder_of_images: Path) -> Manifest:
    """Return 120 images in four classes, with the splits that a folder gets."""
    return read_manifest(folder_of_images)


def batches(manifest: Manifest, **options: Any) -> ImageBatches:
    given = {"augmentation": CropFlip(), "batch": 16, "seed": 3, "workers": 0, **options}
    return ImageBatches(manifest, "train", SIZE, **given)


def order_of(loader: ImageBatches, sampler: str = "class_aware") -> torch.Tensor:
    by_class = RowsByClass.of(loader.labels, 4)
    return SAMPLERS[sampler].draw(by_class, torch.Generator().manual_seed(1))


def same(first: list[ImageBatch], second: list[ImageBatch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(torch.as_tensor(a), torch.as_tensor(b))
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def test_what_a_batch_holds(manifest: Manifest) -> None:
    loader = batches(manifest, augmentation=Unchanged())
    found = list(loader.epoch())
    assert len(found) == loader.steps()
    assert {len(batch.rows) for batch in found} <= {15, 16}  # even, no small one at the end
    rows = torch.cat([batch.rows for batch in found])
    assert torch.equal(rows, torch.arange(len(loader)))
    labels = torch.cat([batch.labels for batch in found])
    assert torch.equal(labels, torch.from_numpy(manifest.labels("train")))
    store = open_store(manifest.root)
    for batch in found:
        assert batch.pixels.dtype == torch.uint8
        for row, pixels in zip(batch.rows.tolist(), batch.pixels, strict=True):
            uri = manifest.rows["uri"][int(loader.index[row])].as_py()
            assert np.array_equal(pixels, decode(store.read(uri), SIZE).pixels)
    assert not loader.failures


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 1},
        {"workers": 3},
        {"workers": 2, "keep": 0},
        {"workers": 0, "keep": 0},
    ],
)
def test_neither_workers_nor_memory_change_a_batch(
    manifest: Manifest, options: dict[str, int]
) -> None:
    loader = batches(manifest)
    order = order_of(loader)
    with batches(manifest, **options) as other:
        for epoch in (0, 1):
            expected = list(loader.epoch(order, epoch=epoch, epochs=2))
            assert same(expected, list(other.epoch(order, epoch=epoch, epochs=2)))


@pytest.mark.parametrize("keep", [0, 1 << 20])
def test_what_a_spawned_worker_is_sent_reads_the_same(manifest: Manifest, keep: int) -> None:
    loader = batches(manifest, keep=keep)
    sent = pickle.loads(pickle.dumps(loader._reader))
    (wanted, *_) = loader._wanted(np.arange(40), 0, 1)
    assert same([loader._reader[wanted].batch], [sent[wanted].batch])
    assert (sent.kept is None) == (keep == 0)


class Dies(CropFlip):
    """Ends the process that uses it, as a lack of memory would."""

    def __call__(self, *_: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_a_clear_error(manifest: Manifest) -> None:
    with (
        batches(manifest, augmentation=Dies(), workers=1) as loader,
        pytest.raises(FitError, match="loading process ended.*--workers 0"),
    ):
        list(loader.epoch())


@pytest.mark.parametrize("pasted", [False, True])
def test_ranks_share_the_batch_of_one(manifest: Manifest, pasted: bool) -> None:
    loader = batches(manifest)
    order = order_of(loader)
    foregrounds = ForegroundRows(order.flip(0), 0.5) if pasted else None
    shares = [
        list(batches(manifest, rank=r, ranks=3).epoch(order, epoch=2, foregrounds=foregrounds))
        for r in range(3)
    ]
    together = [
        ImageBatch(*map(torch.cat, list(zip(*of_ranks, strict=True))[:3]), *of_ranks[0][3:])
        for of_ranks in zip(*shares, strict=True)
    ]
    assert same(list(loader.epoch(order, epoch=2, foregrounds=foregrounds)), together)
    assert any(batch.labels.ndim == 2 for batch in together) == (foregrounds is not None)


def test_a_sample_follows_from_seed_epoch_row_and_repeat(manifest: Manifest) -> None:
    loader = batches(manifest, batch=6)
    order = torch.tensor([4, 9, 4, 4, 9, 1])
    (first,) = loader.epoch(order, epoch=1)
    store = open_store(manifest.root)
    for place, repeat in enumerate([0, 0, 1, 2, 1, 0]):
        row = int(loader.index[order[place]])
        data = store.read(manifest.rows["uri"][row].as_py())
        expected = CropFlip()(Image.open(io.BytesIO(data)), SIZE, sample_draws(3, 1, row, repeat))
        assert np.array_equal(first.pixels[place], expected)
    assert not torch.equal(first.pixels[0], first.pixels[2])
    (turned,) = loader.epoch(order.flip(0), epoch=1)  # only repeats are told apart by order
    assert torch.equal(turned.pixels[0], first.pixels[5])
    (later,) = loader.epoch(order, epoch=2)
    assert not torch.equal(later.pixels, first.pixels)
    (other,) = batches(manifest, batch=6, seed=4).epoch(order, epoch=1)
    assert not torch.equal(other.pixels, first.pixels)


def test_an_epoch_can_begin_in_its_middle(manifest: Manifest) -> None:
    whole = list(batches(manifest).epoch(epoch=3))
    assert same(whole[4:], list(batches(manifest).epoch(epoch=3, start=4)))
    assert list(batches(manifest).epoch(start=len(whole))) == []


@pytest.mark.parametrize("keep", [0, 1 << 20])
def test_an_epoch_that_is_left_does_not_leak_into_the_next(manifest: Manifest, keep: int) -> None:
    with batches(manifest, workers=2, keep=keep) as loader:
        left = loader.epoch(epoch=0)
        next(left)
        expected = list(batches(manifest).epoch(epoch=1))
        assert same(expected, list(loader.epoch(epoch=1)))


def test_progress_reaches_the_augmentation(manifest: Manifest) -> None:
    loader = batches(manifest, augmentation=Minimalist())
    plain = batches(manifest, augmentation=Unchanged())  # the images are squares
    last = torch.cat([batch.pixels for batch in loader.epoch(epoch=4, epochs=5)])
    whole = torch.cat([batch.pixels for batch in plain.epoch()])
    assert torch.equal(last, whole)
    first = torch.cat([batch.pixels for batch in loader.epoch(epoch=0, epochs=5)])
    assert not torch.equal(first, whole)


def test_the_trainings_random_numbers_are_left_alone(manifest: Manifest) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with batches(manifest, workers=1) as loader:
        list(loader.epoch())
    assert torch.equal(torch.get_rng_state(), before)


def test_images_in_an_archive(manifest: Manifest, tmp_path: Path) -> None:
    """Each worker opens it for itself: a file handle that is shared would lose its place."""
    root = Path(str(manifest.root))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for uri in manifest.rows["uri"].to_pylist():
            archive.write(root / uri, uri)
    zipped = replace(manifest, root=tmp_path / "all.zip")
    expected = list(batches(manifest).epoch())
    with batches(zipped, workers=3, keep=0) as loader:
        for _ in range(2):
            assert same(expected, list(loader.epoch()))


@pytest.fixture
def broken(folder_of_images: Path, tmp_path: Path) -> Manifest:
    """Return images of which two cannot be read."""
    root = shutil.copytree(folder_of_images, tmp_path / "images")
    manifest = read_manifest(root)
    uris = manifest.rows["uri"].take(pa.array(manifest.indices("train"))).to_pylist()
    (root / uris[2]).write_bytes(b"")
    (root / uris[40]).unlink()
    return manifest


@pytest.mark.parametrize("options", [{}, {"keep": 0}, {"keep": 0, "workers": 2}])
def test_an_unreadable_image_is_left_out_and_named(
    broken: Manifest, options: dict[str, int]
) -> None:
    with batches(broken, **options) as loader:
        found = list(loader.epoch())
        rows = torch.cat([batch.rows for batch in found]).tolist()
        assert sorted(set(range(len(loader))) - set(rows)) == [2, 40]
        assert all(len(batch.pixels) == len(batch.labels) == len(batch.rows) for batch in found)
        labels = torch.cat([batch.labels for batch in found])
        assert torch.equal(labels, loader.labels[rows])
        uris = broken.rows["uri"]
        named = [uris[int(loader.index[row])].as_py() for row in (2, 40)]
        assert list(loader.failures) == named
        assert loader.failures[named[0]] == "empty file (0 bytes)"
        few = [len(batch.rows) for batch in loader.epoch(torch.tensor([2, 2, 3]))]
        assert few == [1]


def test_a_small_batch_without_images_is_passed_over(broken: Manifest) -> None:
    loader = batches(broken, batch=1, keep=0)
    found = list(loader.epoch(torch.tensor([1, 2, 3])))
    assert [(batch.number, batch.rows.tolist()) for batch in found] == [(0, [1]), (2, [3])]
    with pytest.raises(ImageError, match="none of 1 images can be read.*empty file"):
        list(loader.epoch(torch.tensor([2, 2])))
    shared = batches(broken, batch=2, rank=1, ranks=2, keep=0)
    with pytest.raises(ImageError, match="can be read"):  # the other rank would wait
        list(shared.epoch(torch.tensor([1, 2])))


def test_images_that_are_all_gone(folder_of_images: Path, tmp_path: Path) -> None:
    root = shutil.copytree(folder_of_images, tmp_path / "images")
    manifest = read_manifest(root)
    loader = batches(manifest, keep=0, workers=1)
    iterator = loader.epoch()
    shutil.rmtree(root)
    (tmp_path / "images").mkdir()
    with pytest.raises(ImageError, match=r"none of \d+ images can be read, for example .*--root"):
        list(iterator)
    loader.close()
    with pytest.raises(ImageError, match="can be read"):
        batches(manifest)  # they are to be kept: known before the training
    root.rmdir()
    with pytest.raises(ManifestError, match="images"):
        batches(manifest)


def test_rows_without_a_label_are_left_out(manifest: Manifest) -> None:
    labels = manifest.rows["label"].to_numpy().copy()
    train = manifest.indices("train")
    labels[train[::2]] = -1
    column = manifest.rows.schema.get_field_index("label")
    rows = manifest.rows.set_column(column, "label", pa.array(labels))
    loader = batches(replace(manifest, rows=rows))
    assert loader.index.tolist() == train[1::2].tolist()
    assert int(loader.labels.min()) >= 0
    found = torch.cat([batch.rows for batch in loader.epoch()])
    assert found.tolist() == list(range(len(loader)))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"batch": 1, "ranks": 2}, UsageError, "batch=1"),
        ({"seed": -1}, UsageError, "seed"),
        ({"workers": -1}, UsageError, "workers"),
    ],
)
def test_numbers_out_of_range(
    manifest: Manifest, options: dict[str, int], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        batches(manifest, **options)


def test_what_cannot_be_trained_on(manifest: Manifest) -> None:
    with pytest.raises(FitError, match="no split 'pool', only train"):
        ImageBatches(manifest, "pool", SIZE, CropFlip(), batch=4)
    with pytest.raises(ManifestError, match="--root"):
        batches(replace(manifest, root=None))
    few = batches(manifest, batch=4, ranks=4)
    with pytest.raises(UsageError, match="larger batches or fewer ranks"):
        list(few.epoch(torch.arange(5)))


def test_workers_by_default_leave_a_processor(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert batches(manifest, workers=None).workers == 7
    torchrun = {"RANK": "0", "WORLD_SIZE": "8", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4"}
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    assert batches(manifest, workers=None).workers == 1


def test_workers_fit_into_shared_memory(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=64 << 20))
    large = replace(SIZE, size=(224, 224))
    loader = ImageBatches(manifest, "train", large, CropFlip(), batch=64, workers=8)
    assert loader.workers == 1  # 64 images of 147 kB, three times, are 28 of 32 MiB
    many = ImageBatches(manifest, "train", large, CropFlip(), batch=512, workers=8)
    assert many.workers == 0
    assert len(next(many.epoch()).rows) == len(many)
