"""Absolute paths in lists are taken relative to the root above them, or refused with a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltcache.errors import ManifestError
from ltcache.manifest import missing_files, read_manifest
from tests.manifest.helpers import plain, touch, write


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("rows.csv", "path,label\n{0}/ant/1.jpg,0\n{0}/bee/2.jpg,1\nbee/3.jpg,1\n"),
        ("rows.txt", "{0}/ant/1.jpg 0\n{0}/bee/2.jpg 1\nbee/3.jpg 1\n"),
        ("rows.csv", "path,label\nfile://{0}/ant/1.jpg,0\n{0}/bee/2.jpg,1\nbee/3.jpg,1\n"),
    ],
)
def test_absolute_paths_below_the_root_are_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, lines: str
) -> None:
    photos = touch(tmp_path / "photos", "ant/1.jpg", "bee/2.jpg", "bee/3.jpg")
    rows = [("ant/1.jpg", 0, "train"), ("bee/2.jpg", 1, "train"), ("bee/3.jpg", 1, "train")]
    for folder in (photos, tmp_path):
        found = read_manifest(write(folder / name, lines.format(photos)), root=photos)
        assert plain(found) == rows and not missing_files(found)
    assert plain(read_manifest(photos / name)) == rows
    monkeypatch.chdir(tmp_path)
    assert plain(read_manifest(Path(name), root="photos")) == rows
    (tmp_path / "link").symlink_to(photos)
    assert plain(read_manifest(Path(name), root=tmp_path / "link")) == rows


def test_absolute_paths_elsewhere_name_the_root_that_does(tmp_path: Path) -> None:
    photos = touch(tmp_path / "photos", "train/ant/1.jpg", "test/bee/2.jpg").resolve()
    lists = [
        write(tmp_path / "lists" / "train.csv", f"path,label\n{photos}/train/ant/1.jpg,0\n"),
        write(tmp_path / "lists" / "test.csv", f"path,label\n{photos}/test/bee/2.jpg,0\n"),
    ]
    with pytest.raises(ManifestError, match=f"train.csv line 2: .*; give --root {photos}, below"):
        read_manifest(lists)
    found = read_manifest(lists, root=photos)
    assert plain(found) == [("train/ant/1.jpg", 0, "train"), ("test/bee/2.jpg", 0, "test")]


@pytest.mark.parametrize(
    "path",
    ["/nowhere/else/1.jpg", "C:\\\\photos\\\\1.jpg", "s3://bucket/1.jpg", "/etc/../etc/passwd"],
)
def test_absolute_paths_that_are_nowhere_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ManifestError, match="line 1: .* is absolute and not below .* relative"):
        read_manifest(write(tmp_path / "rows.txt", f"{path} 0\nant/1.jpg 0\n"))
    with pytest.raises(ManifestError, match=r"hold no '\.\.'"):
        read_manifest(write(tmp_path / "rows.txt", f"{tmp_path}/../1.jpg 0\n"))
