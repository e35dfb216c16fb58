"""A copy of a cache is the cache, wherever it lies and whatever interrupted it."""

from __future__ import annotations

import functools
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ltcache.cache import copy_cache, open_cache, verify_files
from ltcache.errors import CacheError, UsageError
from ltcache.extract import extract
from ltcache.manifest import kept_root
from ltcache.records import ObjectStore, canonical_json, digest
from tests.cli.small_caches import write_cache
from tests.conftest import PATIENCE, Call
from tests.extract.kill_driver import digests
from tests.object_store import NOISE, served_bucket

pytestmark = NOISE


@pytest.fixture(scope="module")
def cache(few_images: Path, tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache of five shards."""
    out = tmp_path_factory.mktemp("made") / "cache"
    extract(few_images, out, model=f"local-dir:{tiny_clip}", shard_size=4)
    return out


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Return the address of a bucket."""
    with served_bucket("caches") as address:
        yield address


@pytest.fixture
def webserver(cache: Path) -> Iterator[str]:
    """Return the address under which a web server has the cache."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(cache))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_copy_here_is_the_cache(cache: Path, tmp_path: Path, call: Call) -> None:
    status, out, _ = call("copy", cache, tmp_path / "copy")
    assert status == 0 and "were there" not in out
    assert digests(cache) == digests(tmp_path / "copy") and verify_files(tmp_path / "copy").ok
    assert kept_root(tmp_path / "copy") == kept_root(cache) is not None
    again = call("copy", cache, tmp_path / "copy")
    assert again[0] == 0 and f"{len(open_cache(cache).files)} were there already" in again[1]


@pytest.mark.parametrize("way", ["here", "up", "down"])
def test_a_killed_copy_is_no_cache_and_goes_on(
    way: str, cache: Path, bucket: str, tmp_path: Path, call: Call
) -> None:
    source, target = str(cache), str(tmp_path / "copy")
    if way == "up":
        target = f"{bucket}/killed"
    if way == "down":
        copy_cache(cache, source := f"{bucket}/whole")
    words = ["-m", "tests.cache.killed_copy", source, target, "6"]
    killed = subprocess.run([sys.executable, *words], timeout=PATIENCE)
    assert killed.returncode == -signal.SIGKILL
    status, _, err = call("copy", target, tmp_path / "other")
    assert status == 1 and "finished" in err and not (tmp_path / "other").exists()
    report = copy_cache(source, target)
    assert report.copied == report.files - 6
    if way == "up":
        copy_cache(target, target := str(tmp_path / "back"))
    assert digests(Path(target)) == digests(cache)


def test_a_web_server_is_copied_from_and_not_to(
    cache: Path, webserver: str, tmp_path: Path, call: Call
) -> None:
    assert call("copy", webserver, tmp_path / "copy")[0] == 0
    assert digests(tmp_path / "copy") == digests(cache)
    status, _, err = call("copy", cache, f"{webserver}/other")
    assert status == 2 and "written to folders of this machine and to s3://" in err


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_a_damaged_source_is_never_a_copy(
    damage: str, cache: Path, bucket: str, tmp_path: Path
) -> None:
    copy_cache(cache, f"{bucket}/{damage}")
    store = ObjectStore(f"{bucket}/{damage}")
    name = "views/center/00001.h5"
    data = store.read(name)
    assert data is not None
    store.remove(name)
    if damage == "flipped":
        store.create(name, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CacheError, match=rf"{bucket}/{damage}/{name}: .*damaged"):
        copy_cache(f"{bucket}/{damage}", tmp_path / "copy")
    with pytest.raises(CacheError, match="not finished"):
        open_cache(tmp_path / "copy")
    store.write(name, data)
    assert copy_cache(f"{bucket}/{damage}", tmp_path / "copy").copied > 0
    assert digests(tmp_path / "copy") == digests(cache)


@pytest.mark.parametrize("finished", [True, False])
def test_another_cache_is_not_replaced(
    finished: bool, cache: Path, bucket: str, tmp_path: Path
) -> None:
    other = write_cache(tmp_path / "mine", {"train": [3, 2, 2, 1], "test": [1, 1, 1, 1]})
    for place in (tmp_path / "there", f"{bucket}/there-{finished}"):
        copy_cache(other, place)
        if not finished and isinstance(place, Path):
            (place / "cache.json").unlink()
        elif not finished:
            ObjectStore(place).remove("cache.json")
        before = digests(tmp_path / "there")
        with pytest.raises(UsageError, match="another one|another content"):
            copy_cache(cache, place)
        assert digests(tmp_path / "there") == before
    with pytest.raises(UsageError, match="not empty and not a cache"):
        copy_cache(cache, tmp_path)


def test_an_index_that_names_files_outside_is_refused(cache: Path, tmp_path: Path) -> None:
    shutil.copytree(cache, tmp_path / "evil")
    index = json.loads((cache / "cache.json").read_text())
    del index["index_sha256"]
    index["files"]["../stolen"] = index["files"]["encoder.json"]
    (tmp_path / "stolen").write_bytes((cache / "encoder.json").read_bytes())
    data = canonical_json({**index, "index_sha256": digest(index)})
    (tmp_path / "evil/cache.json").write_text(data)
    with pytest.raises(CacheError, match=r"names '\.\./stolen', outside"):
        copy_cache(tmp_path / "evil", tmp_path / "deep" / "copy")
    assert not (tmp_path / "deep/stolen").exists()


@pytest.mark.parametrize("address", ["nosuch://bucket/cache", "s3://no-such-bucket/cache"])
def test_an_address_that_cannot_be_is_named(address: str, bucket: str, call: Call) -> None:
    status, _, err = call("copy", address, "copy")
    assert status in (1, 2) and f"{address}" in err and not Path("copy").exists()
