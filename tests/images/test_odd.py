"""Every unusual image has the outcome that `ltcache.images` documents, and none costs its batch."""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ltcache.cache import open_cache
from ltcache.encoder import Encoder, load_encoder
from ltcache.errors import ImageError
from ltcache.extract import extract
from ltcache.images import Preprocessing, decode, open_store
from ltcache.images import preprocessing as module
from tests.images import odd

MEAN, STD = (0.48, 0.45, 0.40), (0.26, 0.27, 0.28)
SQUARE = Preprocessing((32, 32), MEAN, STD)


@pytest.mark.parametrize("name", odd.readable())
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_odd_images_are_decoded_as_open_clip_does(name: str) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    data = odd.readable()[name]
    for size in ((32, 32), (24, 40)):
        transform = image_transform_v2(PreprocessCfg(size, "RGB", MEAN, STD), is_train=False)
        with Image.open(io.BytesIO(data)) as image:
            expected = transform(image)
        ours = Preprocessing(size, MEAN, STD)
        pixels = torch.from_numpy(decode(data, ours).pixels.copy())[None]
        assert torch.equal(ours.normalise(pixels)[0], expected)


@pytest.mark.parametrize("name", odd.unreadable())
def test_unusable_images_say_why(name: str) -> None:
    data, pattern = odd.unreadable()[name]
    with pytest.raises(ImageError, match=pattern) as caught:
        decode(data, SQUARE)
    assert " at 0x" not in str(caught.value)


def test_sixteen_bits_that_fit_into_eight_keep_their_levels() -> None:
    eight = odd.encoded(odd.sixteen_bits().convert("I").convert("L"))
    whole = Preprocessing((40, 50), MEAN, STD)
    pixels = [decode(data, whole).pixels for data in (odd.readable()["sixteen.png"], eight)]
    assert np.array_equal(*pixels) and len(np.unique(pixels[0])) == 250


def test_an_animation_gives_its_first_frame() -> None:
    first = decode(odd.encoded(odd.picture()), SQUARE).pixels
    assert np.array_equal(decode(odd.readable()["animated.png"], SQUARE).pixels, first)


def test_rotation_is_not_applied() -> None:
    image = decode(odd.readable()["rotated.jpg"], SQUARE)
    assert (image.width, image.height) == (50, 40)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("shape", [(20_000, 1), (1, 20_000)])
def test_a_very_long_image_needs_little_memory(shape: tuple[int, int], mode: str) -> None:
    data = odd.encoded(odd.picture(*shape))
    cfg = Preprocessing((224, 224), MEAN, STD, resize_mode=mode)
    image = decode(data, cfg)  # 4,480,000 x 224 pixels at full size
    assert image.pixels.shape == (3, 224, 224) and (image.width, image.height) == shape


@settings(max_examples=60)
@given(
    short=st.integers(1, 8),
    long=st.integers(9, 300),
    upright=st.booleans(),
    mode=st.sampled_from(["RGB", "L", "P", "LA", "RGBA", "CMYK"]),
    size=st.sampled_from([(32, 32), (224, 224), (17, 17)]),
)
def test_a_window_equals_the_whole(short, long, upright, mode, size) -> None:
    cfg = Preprocessing(size, MEAN, STD)
    image = odd.picture(*((short, long) if upright else (long, short)), mode)
    whole = np.asarray(cfg.geometry(image).convert("RGB")).astype(int)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_PIXELS", 0)
        window = np.asarray(cfg.geometry(image).convert("RGB")).astype(int)
    if mode == "P":  # the nearest neighbour may flip where two are equally near
        assert (whole != window).mean() < 0.1
    else:
        assert np.abs(whole - window).max(initial=0) <= 4
        assert (whole != window).mean() < 0.02


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> Encoder:
    return load_encoder(f"local-dir:{tiny_clip}")


def test_none_costs_its_batch(encoder: Encoder, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, data in odd.readable().items():
        (folder / name).write_bytes(data)
    for name, (data, _) in odd.unreadable().items():
        (folder / name).write_bytes(data)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "folder.jpg" / "note.txt").write_text("x")
    (folder / "dangling.jpg").symlink_to("nowhere")
    good = sorted(odd.readable())
    bad = {name: pattern for name, (_, pattern) in odd.unreadable().items()} | {
        "pipe.jpg": "not a regular file",
        "folder.jpg": "Is a directory",
        "dangling.jpg": "No such file",
    }
    names = sorted([*good, *bad], key=lambda name: name[::-1])
    listed = tmp_path / "train.csv"
    listed.write_text("path,label\n" + "".join(f"{name},{len(name) % 2}\n" for name in names))
    report = extract(listed, tmp_path / "cache", root=folder, encoder=encoder, batch_size=5)
    assert (report.rows, report.failed, report.exit_status) == (len(names), len(bad), 3)
    cache = open_cache(tmp_path / "cache")
    rows = cache.manifest.rows.to_pylist()
    assert [row["key"] for row in rows] == names
    for row in rows:
        failed = row["key"] in bad
        assert row["status"] == ("failed" if failed else "ok"), row
        if failed:
            assert re.search(bad[row["key"]], row["error"]), row
            assert str(tmp_path) not in row["error"]
    alone = tmp_path / "alone.csv"
    alone.write_text("path,label\n" + "".join(f"{name},{len(name) % 2}\n" for name in good))
    extract(alone, tmp_path / "alone", root=folder, encoder=encoder, batch_size=1)
    expected = dict(zip(good, open_cache(tmp_path / "alone").features(), strict=True))
    kept = [row["key"] for row in rows if row["status"] == "ok"]
    found = cache.row_features(np.array([row["row_id"] for row in rows if row["status"] == "ok"]))
    for name, features in zip(kept, found, strict=True):
        assert np.allclose(features, expected[name], rtol=2e-3, atol=1e-4)


@pytest.fixture
def shared() -> Iterator[Path]:
    """Return a folder that other users can enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_no_read_permission(shared: Path) -> None:
    (shared / "good.png").write_bytes(b"pixels")
    (shared / "secret.png").write_bytes(b"pixels")
    (shared / "secret.png").chmod(0)
    store = open_store(shared)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything
    try:
        assert store.read("good.png") == b"pixels"
        with pytest.raises(ImageError, match=r"^Permission denied$"):
            store.read("secret.png")
    finally:
        os.seteuid(user)


def test_an_image_too_long_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.png").write_bytes(bytes(101))
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.png", bytes(101))
    monkeypatch.setattr("ltcache.manifest.roots.limits.MAX_BYTES", 100)
    for root in (tmp_path, tmp_path / "x.zip"):
        with pytest.raises(ImageError, match="101 bytes, more than 100"):
            open_store(root).read("x.png")
