"""A format that holds images, and list formats, each added here alone.

Nothing is done for them but what ``ltcache/README.md`` lists: a class or a function, and its entry
in the catalogue that is named there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from ltcache.cache import Cache, open_cache
from ltcache.errors import ImageError, ManifestError
from ltcache.images.inputs import inputs
from ltcache.manifest import (
    ROOT_FORMATS,
    Listing,
    NamedFiles,
    Place,
    RootFormat,
    TableColumns,
    missing_files,
    open_store,
    read_manifest,
    source,
)
from ltcache.manifest.draft import ManifestRequest, SourceDraft
from ltcache.manifest.roots.folders import FolderRoot
from ltcache.manifest.source import FILE_READERS
from ltcache.manifest.table_forms import TABLE_FORMS
from tests.commands import start_ltcache
from tests.conftest import Call
from tests.manifest.helpers import plain, write


class PackRoot(RootFormat):
    """A made-up container: a line of JSON {name: size}, then the bytes of all files."""

    suffixes = named_suffixes = (".pack",)

    @cached_property
    def index(self) -> dict[str, tuple[int, int]]:
        """See :meth:`RootFormat.index`: (start, end) of each file."""
        try:
            with open(str(self.place), "rb") as file:
                sizes, end = json.loads(file.readline()), file.tell()
        except ValueError:
            raise ManifestError(f"{self.place}: cannot be read as a .pack file") from None
        spans = {}
        for name, size in sizes.items():
            spans[name] = (end, end + size)
            end += size
        return spans

    def parts(self) -> list[NamedFiles]:
        """See :meth:`RootFormat.parts`."""
        return [NamedFiles(list(self.index))]

    def read(self, uri: str) -> bytes:
        """See :meth:`RootFormat.read`."""
        if uri not in self.index:
            raise ImageError("No such file in the pack")
        start, end = self.index[uri]
        return Path(str(self.place)).read_bytes()[start:end]


def pack(folder: Path, target: Path) -> Path:
    """Write a folder, with a text and a file without a suffix that is an image, as a pack."""
    files = {
        f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*.png"))
    }
    first = next(iter(files))
    files[first.removesuffix(".png")] = files.pop(first)
    files["readme.txt"] = b"no image"
    header = json.dumps({name: len(data) for name, data in files.items()})
    target.write_bytes(header.encode() + b"\n" + b"".join(files.values()))
    return target


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch, few_images: Path, tmp_path: Path) -> Path:
    """Return 20 images as ``few.pack``, and list the format."""
    monkeypatch.setitem(ROOT_FORMATS, "pack", PackRoot)
    return pack(few_images, tmp_path / "few.pack")


def predictions(call: Call, images: Path, *options: object) -> dict[str, list[int]]:
    """Return the name of each image without its suffix -> its predicted labels."""
    status, out, _ = call("predict", *options, images, "--json")
    assert status == 0
    found = [json.loads(line) for line in out.splitlines()]
    return {
        Path(item["image"]).relative_to(images).with_suffix("").as_posix(): item["labels"]
        for item in found
    }


def test_a_container_is_extracted_and_predicted_from_as_its_folder_is(
    call: Call, packed: Path, few_images: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    model = ("--model", f"local-dir:{tiny_clip}")
    assert call("extract", few_images, "--out", tmp_path / "plain", *model)[0] == 0
    status, _, err = call("extract", packed, "--out", tmp_path / "cache", *model)
    assert status == 0 and "1 file(s) are not images: readme.txt" in err
    plain_cache, cache = (open_cache(tmp_path / name) for name in ("plain", "cache"))
    assert cache.classes.names == plain_cache.classes.names == ("moth", "red fox")
    np.testing.assert_array_equal(*map(features_by_name, (plain_cache, cache)))
    sample = ("--sample", 3, "--root", packed, *model)
    assert call("verify", tmp_path / "cache", *sample)[0] == 0
    run = tmp_path / "run"
    assert call("fit-adapter", tmp_path / "cache", "--method", "ncm", "--out", run)[0] == 0
    found = predictions(call, packed, run, *model)
    assert len(found) == 20 and found == predictions(call, few_images, run, *model)


def features_by_name(cache: Cache) -> np.ndarray:
    """Return the features of an extraction, in the order of names without suffixes."""
    names = [Path(uri).with_suffix("").as_posix() for uri in cache.manifest.rows["uri"].to_pylist()]
    return np.array(cache.features("train", "embedding"))[np.argsort(names)]


class NumberedRoot(FolderRoot):
    """A folder with a file ``names.json``, [uri]: the images lie in files ``0``, ``1``..."""

    @classmethod
    def recognises(cls, place: Place) -> bool:
        """See :meth:`RootFormat.recognises`."""
        return isinstance(place, Path) and (place / "names.json").is_file()

    @cached_property
    def index(self) -> list[str]:
        """See :meth:`RootFormat.index`."""
        return list(json.loads((self.folder / "names.json").read_text()))

    def parts(self) -> Iterator[NamedFiles]:
        """See :meth:`RootFormat.parts`."""
        yield NamedFiles(self.index)

    def read(self, uri: str) -> bytes:
        """See :meth:`RootFormat.read`."""
        return (self.folder / str(self.index.index(uri))).read_bytes()


def test_a_folder_of_a_format_of_its_own_goes_before_a_plain_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(ROOT_FORMATS, "numbered", NumberedRoot)
    write(tmp_path / "names.json", '["moth/a.png", "newt/b.png"]')
    for number in range(2):
        write(tmp_path / str(number), f"bytes {number}")
    manifest = read_manifest(tmp_path)
    assert plain(manifest) == [("moth/a.png", 0, "train"), ("newt/b.png", 1, "train")]
    assert open_store(manifest.root).read("newt/b.png") == b"bytes 1"


def test_a_module_of_ones_own_adds_a_container(
    few_images: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    pack(few_images, tmp_path / "few.pack")
    (tmp_path / "my_formats.py").write_text(
        "from ltcache.manifest import ROOT_FORMATS\n"
        "from tests.structure.test_adding_formats import PackRoot\n"
        "ROOT_FORMATS['pack'] = PackRoot\n"
    )
    extract = ("extract", "few.pack", "--out", "cache", "--model", f"local-dir:{tiny_clip}")
    assert start_ltcache(*extract, cwd=tmp_path).finish().returncode == 1
    done = start_ltcache("--import", "my_formats", *extract, cwd=tmp_path).finish()
    assert done.returncode == 0 and len(open_cache(tmp_path / "cache").manifest.rows) == 20


def test_a_container_is_the_root_of_a_list_and_missing_images_get_a_hint(packed: Path) -> None:
    uris = ["moth/000", "moth/001.png", "red fox/000.png"]
    listed = packed.with_name("some_train.txt")
    listed.write_text("".join(f"{uri} {label}\n" for label, uri in enumerate(uris)))
    manifest = read_manifest(listed, root=packed)
    assert not missing_files(manifest)
    listed.write_text("001.png 0\n002.png 1\n")
    found = missing_files(read_manifest(listed, root=packed))
    assert found.count == 2 and "the files lie below 'moth/'" in str(found)


def test_a_damaged_container_is_named(call: Call, packed: Path, tmp_path: Path) -> None:
    packed.write_bytes(b"{")
    with pytest.raises(ManifestError, match=r"few\.pack: cannot be read as a \.pack file"):
        read_manifest(packed)
    [damaged] = inputs([packed])
    with pytest.raises(ImageError, match="not a pack archive"):
        damaged.read()
    (tmp_path / "few.packed").write_text("")
    with pytest.raises(ManifestError, match=r"\.pq \.zip \.tar \.pack\)"):
        read_manifest(tmp_path / "few.packed")


def read_semicolons(path: Path) -> TableColumns:
    """Read a table whose cells stand between semicolons."""
    header, *rows = (line.split(";") for line in path.read_text().split())
    columns = {name: pa.array(cells) for name, *cells in zip(header, *rows, strict=True)}
    return TableColumns(columns, range(2, len(rows) + 2))


def test_a_table_form_is_read_alone_in_folders_by_cards_and_from_addresses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(TABLE_FORMS, ".semi", read_semicolons)
    rows = [("a/1.jpg", 0, "train"), ("b/1.jpg", 1, "train")]
    text = "path;label\n" + "".join(f"{uri};{label}\n" for uri, label, _ in rows)
    for split in ("train", "val"):
        write(tmp_path / f"birds_{split}.semi", text)
    assert plain(read_manifest(tmp_path / "birds_train.semi")) == rows
    both = [*rows, *((uri, label, "val") for uri, label, _ in rows)]
    assert plain(read_manifest(tmp_path)) == plain(read_manifest(tmp_path / "birds")) == both
    fs = fsspec.filesystem("memory")
    fs.pipe("/semi/birds_train.semi", text.encode())
    assert plain(read_manifest("memory://semi/birds_train.semi")) == rows
    card = {"name": "birds", "lists": {"train": "birds_train.semi"}}
    write(tmp_path / "dataset.json", json.dumps(card))
    write(tmp_path / "classes.csv", "label,name\n0,jay\n1,wren\n")
    manifest = read_manifest(tmp_path)
    assert plain(manifest) == rows and manifest.classes.names == ("jay", "wren")


def read_turned(paths: Sequence[Path], request: ManifestRequest) -> SourceDraft:
    """Read ``label path`` lists: no table, and not the usual order."""
    listings = []
    for path in paths:
        labels, uris = zip(*(line.split() for line in path.read_text().splitlines()), strict=True)
        numbers = np.array([int(label) for label in labels])
        listings.append(Listing(str(path), list(uris), numbers, "train"))
    return SourceDraft("turned", listings, paths[0].parent, None)


def test_a_list_that_is_no_table_has_a_reader_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(FILE_READERS, ".turned", read_turned)
    path = write(tmp_path / "x.turned", "1 b.jpg\n0 a.jpg\n")
    assert plain(read_manifest(path)) == [("b.jpg", 1, "train"), ("a.jpg", 0, "train")]


def test_a_folder_of_a_kind_of_its_own_has_a_reader(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def is_turned(folder: Path) -> bool:
        return (folder / "all.turned").is_file()

    def read(folder: Path, request: ManifestRequest) -> SourceDraft:
        return read_turned([folder / "all.turned"], request)

    monkeypatch.setattr(source, "FOLDER_READERS", [*source.FOLDER_READERS, (is_turned, read)])
    write(tmp_path / "all.turned", "0 a.jpg\n")
    assert plain(read_manifest(tmp_path)) == [("a.jpg", 0, "train")]
