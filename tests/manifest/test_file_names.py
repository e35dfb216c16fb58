"""Odd names through folder, zip and tar: what is listed is what is read, and no file is lost."""

from __future__ import annotations

import io
import os
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ltcache.errors import ManifestError
from ltcache.images import open_store
from ltcache.images.inputs import inputs
from ltcache.manifest import Manifest, missing_files, read_manifest
from ltcache.manifest.file_names import member_uris, uri_of
from ltcache.manifest.image_files import is_image, suffix_of
from ltcache.manifest.text import printable
from tests.manifest.helpers import plain, touch

Files = Mapping[str, bytes]
ODD = (
    "a\nb.png", "tab\t.png", "co,mma.png", "qu\"o'te.png", "trailing .png ", "-dash.png", "--x.png",
    " lead.png", "日本 ünï.png", "e\u0301.png", "é.png", "back\\slash.png", "\\.png", "C:x.png",
    "%41.png", "a?b#c.png", "*.png", "[1]{a,b}.png", "~.png", "IMG.2020.01.PNG", "é" * 120 + ".png",
    "\x1b[31m.png", "\u202e.png", "\\xff.png", "nul\x7f.png", "a..png", "no suffix",
)  # fmt: skip


def in_folder(place: Path, files: Files) -> Path:
    for name, data in files.items():
        path = place / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return place / "set"


def in_zip(place: Path, files: Files) -> Path:
    with zipfile.ZipFile(place / "set.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return place / "set.zip"


class Unmarked(zipfile.ZipInfo):
    """A member whose name is UTF-8 without its flag, as macOS writes it."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.filename.encode(), self.flag_bits & ~0x800


def test_names_in_a_zip_of_macos_are_utf8(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for name in ("cafe\u0301/1.jpg", "caf\u00e9/2.jpg"):
            archive.writestr(Unmarked(name), name.encode())
        archive.writestr("日本/1.jpg", b"marked")
    manifest = read_manifest(tmp_path / "photos.zip")
    assert set(manifest.classes.names) == {"caf\u00e9", "日本"}
    store = open_store(manifest.root)
    for uri in ("cafe\u0301/1.jpg", "caf\u00e9/2.jpg"):
        assert store.read(uri) == uri.encode()
    assert store.read("日本/1.jpg") == b"marked" and not missing_files(manifest)


def in_tar(place: Path, files: Files) -> Path:
    with tarfile.open(place / "set.tar", "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return place / "set.tar"


FORMS = (in_folder, in_zip, in_tar)
GIF = b"GIF89a\x01\x00\x01\x00"
characters = st.characters(codec="utf-8", exclude_characters="/\0")
names = st.text(characters, min_size=1, max_size=12).filter(
    lambda name: not name.startswith(".") and name != "__MACOSX" and len(name.encode()) < 200
)
folders = names.filter(  # a class needs a name; a drive of Windows is refused as a folder
    lambda name: bool(name.strip()) and not re.fullmatch("[A-Za-z]:", name)
)


def read_back(manifest: Manifest) -> dict[str, bytes]:
    store = open_store(manifest.root)
    return {uri: store.read(uri) for uri, _, _ in plain(manifest)}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@given(files=st.dictionaries(st.tuples(folders, names), st.none(), min_size=1, max_size=6))
@example(files={("ant", name): None for name in ODD})
@example(files={("back\\slash", "a\\b"): None, ("back", "slash"): None})
@settings(max_examples=40)
def test_odd_names(form: Callable[[Path, Files], Path], files: dict[tuple[str, str], None]) -> None:
    content = {f"{folder}/{name}": GIF + str(k).encode() for k, (folder, name) in enumerate(files)}
    with tempfile.TemporaryDirectory() as place:
        source = form(Path(place), content)
        left = sum(not _is_taken(name) for _, name in files)
        if left == len(files):
            with pytest.raises(ManifestError, match="no images below it"):
                read_manifest(source)
            return
        manifest = read_manifest(source)
        taken = {uri: data for uri, data in content.items() if _is_taken(uri.split("/")[1])}
        assert read_back(manifest) == taken
        assert manifest.rows["key"].to_pylist() == manifest.rows["uri"].to_pylist()
        assert set(manifest.classes.source_ids) == {folder for folder, _ in files}
        assert left == 0 or any(f"{left} file(s) are not images" in w for w in manifest.warnings)
        assert all(warning.isprintable() for warning in manifest.warnings)
        assert not missing_files(manifest)
        assert {item.name: item.read() for item in inputs([source])} == {
            f"{source}/{uri}": data for uri, data in taken.items()
        }


@pytest.mark.parametrize("form", [in_folder, in_zip, in_tar])
def test_a_source_without_images_says_what_it_holds(
    form: Callable[[Path, Files], Path], tmp_path: Path
) -> None:
    source = form(tmp_path, {"0/0.A": GIF, "1/notes.xyz": GIF})
    with pytest.raises(ManifestError, match=r"no images below it: 2 file\(s\) are not images"):
        read_manifest(source)


def _is_taken(name: str) -> bool:
    return is_image(name) or not suffix_of(name)


def test_backslashes_of_windows_separate_folders_in_archives(tmp_path: Path) -> None:
    files = {"set\\ant\\1.png": b"1", "set\\bee\\2.png": b"2", "set\\bee\\deep\\3.png": b"3"}
    for form in (in_zip, in_tar):
        manifest = read_manifest(form(tmp_path, files))
        assert manifest.classes.names == ("ant", "bee")
        assert read_back(manifest) == {name.replace("\\", "/"): d for name, d in files.items()}
        assert not missing_files(manifest)


def test_members_with_one_name_count_once_and_are_named(tmp_path: Path) -> None:
    members, repeated = member_uris(["a/1", "./a/1", "a\\1", "b//2", "/c", "d\\3"])
    assert members == {"a/1": "./a/1", "a\\1": "a\\1", "b/2": "b//2", "/c": "/c", "d/3": "d\\3"}
    assert repeated == ["a/1"]
    for form in (in_zip, in_tar):
        path = form(tmp_path, {"ant/1.png": b"old", "./ant/1.png": b"new", "bee/2.png": b"2"})
        manifest = read_manifest(path)
        assert read_back(manifest) == {"ant/1.png": b"new", "bee/2.png": b"2"}
        assert manifest.warnings == (
            "1 member(s) come more than once, and the last counts: ant/1.png",
        )


@pytest.mark.parametrize("form", [in_folder, in_tar], ids=lambda form: form.__name__)
def test_names_that_are_not_utf8_are_written_out(
    tmp_path: Path, form: Callable[[Path, Files], Path]
) -> None:
    files = {"caf\udce9/1.png": b"1", "bee/\udcff.png": b"2", "bee/\udcff.md": b"3"}
    manifest = read_manifest(form(tmp_path, files))
    assert manifest.classes.source_ids == ("bee", r"caf\xe9")
    assert read_back(manifest) == {r"bee/\xff.png": b"2", r"caf\xe9/1.png": b"1"}
    assert not missing_files(manifest)
    warnings = (
        r"1 file(s) are not images: bee/\xff.md",
        "2 file name(s) are not UTF-8, so that odd bytes are written out: "
        r"bee/\xff.png, caf\xe9/1.png",
    )
    assert manifest.warnings[:2] == warnings[: 2 if form is in_folder else 1]
    assert {item.read() for item in inputs([manifest.root])} == {b"1", b"2"}


def test_a_file_whose_name_looks_written_out_is_itself(tmp_path: Path) -> None:
    touch(tmp_path, "ant/\\xff.png", "bee/1.png")
    (tmp_path / "bee" / os.fsdecode(b"\xe9.png")).write_bytes(b"odd")
    read = read_back(read_manifest(tmp_path))
    assert read == {r"ant/\xff.png": b"image", "bee/1.png": b"image", r"bee/\xe9.png": b"odd"}


def test_messages_stay_on_their_line() -> None:
    assert printable("a\nb\x1b[31m é日") == r"a\nb\x1b[31m é日"
    assert uri_of("plain é") == "plain é"
