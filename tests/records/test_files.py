"""A file or a folder is there whole, the old or the new, at whatever step its writer is killed."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ltcache.errors import UsageError
from ltcache.records import files
from ltcache.records.files import (
    committed,
    create_whole,
    mend,
    mend_below,
    remove_leftovers,
    require_local,
    whole_folder,
    write_whole,
)

STEPS = ("open", "rename", "replace", "link", "fsync", "mkdir", "unlink", "rmdir", "chmod")
"""Everything that the writers ask of the operating system and that changes what is there."""

OLD, NEW = {"a": b"old a", "deep/b": b"old b"}, {"a": b"new a", "deep/c": b"new c"}


@pytest.fixture(params=["exchange", "renames"])
def mechanism(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of replacing a folder; without the system's call only the second is left."""
    if request.param == "renames":
        monkeypatch.setattr(files, "_exchange_call", lambda: None)
    elif files._exchange_call() is None:
        pytest.skip("this system cannot exchange two folders")
    return str(request.param)


def temporaries(root: Path) -> list[str]:
    return [path.name for path in root.rglob(".*") if ".tmp-" in path.name or ".repl" in path.name]


def fill(folder: Path, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def content(folder: Path) -> dict[str, bytes]:
    """What a reader finds, who looks at no temporary file."""
    found = (p for p in sorted(folder.rglob("*")) if p.is_file() and ".tmp-" not in p.name)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def replace_folder(out: Path) -> None:
    with whole_folder(out) as partial:
        fill(partial, NEW)


def replace_file(out: Path) -> None:
    write_whole(out / "a", b"new a")


def killed(task: Callable[[], None], step: int) -> bool:
    """Run a task in a child that dies before its ``step``-th change; False: it had fewer."""
    pid = os.fork()
    if pid == 0:
        count = [0]
        for name in STEPS:
            original = getattr(os, name)

            def watched(*args: object, original: Callable = original, **named: object) -> object:
                if count[0] == step:
                    os._exit(9)
                count[0] += 1
                return original(*args, **named)

            setattr(os, name, watched)
        exchange = files._exchange

        def exchanged(one: Path, other: Path) -> bool:
            if count[0] == step:
                os._exit(9)
            count[0] += 1
            return exchange(one, other)

        files._exchange = exchanged
        try:
            task()
        except BaseException:
            traceback.print_exc()
            os._exit(1)  # or the child would go on as a second run of the tests
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 9), "the task failed by itself"
    return status == 9


@pytest.mark.parametrize("write", [replace_folder, replace_file])
def test_a_kill_at_any_step_leaves_the_old_or_the_new(
    tmp_path: Path,
    mechanism: str,
    write: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # slow, and a kill loses no write
    step, seen = 0, []
    wanted = NEW if write is replace_folder else {**OLD, "a": b"new a"}
    while True:
        out = tmp_path / str(step) / "run"
        fill(out, OLD)
        died = killed(lambda out=out: write(out), step)
        mend(out)  # as every reader does
        assert content(out) in (OLD, wanted), f"step {step}"
        seen.append(content(out) == wanted)
        write(out)  # and the next writer is not hindered
        assert content(out) == wanted
        assert temporaries(out.parent) == []
        if not died:
            break
        step += 1
    assert seen == sorted(seen), "once the new one is there, it stays"
    assert set(seen) == {False, True}
    assert step > 5


def test_the_gap_between_two_renames_is_mended_below_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "runs" / "ce", OLD)
    os.rename(tmp_path / "runs" / "ce", tmp_path / "runs" / ".ce.replaced")
    mend_below(tmp_path)
    assert content(tmp_path / "runs" / "ce") == OLD
    assert temporaries(tmp_path) == []


def test_a_reader_that_mends_does_not_hinder_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange_call", lambda: None)
    out = tmp_path / "run"
    fill(out, OLD)
    rename, mended = os.rename, []

    def slow(source: Path, target: Path) -> None:
        if target == out and not out.exists() and not mended:
            mended.append(True)
            mend(out)
        rename(source, target)

    monkeypatch.setattr(files.os, "rename", slow)
    replace_folder(out)
    assert mended
    assert content(out) == NEW
    assert temporaries(tmp_path) == []


def test_an_error_inside_leaves_the_old_folder(tmp_path: Path, mechanism: str) -> None:
    out = tmp_path / "run"
    fill(out, OLD)

    def fail() -> None:
        with whole_folder(out) as partial:
            fill(partial, NEW)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert content(out) == OLD
    assert temporaries(tmp_path) == []


def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(
    tmp_path: Path, mechanism: str
) -> None:
    fill(tmp_path / "disk" / "run", OLD)
    (tmp_path / "run").symlink_to(tmp_path / "disk" / "run")
    replace_folder(tmp_path / "run")
    assert (tmp_path / "run").is_symlink()
    assert content(tmp_path / "disk" / "run") == NEW


def test_a_new_folder_replaces_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "out", OLD)
    with (
        pytest.raises(UsageError, match="exists already"),
        whole_folder(tmp_path / "out", replace=False),
    ):
        pass
    (tmp_path / "empty").mkdir()
    with whole_folder(tmp_path / "empty", replace=False) as partial:
        fill(partial, NEW)
    assert content(tmp_path / "empty") == NEW

    def late() -> None:
        with whole_folder(tmp_path / "late", replace=False) as partial:
            fill(partial, NEW)
            fill(tmp_path / "late", OLD)  # another process was quicker

    with pytest.raises(UsageError, match="exists already"):
        late()
    assert content(tmp_path / "late") == OLD


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_umask_decides_who_reads(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with committed(tmp_path / "lone.safetensors") as temporary:
            save_file({"x": np.zeros(3)}, temporary)
            temporary.chmod(0o600)  # as safetensors leaves it from some version on
        write_whole(tmp_path / "plain.json", b"{}")
        create_whole(tmp_path / "plan.json", b"{}")
        with whole_folder(tmp_path / "run") as partial:
            (partial / "deep").mkdir(mode=0o700)
            save_file({"x": np.zeros(3)}, partial / "deep" / "head.safetensors")
            (partial / "deep" / "head.safetensors").chmod(0o600)
            (partial / "a.json").write_bytes(b"{}")
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        full = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == full & ~umask, path


@pytest.mark.parametrize("given", ["s3://bucket/run", "gs://b", "file:///x", "s3:/bucket/run"])
def test_addresses_are_refused(given: str) -> None:
    for place in (given, Path(given)):
        with pytest.raises(UsageError, match=r"(s3|gs|file)://.*absolute path"):
            require_local(place)


def test_no_writer_makes_a_folder_named_like_a_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for write in (
        lambda: write_whole(Path("s3://bucket/x"), b""),
        lambda: create_whole(Path("s3://bucket/x"), b""),
        lambda: replace_folder(Path("s3://bucket/x")),
    ):
        with pytest.raises(UsageError, match="s3://bucket/x"):
            write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", ["a:b", "a:b/c", "C:\\x", "C:/x", "/data/s3:/x", "12:30/run"])
def test_colons_are_no_addresses(given: str) -> None:
    assert require_local(given) == Path(given)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    write_whole(path, b"old")

    def fail() -> None:
        with committed(path) as temporary:
            temporary.write_bytes(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    assert temporaries(tmp_path) == []


def test_only_one_creates(tmp_path: Path) -> None:
    assert create_whole(tmp_path / "plan.json", b"first")
    assert not create_whole(tmp_path / "plan.json", b"second")
    assert (tmp_path / "plan.json").read_bytes() == b"first"
    assert temporaries(tmp_path) == []


def test_only_one_creates_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(files.os, "link", refuse)
    assert create_whole(tmp_path / "plan.json", b"first")
    assert not create_whole(tmp_path / "plan.json", b"second")
    assert (tmp_path / "plan.json").read_bytes() == b"first"


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = files._host()
    monkeypatch.setattr(os, "readlink", lambda path: "pid:[another]")
    in_another_container = files._host.__wrapped__()  # of the same host name
    monkeypatch.undo()
    assert in_another_container != host
    (tmp_path / "views").mkdir()
    gone = [
        tmp_path / "views" / f".00001.h5.tmp-{host}-{dead.pid}-0123abcd",
        tmp_path / f".run.tmp-{host}-{dead.pid}-0123abcd",
    ]
    gone[1].mkdir()
    kept = [
        tmp_path / f".cache.json.tmp-{host}-{os.getpid()}-0123abcd",
        tmp_path / f".cache.json.tmp-elsewhere-{dead.pid}-0123abcd",
        tmp_path / f".cache.json.tmp-{host.rpartition('.')[0]}-{dead.pid}-0123abcd",
        tmp_path / f".cache.json.tmp-{in_another_container}-{dead.pid}-0123abcd",
        tmp_path / "views" / ".my.tmp-file",
    ]
    for path in (gone[0], *kept):
        path.touch()
    remove_leftovers(tmp_path)
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in kept)
