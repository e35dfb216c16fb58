"""``--finalise`` finishes what is encoded, to an extraction's bytes, and encodes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ltcache.cache import index_path, open_cache, record_path, verify_files
from ltcache.encoder import Encoder, load_encoder
from ltcache.errors import CacheError, IdentityError
from ltcache.extract import extract
from ltcache.manifest import read_manifest
from tests.conftest import Call, write_images
from tests.extract.kill_driver import digests

SMALL = {"shard_size": 4, "batch_size": 3}


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> Encoder:
    return load_encoder(f"local-dir:{tiny_clip}")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", {"a": 7, "b": 6})


@pytest.fixture
def encoded(images: Path, encoder: Encoder, tmp_path: Path) -> Path:
    """Return a cache of two views that has not finished, though all is encoded."""
    out = tmp_path / "cache"
    extract(images, out, encoder=encoder, views=("flip",), **SMALL)
    shutil.copytree(out, tmp_path / "whole")
    for path in out.iterdir():  # as when the process that was to finish it was killed
        if path.is_file():
            path.unlink()
    return out


def test_all_that_is_encoded_is_finished_without_the_images(
    images: Path, encoded: Path, encoder: Encoder, tmp_path: Path
) -> None:
    manifest = read_manifest(images)
    shutil.rmtree(images)
    report = extract(manifest, encoded, encoder=encoder, views=("flip",), finish_only=True, **SMALL)
    assert (report.encoded, report.rows) == (0, 13)
    assert digests(encoded) == digests(tmp_path / "whole") and verify_files(encoded).ok


def test_missing_shards_are_named_and_nothing_is_changed(
    images: Path, encoded: Path, encoder: Encoder
) -> None:
    record_path(encoded, "flip", 1).unlink()
    for shard in (1, 3):
        record_path(encoded, "center", shard).unlink()
    before = digests(encoded)
    text = r"2 of 4 shards are not there: 1, 3 of center, flip, with 5 images; run the same command"
    with pytest.raises(CacheError, match=text):
        extract(images, encoded, encoder=encoder, views=("flip",), finish_only=True, **SMALL)
    assert digests(encoded) == before and not index_path(encoded).exists()
    assert extract(images, encoded, encoder=encoder, views=("flip",), **SMALL).encoded == 4 * 2 + 1


def test_what_was_not_begun_is_not_begun(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"no extraction was begun \(13 images in the list\)"):
        extract(images, tmp_path / "none", encoder=encoder, finish_only=True, **SMALL)
    assert not (tmp_path / "none").exists()


def test_a_view_that_was_not_begun_is_refused(
    images: Path, encoded: Path, encoder: Encoder, tmp_path: Path
) -> None:
    before = digests(encoded)
    with pytest.raises(CacheError, match="nothing to finish: five was not begun"):
        extract(images, encoded, encoder=encoder, views=("flip", "five"), finish_only=True, **SMALL)
    assert digests(encoded) == before
    whole = tmp_path / "whole"
    with pytest.raises(CacheError, match="five was not begun"):
        extract(images, whole, encoder=encoder, views=("flip", "five"), finish_only=True)
    assert open_cache(whole).views == ("center", "flip")


def test_another_list_is_refused_as_ever(images: Path, encoded: Path, encoder: Encoder) -> None:
    fewer = read_manifest(images).head(6)
    with pytest.raises(IdentityError, match="items"):
        extract(fewer, encoded, encoder=encoder, finish_only=True, **SMALL)


def test_a_cache_that_grew_is_finished_alike(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    manifest, whole, begun = read_manifest(images), tmp_path / "grown", tmp_path / "begun"
    for out in (whole, begun):
        extract(manifest.head(8), out, encoder=encoder, views=("flip",), **SMALL)
    assert extract(manifest, whole, encoder=encoder).encoded == 5 * 2
    before, grown = digests(begun), digests(whole)
    with pytest.raises(CacheError, match=r"new images are not encoded \(5 images in the list\)"):
        extract(manifest, begun, encoder=encoder, finish_only=True)
    assert digests(begun) == before
    for name in ("plans/0002.json", *(n for n in grown if n.startswith("views/"))):
        shutil.copy(whole / name, begun / name)
    assert extract(manifest, begun, encoder=encoder, finish_only=True).encoded == 0
    assert digests(begun) == grown
    assert extract(manifest, begun, encoder=encoder, finish_only=True).binding == "reused"


def test_the_command_says_what_lacks(
    images: Path, encoded: Path, tiny_clip: Path, call: Call
) -> None:
    words = ["extract", str(images), "--out", str(encoded), "--model", f"local-dir:{tiny_clip}",
             "--batch-size", "3", "--shard-size", "4", "--finalise"]  # fmt: skip
    record_path(encoded, "center", 2).unlink()
    status, _, err = call(*words)
    assert status == 1 and "1 of 4 shards are not there: 2 of center" in err
    assert "without --finalise" in err
    status, _, err = call(*words, "--part", "1/2")
    assert status == 2 and "--part has no effect with --finalise" in err
