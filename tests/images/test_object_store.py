"""Images in an object store that speaks S3, served on this machine: listed, read and extracted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from ltcache.cache import open_cache
from ltcache.errors import ManifestError
from ltcache.extract import extract
from ltcache.manifest import missing_files, read_manifest
from tests.conftest import write_images
from tests.object_store import NOISE, served_bucket

pytestmark = NOISE


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Return the address of a folder of class folders in a bucket, and its local twin."""
    local = write_images(tmp_path_factory.mktemp("store"), {"moth": 5, "red fox": 3})
    with served_bucket("photos") as address:
        store = fsspec.filesystem("s3")
        for path in sorted(local.rglob("*.png")):
            store.pipe_file(f"photos/set/{path.relative_to(local)}", path.read_bytes())
        yield f"{address}/set", local


def test_a_bucket_is_read_as_the_folder_that_it_holds(bucket: tuple[str, Path]) -> None:
    remote, local = read_manifest(bucket[0]), read_manifest(bucket[1])
    assert remote.classes.names == local.classes.names and len(remote.rows) == 8
    assert remote.rows["uri"].to_pylist() == local.rows["uri"].to_pylist()
    assert missing_files(remote).count == 0


def test_features_of_a_bucket_are_those_of_the_folder(
    bucket: tuple[str, Path], tiny_clip: Path, tmp_path: Path
) -> None:
    for name, source in zip(("remote", "local"), bucket, strict=True):
        extract(source, tmp_path / name, model=f"local-dir:{tiny_clip}")
    found, expected = (open_cache(tmp_path / name).features() for name in ("remote", "local"))
    assert np.array_equal(found, expected)


def test_a_bucket_that_is_not_there_is_named(bucket: tuple[str, Path]) -> None:
    with pytest.raises(ManifestError, match="s3://nowhere"):
        read_manifest("s3://nowhere/set")
