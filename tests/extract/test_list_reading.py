"""Of the processes of a machine one reads a long list, and the others map what it has read."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ltcache.errors import ManifestError
from ltcache.extract import ListReading, list_reading, read_once
from ltcache.manifest import Manifest, read_manifest
from ltcache.process import LaunchedProcess
from ltcache.records import sign_of_life
from tests.commands import start_ltcache
from tests.conftest import PATIENCE
from tests.extract.kill_driver import digests

LIST = "path,label,split\n" + "".join(f"{k % 3}/{k}.jpg,{k % 3},train\n" for k in range(30))
FIRST, SECOND = (
    LaunchedProcess(rank, 2, local_rank=rank, local_size=2, launcher="torchrun") for rank in (0, 1)
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the machine's folder of list files; every list is long."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(list_reading, "_LONG", 0)
    monkeypatch.setattr(list_reading, "_PATIENCE", 0.0)
    monkeypatch.setattr(list_reading.atexit, "register", lambda *_, **__: None)
    return tmp_path / f"ltcache-{os.getuid()}"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "all.csv"
    path.write_text(LIST)
    return path


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of what is read, list files among them."""
    names: list[str] = []

    def noting(place: Any, **how: Any) -> Manifest:
        names.append(Path(place).suffix)
        return read_manifest(place, **how)

    monkeypatch.setattr(list_reading, "read_manifest", noting)
    return names


def equal(one: Manifest, other: Manifest) -> bool:
    return (
        one.identity() == other.identity()
        and one.header() == other.header()
        and one.rows.equals(other.rows)
        and str(one.root) == os.path.abspath(str(other.root))
    )


def test_one_reads_and_all_map(source: Path, read: list[str], folder: Path) -> None:
    first = read_once(source, FIRST, ListReading())
    second = read_once(source, SECOND, ListReading())
    assert read == [".csv", ".arrow", ".arrow"]
    assert equal(first, read_manifest(source)) and equal(second, first)
    assert folder.stat().st_mode & 0o777 == 0o700 and len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    "alone",
    [
        LaunchedProcess(),
        LaunchedProcess(1, 4, local_rank=1, launcher="--part"),
        LaunchedProcess(0, 1, launcher="srun"),
    ],
)
def test_one_alone_reads_by_itself(
    source: Path, read: list[str], folder: Path, alone: LaunchedProcess
) -> None:
    assert equal(read_once(source, alone, ListReading()), read_manifest(source))
    assert read == [".csv"] and not folder.exists()


def test_srun_tells_no_size_of_a_machine(source: Path, read: list[str]) -> None:
    for rank in (0, 1):
        part = LaunchedProcess(rank + 4, 8, local_rank=rank, launcher="srun")
        read_once(source, part, ListReading())
    assert read == [".csv", ".arrow", ".arrow"]


def test_a_short_list_is_read_by_each(
    source: Path, read: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_reading, "_LONG", len(LIST) + 1)
    for part in (FIRST, SECOND):
        read_once(source, part, ListReading())
    assert read == [".csv", ".csv"] and not folder.exists()


def test_the_second_waits_while_the_first_reads(
    source: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_reading, "_PATIENCE", PATIENCE)
    for name in ("_BEAT", "_LOOK"):
        monkeypatch.setattr(sign_of_life, name, 0.01)
    found: list[Manifest] = []
    second = threading.Thread(target=lambda: found.append(read_once(source, SECOND, ListReading())))
    second.start()
    first = read_once(source, FIRST, ListReading())
    second.join(PATIENCE)
    assert equal(found[0], first) and sorted(read) == [".arrow", ".arrow", ".csv"]


def test_without_the_first_the_second_reads(source: Path, read: list[str]) -> None:
    assert equal(read_once(source, SECOND, ListReading()), read_manifest(source))
    assert read == [".csv"]


def _longer(source: Path) -> ListReading:
    source.write_text(LIST + "1/more.jpg,1,train\n")
    return ListReading()


def _same_size(source: Path) -> ListReading:
    source.write_text(LIST.replace("0/0.jpg,0", "0/0.jpg,2"))
    return ListReading()


def _named(source: Path) -> ListReading:
    (source.parent / "classes.txt").write_text("ant\nbee\ncow\n")
    return ListReading()


def _named_elsewhere(source: Path) -> ListReading:
    other = source.parent.parent / "names.txt"
    other.write_text("ant\nbee\ncow\n")
    return ListReading(classes=other)


@pytest.mark.parametrize(
    "change",
    [
        _longer,
        _same_size,
        _named,
        _named_elsewhere,
        lambda source: ListReading(labelled=False),
        lambda source: ListReading(root=source.parent),
        lambda source: ListReading(label_column="label"),
    ],
)
def test_what_is_to_be_read_otherwise_is_read_anew(
    source: Path, read: list[str], change: Callable[[Path], ListReading]
) -> None:
    read_once(source, FIRST, ListReading())
    reading = change(source)
    read.clear()
    second = read_once(source, SECOND, reading)
    assert read == [".csv"] and equal(second, reading.manifest(source))


def test_a_damaged_list_file_is_written_anew(source: Path, read: list[str], folder: Path) -> None:
    read_once(source, FIRST, ListReading())
    (file,) = folder.iterdir()
    data = bytearray(file.read_bytes())
    data[data.index(b"0/0.jpg")] = ord("2")
    file.write_bytes(bytes(data))
    read.clear()
    for part in (SECOND, FIRST, SECOND):
        assert equal(read_once(source, part, ListReading()), read_manifest(source))
    assert read == [".arrow", ".csv", ".csv", ".arrow", ".arrow"]


def test_an_error_is_that_of_the_source(source: Path, folder: Path) -> None:
    source.write_text(LIST + "../1.jpg,1,train\n")
    for part in (FIRST, SECOND):
        with pytest.raises(ManifestError, match=r"all.csv line 32"):
            read_once(source, part, ListReading())
    assert not list(folder.iterdir())


def test_no_room_for_the_list_file(
    source: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(list_reading, "write_list", full)
    for part in (FIRST, SECOND):
        assert equal(read_once(source, part, ListReading()), read_manifest(source))
    assert read == [".csv", ".csv"]


def test_a_folder_that_others_can_write_to_is_not_used(
    source: Path, read: list[str], folder: Path
) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    for part in (FIRST, SECOND):
        read_once(source, part, ListReading())
    assert read == [".csv", ".csv"] and not list(folder.iterdir())


def test_images_and_packaged_lists_are_read_by_each(few_images: Path, read: list[str]) -> None:
    for place in (few_images, "emoji_lt"):
        for part in (FIRST, SECOND):
            assert equal(read_once(place, part, ListReading()), read_manifest(place))
    assert ".arrow" not in read


@pytest.mark.slow
def test_processes_of_a_command_make_the_cache_of_one(
    folder_of_images: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    names = sorted(
        p.relative_to(folder_of_images).as_posix() for p in folder_of_images.rglob("*.png")
    )
    table = tmp_path / "images.csv"
    table.write_text("\n".join(["path,label,split", *(f"{name},0,train" for name in names), ""]))
    words = ["extract", table, "--root", folder_of_images, "--model", f"local-dir:{tiny_clip}"]
    words += ["--threads", 1, "--shard-size", 8, "--batch-size", 4]
    environ = os.environ | {"LTCACHE_IMPORT": "tests.extract.long_lists", "TMPDIR": str(tmp_path)}
    for name, more in (("one", []), ("two", ["--processes", 2])):
        ended = start_ltcache(
            *words, "--out", tmp_path / name, *more,
            cwd=Path(__file__).parents[2], environ=environ,
        ).finish()  # fmt: skip
        assert ended.returncode == 0, ended.stderr
    assert digests(tmp_path / "two") == digests(tmp_path / "one")
    assert not list((tmp_path / f"ltcache-{os.getuid()}").glob("*"))
    assert len((tmp_path / "mapped").read_text().splitlines()) >= 1
