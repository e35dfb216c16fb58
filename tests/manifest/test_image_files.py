"""One rule says which files are images, in folders, archives, at addresses and for predict."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from PIL import Image

from ltcache.errors import ImageError
from ltcache.images import open_store
from ltcache.images.inputs import inputs
from ltcache.manifest import missing_files, read_manifest
from ltcache.manifest.image_files import (
    NO_IMAGES,
    LeftOut,
    begins_as_image,
    image_formats,
    image_suffixes,
    suffix_of,
)
from tests.images.odd import encoded, picture
from tests.manifest.helpers import plain, touch, write

PNG = encoded(picture(8, 8))
WRITTEN = sorted({*Image.SAVE} - {"BLP", "BUFR", "GRIB", "HDF5", "PALM", "WMF"})
"""Formats that Pillow writes from RGB or 1 without a program or a library besides it."""
TAKEN = (
    "a.jfif",
    "b.JPE",
    "c.jp2",
    "d.avif",
    "e.ico",
    "f.pgm",
    "g.tga",
    "h",
    "i.2020",
    "j.jpg?w=3",
)
LEFT = ("README", "k.heic", "l.pdf", "m.eps", "n.mpg", "o.h5", "p.txt", "q.mp4")

Image.init()  # all of Pillow's formats, whatever other tests have loaded


def a_folder(path: Path) -> Path:
    for name in (*TAKEN, *LEFT):
        write(path / "ant" / name, b"Python is a snake" if name in LEFT else PNG)
    write(path / "bee" / "notes.txt", "no image")
    write(path / "readme.txt", "no image")
    write(path / "cat" / "1.png", PNG)
    write(path / "cat" / ".thumbnails" / "1.png", PNG)
    return path


def as_zip(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return path


def as_tar(folder: Path) -> Path:
    path = folder.with_suffix(".tar")
    with tarfile.open(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.add(file, str(file.relative_to(folder)))
    return path


def as_address(folder: Path) -> str:
    fs = fsspec.filesystem("memory")
    for file in folder.rglob("*"):
        if file.is_file():
            fs.pipe_file(f"/suffixes/{file.relative_to(folder)}", file.read_bytes())
    return "memory://suffixes"


@pytest.mark.parametrize("form", [Path, as_zip, as_tar, as_address])
def test_what_pillow_opens_is_taken_and_the_rest_is_named(
    tmp_path: Path, form: Callable[[Path], Path | str]
) -> None:
    source = form(a_folder(tmp_path / "set"))
    manifest = read_manifest(source)
    assert plain(manifest) == [
        *((f"ant/{name}", 0, "train") for name in sorted(TAKEN)),
        ("cat/1.png", 2, "train"),
    ]
    assert manifest.classes.names == ("ant", "bee", "cat")
    said = next(warning for warning in manifest.warnings if "are not images" in warning)
    assert said.startswith(f"{len(LEFT) + 2} file(s) are not images: ")
    assert "README" in said and "k.heic" in said and "5 more" in said
    store = open_store(source)
    assert {store.read(uri) for uri, _, _ in plain(manifest)} == {PNG}
    assert not missing_files(manifest)


@pytest.mark.parametrize("form", [Path, as_zip, as_tar])
def test_predict_takes_the_same_files(tmp_path: Path, form: Callable[[Path], Path]) -> None:
    source = form(a_folder(tmp_path / "set"))
    left_out = LeftOut(NO_IMAGES)
    found = list(inputs([source], left_out=left_out))
    assert left_out.sentences()[0].startswith(f"{len(LEFT) + 2} file(s) are not images: {source}/")
    assert sorted(item.name for item in found) == [
        f"{source}/{uri}" for uri in sorted(read_manifest(source).rows["uri"].to_pylist())
    ]
    assert {item.read() for item in found} == {PNG}
    (named,) = inputs([tmp_path / "set" / "cat" / ".thumbnails" / "1.png"])
    assert named.read() == PNG


def test_a_pipe_and_a_link_to_itself_cost_their_own_rows(tmp_path: Path) -> None:
    touch(tmp_path, "ant/1.jpg", "bee/2.jpg")
    (tmp_path / "ant" / "loop.jpg").symlink_to(tmp_path / "ant" / "loop.jpg")
    (tmp_path / "ant" / "self").symlink_to("self")
    os.mkfifo(tmp_path / "bee" / "pipe.jpg")
    manifest = read_manifest(tmp_path)
    uris = [row[0] for row in plain(manifest)]
    assert uris == ["ant/1.jpg", "ant/loop.jpg", "bee/2.jpg", "bee/pipe.jpg"]
    assert manifest.warnings == ("1 file(s) are not images: ant/self",)
    assert missing_files(manifest).first == ("ant/loop.jpg", "bee/pipe.jpg")
    for uri, reason in (("ant/loop.jpg", "symbolic links"), ("bee/pipe.jpg", "not a regular file")):
        with pytest.raises(ImageError, match=reason):
            open_store(tmp_path).read(uri)
    assert len(list(inputs([tmp_path]))) == 4


def as_format(form: str) -> io.BytesIO:
    """Return a small picture as a file of a format, or skip those of a codec that Pillow lacks."""
    file = io.BytesIO()
    try:
        picture(16, 16).convert("1" if form in ("MSP", "XBM") else "RGB").save(file, form)
    except (OSError, ValueError):
        assert form not in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
        pytest.skip(f"Pillow writes no {form} here")
    return file


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in Pillow")
@pytest.mark.parametrize("form", WRITTEN)
def test_images_without_a_suffix_are_known_by_their_beginning(form: str) -> None:
    file = as_format(form)
    text_or_unmarked = ("XBM", "IM", "SPIDER", "PDF", "EPS")
    assert begins_as_image(file.getvalue()[:512]) == (form not in text_or_unmarked)


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in Pillow")
@pytest.mark.parametrize("form", WRITTEN)
def test_a_file_is_read_as_the_format_that_pillow_finds(form: str) -> None:
    file = as_format(form)
    try:
        found = Image.open(file).format
    except OSError:
        assert form == "PDF"  # written, and not read
        return
    if found in image_formats():
        with Image.open(file, formats=image_formats()) as image:
            assert image.format == found


def test_formats_without_a_signature_are_tried_last() -> None:
    marked = [Image.OPEN[form][1] is not None for form in image_formats()]
    assert marked == sorted(marked, reverse=True)
    assert image_formats().index("WEBP") < image_formats().index("TGA")
    assert image_formats()[:3] == tuple(Image.ID[:3])


@pytest.mark.parametrize("text", ["Python 3", "BMW – Käfer", "#define x 1", "", "P6 is a format"])
def test_texts_are_no_images(text: str) -> None:
    assert not begins_as_image(text.encode())


def test_suffixes() -> None:
    assert {".jpg", ".jfif", ".jpe", ".avif", ".mpo", ".pgm"} <= image_suffixes()
    assert not {".pdf", ".eps", ".mpg", ".h5", ".hdf", ".wmf", ".txt"} & image_suffixes()
    suffixes = [suffix_of(name) for name in ("a.b/C.JPG", "a.b/c", "x.tar.gz", "x.2020", ".jpg")]
    assert suffixes == [".jpg", "", ".gz", "", ""]
