"""Extraction: every row accounted for, nothing encoded twice, nothing stale accepted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ltcache.cache import open_cache, read_shard_record
from ltcache.cache.layout import index_path
from ltcache.encoder import Encoder, load_encoder
from ltcache.errors import CacheError, IdentityError, LtcacheError, UsageError
from ltcache.extract import extract, writer
from ltcache.extract.encode import _out_of_memory
from ltcache.manifest import Manifest, read_manifest
from ltcache.process import threads_of_passes
from tests.conftest import write_images
from tests.encoder.tiny_models import write_tiny_clip
from tests.extract.kill_driver import digests

SMALL = {"shard_size": 12, "batch_size": 5}


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> Encoder:
    return load_encoder(f"local-dir:{tiny_clip}")


def direct(encoder: Encoder, manifest: Manifest) -> np.ndarray:
    """Encode image by image with open_clip's own parts."""
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    cfg = encoder.preprocessing
    transform = image_transform_v2(
        PreprocessCfg(cfg.size, "RGB", cfg.mean, cfg.std, cfg.interpolation, cfg.resize_mode), False
    )
    assert manifest.root is not None
    images = [
        transform(Image.open(manifest.root / uri)) for uri in manifest.rows["uri"].to_pylist()
    ]
    with torch.inference_mode():
        return encoder.model.encode_image(torch.stack(images)).numpy()


def test_features_are_those_of_open_clip(
    folder_of_images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    manifest = read_manifest(folder_of_images)
    report = extract(manifest, tmp_path / "cache", encoder=encoder, **SMALL)
    cache = open_cache(tmp_path / "cache")
    found = cache.features()[:, 0]
    expected = direct(encoder, manifest)
    assert (report.rows, report.encoded, report.failed, report.exit_status) == (120, 120, 0, 0)
    half = np.abs(expected) * 2.0**-10 + 2.0**-24
    assert (np.abs(found - expected) <= half).all()
    assert cache.projection is not None
    product = cache.features(field="pooled")[:, 0] @ cache.projection
    assert np.allclose(product, found, atol=0.02 * np.abs(found).max())
    assert cache.labels().tolist() == manifest.labels().tolist()


def test_shards_do_not_depend_on_the_number_of_workers(
    folder_of_images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    for workers in (1, 3):
        out = tmp_path / str(workers)
        extract(folder_of_images, out, encoder=encoder, workers=workers, **SMALL)
    assert digests(tmp_path / "1") == digests(tmp_path / "3")


def test_a_batch_has_one_thread_and_features_are_those_of_any_number_at_once(
    folder_of_images: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    for number in (1, 3):
        monkeypatch.setattr(writer, "passes_at_once", lambda _, number=number: number)
        out = tmp_path / f"{number}"
        with threads_of_passes(2):  # a program's own
            extract(folder_of_images, out, encoder=encoder, shard_size=9, batch_size=2)
            assert torch.get_num_threads() == 2
        seen.add(str(digests(out)))
        assert open_cache(out).numerics["threads"] == 1
    assert len(seen) == 1


def test_a_cache_keeps_the_threads_of_a_batch(
    few_images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    extract(few_images, tmp_path / "c", encoder=encoder, threads=2)
    report = extract(few_images, tmp_path / "c", encoder=encoder, views=["flip"])
    assert report.encoded == 20
    assert open_cache(tmp_path / "c").numerics["threads"] == 2


def test_other_batches_agree_to_the_last_bits(
    folder_of_images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    extract(folder_of_images, tmp_path / "a", encoder=encoder, shard_size=50, batch_size=50)
    extract(folder_of_images, tmp_path / "b", encoder=encoder, shard_size=7, batch_size=2)
    a, b = (open_cache(tmp_path / name).features() for name in "ab")
    assert (np.abs(a - b) <= 2 * np.abs(a) * 2.0**-10 + 2.0**-23).all()


def test_a_finished_cache_is_reused_and_never_mixed(
    folder_of_images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    extract(folder_of_images, out, encoder=encoder, **SMALL)
    before = digests(out)
    assert extract(folder_of_images, out, encoder=encoder).encoded == 0
    other = load_encoder(f"local-dir:{write_tiny_clip(tmp_path / 'other', seed=1)}")
    with pytest.raises(IdentityError, match=r"towers\.image") as caught:
        extract(folder_of_images, out, encoder=other)
    assert caught.value.exit_status == 4
    more = write_images(tmp_path / "more", {"newt": 3})
    with pytest.raises(IdentityError, match="newt/000") as caught:
        extract(more, out, encoder=encoder)
    assert "--rehash" in str(caught.value)
    with pytest.raises(UsageError, match="holds other images"):
        extract(write_images(tmp_path / "foreign", {"stone": 3}), out, encoder=encoder)
    assert digests(out) == before


def test_an_unfinished_cache_does_not_open_and_keeps_its_settings(
    folder_of_images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "cache"

    def stop(progress: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(folder_of_images, out, encoder=encoder, progress=stop, **SMALL)
    with pytest.raises(CacheError, match="not finished"):
        open_cache(out)
    with pytest.raises(IdentityError, match="micro_batch: expected 5, found 6"):
        extract(folder_of_images, out, encoder=encoder, batch_size=6)
    report = extract(folder_of_images, out, encoder=encoder)
    assert 0 < report.encoded < 120
    extract(folder_of_images, tmp_path / "whole", encoder=encoder, **SMALL)
    assert digests(out) == digests(tmp_path / "whole")


def test_one_bad_image_costs_its_own_row(encoder: Encoder, tmp_path: Path) -> None:
    root = write_images(tmp_path / "images", {"a": 9, "b": 4})
    good = tmp_path / "good"
    extract(root, good, encoder=encoder, **SMALL)
    (root / "a" / "003.png").write_bytes(b"")
    (root / "b" / "001.png").write_text("a text file")
    out = tmp_path / "cache"
    report = extract(root, out, encoder=encoder, **SMALL)
    assert (report.failed, report.exit_status) == (2, 3)
    assert dict(report.failures)["a/003.png"] == "empty file (0 bytes)"
    cache, whole = open_cache(out), open_cache(good)
    kept = [row for row in range(13) if row not in (3, 10)]
    assert cache.rows().tolist() == kept
    assert np.array_equal(cache.features(), whole.features()[kept])
    assert cache.manifest.rows["status"].to_pylist().count("failed") == 2
    record = read_shard_record(out, "center", 0)
    assert record is not None
    assert sorted(record.errors) == [3, 10]


def test_all_failed_is_an_error(encoder: Encoder, tmp_path: Path) -> None:
    root = write_images(tmp_path / "images", {"a": 3})
    for path in root.rglob("*.png"):
        path.write_text("no image")
    with pytest.raises(CacheError, match=r"3 of 3 images failed.*a/000\.png: not an image"):
        extract(root, tmp_path / "cache", encoder=encoder)


def test_missing_images_are_reported_before_encoding(encoder: Encoder, tmp_path: Path) -> None:
    listed = tmp_path / "train.txt"
    listed.write_text("".join(f"gone/{i}.jpg 0\n" for i in range(8)))
    with pytest.raises(LtcacheError, match=r"8 of 8 images are missing.*gone/0\.jpg"):
        extract(read_manifest(listed, root=tmp_path), tmp_path / "cache", encoder=encoder)
    assert not (tmp_path / "cache").exists()


def test_rows_that_share_an_image_share_its_features(encoder: Encoder, tmp_path: Path) -> None:
    root = write_images(tmp_path / "images", {"a": 2})
    (tmp_path / "train.txt").write_text("a/000.png 0\na/001.png 0\n")
    (tmp_path / "test.txt").write_text("a/001.png 0\n")
    manifest = read_manifest(tmp_path, root=root)
    report = extract(manifest, tmp_path / "cache", encoder=encoder)
    assert (report.rows, report.items, report.encoded) == (3, 2, 2)
    cache = open_cache(tmp_path / "cache")
    assert np.array_equal(cache.features("test"), cache.features("train")[1:])


class ShortOfMemory:
    """An encoder that cannot hold more than three images."""

    said = "CUDA out of memory. Tried to allocate 2.00 GiB"

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def __getattr__(self, name: str) -> object:
        return getattr(self._encoder, name)

    def submit(self, pixels: torch.Tensor, fields: tuple[str, ...]) -> object:
        if len(pixels) > 3:
            raise RuntimeError(self.said)
        return self._encoder.submit(pixels, fields)


def test_memory_back_off_halves_and_is_recorded(
    few_images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    extract(few_images, out, encoder=ShortOfMemory(encoder), shard_size=12, batch_size=12)
    record = read_shard_record(out, "center", 0)
    assert record is not None
    assert record.micro_batch == 3
    extract(few_images, tmp_path / "whole", encoder=encoder, shard_size=12, batch_size=12)
    a, b = open_cache(out).features(), open_cache(tmp_path / "whole").features()
    assert (np.abs(a - b) <= 2 * np.abs(a) * 2.0**-10 + 2.0**-23).all()


@pytest.mark.parametrize(
    ("said", "halved"),
    [
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_libraries_say_otherwise_that_memory_is_short(said: str, halved: bool) -> None:
    assert _out_of_memory(RuntimeError(said)) == halved


class Broken(ShortOfMemory):
    """An encoder that gives NaN for the first image of a batch."""

    def submit(self, pixels: torch.Tensor, fields: tuple[str, ...]) -> object:
        pending = self._encoder.submit(pixels, fields)
        pending.result()["embedding"][0] = float("nan")
        return pending


def test_features_that_are_not_finite_are_failures(
    few_images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    broken = Broken(encoder)
    report = extract(few_images, tmp_path / "c", encoder=broken, shard_size=10, batch_size=5)
    assert report.failed == 4
    assert report.failures[0][1] == "the encoder gave features that are not finite"
    assert np.isfinite(open_cache(tmp_path / "c").features()).all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"views": ("flap",)}, "no view 'flap'"),
        ({"fields": ("token",)}, "no field token"),
        ({"batch_size": 0}, "batch size"),
    ],
)
def test_bad_options(
    few_images: Path, encoder: Encoder, tmp_path: Path, options: dict[str, object], text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        extract(few_images, tmp_path / "c", encoder=encoder, **options)
    assert not (tmp_path / "c").exists()


def test_other_peoples_folders_are_left_alone(
    few_images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(UsageError, match="choose another --out"):
            extract(few_images, out, encoder=encoder)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_image_only_field_choice(few_images: Path, encoder: Encoder, tmp_path: Path) -> None:
    extract(few_images, tmp_path / "c", encoder=encoder, fields=("embedding",))
    assert open_cache(tmp_path / "c").field_dims() == {"embedding": 32}


@pytest.mark.parametrize("damage", ["cut", "gone", "no json", "older format"])
def test_damaged_caches_do_not_open(
    few_images: Path, encoder: Encoder, tmp_path: Path, damage: str
) -> None:
    out = tmp_path / "c"
    extract(few_images, out, encoder=encoder, **SMALL)
    shard = out / "views" / "center" / "00001.h5"
    index = json.loads(index_path(out).read_text())
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "gone":
        shard.unlink()
    elif damage == "no json":
        index_path(out).write_text("{")
    else:
        index_path(out).write_text(json.dumps({**index, "format": 0}))
    with pytest.raises(CacheError, match=str(out)):
        open_cache(out)


def test_a_cache_can_move(few_images: Path, encoder: Encoder, tmp_path: Path) -> None:
    extract(few_images, tmp_path / "a", encoder=encoder, **SMALL)
    features = open_cache(tmp_path / "a").features("train")
    moved = (tmp_path / "a").rename(tmp_path / "b")
    assert np.array_equal(open_cache(moved).features("train"), features)
    text = b"".join(path.read_bytes() for path in moved.rglob("*.json"))
    assert str(tmp_path).encode() not in text


def test_values_beyond_float16_are_kept(few_images: Path, tmp_path: Path, encoder: Encoder) -> None:
    class Loud(ShortOfMemory):
        def submit(self, pixels: torch.Tensor, fields: tuple[str, ...]) -> object:
            pending = self._encoder.submit(pixels, fields)
            pending.result()["embedding"].mul_(1e6)
            return pending

    extract(few_images, tmp_path / "c", encoder=Loud(encoder), **SMALL)
    extract(few_images, tmp_path / "plain", encoder=encoder, **SMALL)
    loud, plain = (open_cache(tmp_path / name).features() for name in ("c", "plain"))
    assert np.allclose(loud / 1e6, plain, rtol=2e-3, atol=1e-5)


def test_manifests_are_taken_as_values(few_images: Path, encoder: Encoder, tmp_path: Path) -> None:
    manifest = read_manifest(few_images)
    shorter = replace(manifest, rows=manifest.rows.slice(0, 4))
    assert extract(shorter, tmp_path / "c", encoder=encoder).rows == 4
