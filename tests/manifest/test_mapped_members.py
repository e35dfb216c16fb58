"""Members of tar files that are mapped are those that a dictionary would hold."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ltcache.errors import ImageError, ManifestError
from ltcache.manifest import open_store, read_manifest
from ltcache.manifest.roots import mapped_members as on_disk
from ltcache.manifest.roots import tars
from ltcache.manifest.roots.mapped_members import MappedMembers
from ltcache.manifest.roots.places import one_root


def _png(number: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (2, 2), (number, 0, 0)).save(data, "png")
    return data.getvalue()


def _tar(path: Path, names: Sequence[str], first: int = 0) -> Path:
    with tarfile.open(path, "w") as archive:
        for number, name in enumerate(names, first):
            info, data = tarfile.TarInfo(name), _png(number)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let every tar file have many members; return the folder of this machine."""
    (tmp_path / "machine").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "machine"))
    monkeypatch.setattr(on_disk.atexit, "register", lambda *_, **__: None)
    for module, name in ((tars, "_LARGE"), (tars, "MANY"), (on_disk, "MANY")):
        monkeypatch.setattr(module, name, 0)
    return tmp_path / "machine"


FLAT = [f"{k:02d}.png" for k in range(9)]
FOLDERS = ["cat/1.png", "dog/2.png", "cat/3.png", "./dog//é.png", "cat\\4.png"]
TWICE = ["cat/1.png", "cat/9.png", "cat/1.png"]


def _pattern(folder: Path, shards: Sequence[Sequence[str]]) -> Path:
    for number, names in enumerate(shards):
        _tar(folder / f"train-{number}.tar", names, 20 * number)
    return folder / f"train-{{0..{len(shards) - 1}}}.tar"


def _seen(source: Path) -> dict[str, Any]:
    """Return all that a reader sees of tar files."""
    manifest = read_manifest(source, labelled=False)
    store = open_store(manifest.root)
    uris = manifest.rows["uri"].to_pylist()
    has = store.contains() if hasattr(store, "contains") else None
    return {
        "rows": manifest.rows.to_pylist(),
        "warnings": manifest.warnings,
        "bytes": [store.read(uri) for uri in uris],
        "has": None if has is None else [has(uri) for uri in [*uris, "train-0.tar/no.png", "no"]],
    }


@pytest.mark.parametrize("shards", [[FLAT], [FLAT[:4], FLAT[4:]], [FOLDERS, TWICE], [FOLDERS]])
def test_readers_see_the_same(tmp_path: Path, request: Any, shards: list[list[str]]) -> None:
    source = _pattern(tmp_path, shards)
    held = _seen(source)
    folder = request.getfixturevalue("many")
    mapped = _seen(source)
    assert mapped == held and held["rows"]
    places = sorted(tmp_path.glob("*.tar"))
    index = tars.TarRoot(one_root(places)).index
    assert all(isinstance(shard.members, MappedMembers) for shard in index.values())
    assert len(list(folder.glob("*/tars-*.arrow"))) == 1


def test_equal_hashes_are_told_apart(
    tmp_path: Path, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_disk, "_hash", lambda _: np.uint64(7))
    members = {f"{k}.png": (k, 10 * k) for k in range(6)}
    (found,) = on_disk.mapped_members("key", [(members, ["3.png"])]) or ()
    assert dict(found) == members and list(found) == list(members) and len(found) == 6
    assert found.repeated == ("3.png",) and "6.png" not in found
    with pytest.raises(KeyError):
        found["6.png"]


def test_who_comes_later_maps_what_is_there(
    tmp_path: Path, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _tar(tmp_path / "train.tar", FLAT)
    (first,) = tars.tar_indices([path])

    def again(_: object) -> Iterator[None]:
        yield pytest.fail("indexed again")

    monkeypatch.setattr(tars, "_one_by_one", again)
    (second,) = tars.tar_indices([path])
    assert dict(first.members) == dict(second.members) and second.stamp == first.stamp


def test_a_damaged_or_changed_file_is_made_anew(tmp_path: Path, many: Path) -> None:
    path = _tar(tmp_path / "train.tar", FLAT)
    expected = dict(tars.tar_indices([path])[0].members)
    (file,) = many.glob("*/tars-*.arrow")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    assert dict(tars.tar_indices([path])[0].members) == expected
    (file,) = many.glob("*/tars-*.arrow")
    _tar(path, [*FLAT, "new.png"])
    assert list(tars.tar_indices([path])[0].members) == [*FLAT, "new.png"]
    assert len(list(many.glob("*/tars-*.arrow"))) == 2  # of the file before, until its writer ends


def test_few_members_are_held(tmp_path: Path, many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_disk, "MANY", len(FLAT) + 1)
    (index,) = tars.tar_indices([_tar(tmp_path / "train.tar", FLAT)])
    assert isinstance(index.members, dict) and not list(many.glob("*/*"))


def test_refusals_stay_as_they_are(tmp_path: Path, many: Path) -> None:
    path = _tar(tmp_path / "train.tar", [*FLAT, "../x.png"])
    with pytest.raises(ManifestError, match="leads out of the archive"):
        tars.tar_indices([path])
    assert not list(many.glob("*/*"))
    store = tars.TarRoot(_tar(tmp_path / "val.tar", FLAT))
    with pytest.raises(ImageError, match="No such member"):
        store.read("no.png")


def test_a_file_that_went_with_its_writer_is_written_again(many: Path, tmp_path: Path) -> None:
    spans = {"a.png": (512, 7)}
    written = on_disk.mapped_members("key", [(spans, ())])
    assert written is not None and dict(written[0]) == spans
    (file,) = many.rglob("tars-*.arrow")
    file.unlink()
    assert on_disk._map(file) is None
    again = on_disk.mapped_members("key", [(spans, ())])
    assert again is not None and dict(again[0]) == spans and file.exists()
