"""A cache says where its images are, without being another cache for it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ltcache.cache import verify_files
from ltcache.extract import extract
from ltcache.manifest import ROOT_FILE, RemotePlace, as_root, image_root, keep_root, kept_root
from tests.conftest import Call, write_images
from tests.extract.kill_driver import digests


def test_a_relative_root_moves_with_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work" / "photos").mkdir(parents=True)
    (tmp_path / "work" / "out" / "cache").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    keep_root(Path("out/cache"), Path("photos"))
    assert image_root(Path("out/cache"), "") == Path("photos")
    assert str(tmp_path) not in Path("out/cache", ROOT_FILE).read_text()
    monkeypatch.chdir(tmp_path)
    os.rename("work", "elsewhere")
    assert image_root(Path("elsewhere/out/cache"), "") == Path("elsewhere/photos")
    shutil.rmtree("elsewhere/photos")
    assert image_root(Path("elsewhere/out/cache"), "") is None
    assert kept_root(Path("elsewhere/out/cache")) == Path("elsewhere/photos")


@pytest.mark.parametrize(
    "text", ["s3://bucket/photos", "/data/photos", "/data/train-{00..02}.tar", "memory://zoo.zip"]
)
def test_addresses_shards_and_absolute_paths_come_back(tmp_path: Path, text: str) -> None:
    keep_root(tmp_path, as_root(text))
    assert kept_root(tmp_path) == as_root(text)
    assert isinstance(kept_root(tmp_path), RemotePlace) == ("://" in text)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"root": []}', '{"root": [1]}', "\x00"])
def test_a_file_that_says_nothing_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / ROOT_FILE).write_text(text)
    assert kept_root(tmp_path) is None
    assert image_root(tmp_path, "emoji_lt") is not None  # it comes with its images
    assert image_root(tmp_path, "zoo") is None


def test_commands_look_where_the_images_were_and_no_digest_covers_it(
    call: Call, tiny_clip: Path, tmp_path: Path
) -> None:
    photos = write_images(tmp_path / "photos", {"moth": 6, "newt": 4})
    model = ("--model", f"local-dir:{tiny_clip}")
    cache, other, pool = (tmp_path / name for name in ("cache", "other", "pool"))
    assert call("extract", photos, "--out", cache, *model)[0] == 0
    moved = shutil.copytree(photos, tmp_path / "moved")
    assert call("extract", moved, "--out", other, *model)[0] == 0
    names = {name for name in digests(cache) if name.endswith(".h5") or "manifest" in name}
    assert {n: digests(cache)[n] for n in names} == {n: digests(other)[n] for n in names}
    assert f"images:  {photos}" in call("inspect", cache)[1]
    assert verify_files(cache).leftovers == ()
    again = ("verify", cache, "--sample", 3, *model)
    status, out, err = call(*again)
    assert status == 0 and "encoded again: 3 images" in out, err
    assert call("extract", photos, "--out", pool, "--unlabelled", *model)[0] == 0
    retrieved = tmp_path / "retrieved"
    assert call("retrieve-tail", cache, pool, "--out", retrieved)[0] == 0
    status, _, err = call("review", retrieved, cache)
    assert status == 0 and "not shown" not in err and (retrieved / "gallery.html").is_file()
    photos.rename(tmp_path / "gone")
    status, _, err = call(*again)
    assert status == 2 and f"says that they are at {photos}, which is not" in err
    assert call(*again, "--root", tmp_path / "gone")[0] == 0


def test_the_place_that_was_named_last_is_kept(tiny_clip: Path, tmp_path: Path) -> None:
    from ltcache.encoder import load_encoder

    encoder = load_encoder(f"local-dir:{tiny_clip}")
    photos, cache = write_images(tmp_path / "photos", {"moth": 3}), tmp_path / "cache"
    extract(photos, cache, encoder=encoder)
    photos.rename(tmp_path / "moved")
    assert extract(tmp_path / "moved", cache, encoder=encoder).encoded == 0
    assert kept_root(cache) == tmp_path / "moved"
