"""One reader for every source: the same images from each, and nothing from outside of them."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ltcache.cache import open_cache
from ltcache.encoder import Encoder, load_encoder
from ltcache.errors import ImageError, ManifestError
from ltcache.extract import extract
from ltcache.images import open_store
from ltcache.manifest import ClassList, Manifest, missing_files, read_manifest
from tests.extract.kill_driver import digests
from tests.images.odd import encoded, picture
from tests.manifest.helpers import plain

PNGS = [encoded(picture(20, 20, seed=seed)) for seed in range(6)]
LABELS = [1, 0, 2, 0, 1, 0]
NAMES = ["ant", "bee", "cat"]


def tar_of(path: Path, members: Iterable[tuple[str | tarfile.TarInfo, bytes]]) -> Path:
    """Write a tar file."""
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(data))
    return path


def shards(folder: Path, label: str = "cls") -> list[Path]:
    """Write six samples as two shards in the naming of webdataset, out of alphabetical order."""
    paths = []
    for shard, rows in enumerate(([3, 0, 2], [1, 5, 4])):
        members: list[tuple[str | tarfile.TarInfo, bytes]] = []
        for row in rows:
            members.append((f"{row:03d}.png", PNGS[row]))
            content = {"label": LABELS[row], "unit": f"u{row}"}
            text = json.dumps(content) if label == "json" else str(LABELS[row])
            members.append((f"{row:03d}.{label}", text.encode()))
        paths.append(tar_of(folder / f"birds-train-{shard:05d}.tar", members))
    return paths


def contents(manifest: Manifest) -> list[bytes]:
    store = open_store(manifest.root)
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(store.read, manifest.rows["uri"].to_pylist()))


ORDER = [3, 0, 2, 1, 5, 4]


@pytest.mark.parametrize("label", ["cls", "json", "txt"])
def test_tar_shards_keep_their_order(tmp_path: Path, label: str) -> None:
    paths = shards(tmp_path, label)
    pattern = tmp_path / "birds-train-{00000..00001}.tar"
    for source in (pattern, str(pattern), paths):
        manifest = read_manifest(source)
        assert plain(manifest)[0] == ("birds-train-00000.tar/003.png", 0, "train")
        assert manifest.labels().tolist() == [LABELS[row] for row in ORDER]
        assert contents(manifest) == [PNGS[row] for row in ORDER]
        assert missing_files(manifest).count == 0
        assert manifest.name == "birds"
    if label == "json":
        assert manifest.rows["unit"].to_pylist() == [f"u{row}" for row in ORDER]


def test_the_identity_of_shards_does_not_depend_on_the_machine(tmp_path: Path) -> None:
    for place in ("here", "there/deep"):
        (tmp_path / place).mkdir(parents=True)
    one = read_manifest(shards(tmp_path / "here"))
    other = read_manifest(shards(tmp_path / "there/deep"))
    assert one.identity() == other.identity()
    assert str(tmp_path) not in json.dumps(one.header())


def test_captions_are_not_labels(tmp_path: Path) -> None:
    members = [("a.png", PNGS[0]), ("a.txt", b"an ant"), ("b.png", PNGS[1]), ("b.txt", b"a bee")]
    manifest = read_manifest(tar_of(tmp_path / "web.tar", members))
    assert plain(manifest) == [("web.tar/a.png", -1, "pool"), ("web.tar/b.png", -1, "pool")]
    assert manifest.rows["caption"].to_pylist() == ["an ant", "a bee"]


def test_class_names_as_labels_and_beside_the_shards(tmp_path: Path) -> None:
    members = [("./a.PNG", PNGS[0]), ("./a.cls", b"red_fox\n"), ("./b.jpeg", PNGS[1])]
    manifest = read_manifest(tar_of(tmp_path / "val.tar", members))
    assert plain(manifest) == [("val.tar/a.PNG", 0, "val"), ("val.tar/b.jpeg", -1, "val")]
    assert manifest.classes.names == ("red fox",)
    (tmp_path / "classes.csv").write_text("label,name\n0,ant\n1,red fox\n")
    assert read_manifest(tmp_path / "val.tar").labels().tolist() == [1, -1]
    given = read_manifest(tmp_path / "val.tar", classes=ClassList(("x", "y", "red fox")))
    assert given.labels().tolist() == [2, -1]


def test_sidecars_with_a_byte_order_mark_and_a_chosen_field(tmp_path: Path) -> None:
    records = [{"label": 0, "breed": "pug"}, {"label": 0, "breed": "husky"}]
    members: list[tuple[str | tarfile.TarInfo, bytes]] = []
    for row, record in enumerate(records):
        members += [(f"{row}.png", PNGS[row]), (f"{row}.cls", b"\xef\xbb\xbf0\n")]
        members.append((f"{row}.json", b"\xef\xbb\xbf" + json.dumps(record).encode()))
    path = tar_of(tmp_path / "train-000.tar", members)
    assert read_manifest(path).labels().tolist() == [0, 0]
    chosen = read_manifest(path, label_column="breed")
    assert chosen.classes.names == ("husky", "pug") and chosen.labels().tolist() == [1, 0]
    with pytest.raises(ManifestError, match="has a field 'sex' to take labels from"):
        read_manifest(path, label_column="sex")


def test_shards_beside_one_are_said(tmp_path: Path) -> None:
    for number in range(2):
        tar_of(tmp_path / f"train-00{number}.tar", [(f"{number}.png", PNGS[number])])
    remedy = tmp_path / "{train-000,train-001}.tar"
    (said,) = (w for w in read_manifest(tmp_path / "train-001.tar").warnings if "alone" in w)
    assert "train-000.tar beside it" in said and str(remedy) in said
    assert len(read_manifest(str(remedy))) == 2


def test_a_tar_of_class_folders_and_as_a_root(tmp_path: Path) -> None:
    members = [(f"data/{NAMES[k]}/{row}.png", PNGS[row]) for row, k in enumerate(LABELS)]
    path = tar_of(tmp_path / "all.tar", members)
    manifest = read_manifest(path)
    assert manifest.classes.names == ("ant", "bee", "cat")
    assert contents(manifest) == [PNGS[row] for row in (1, 3, 5, 0, 4, 2)]
    (tmp_path / "train.txt").write_text("data/bee/0.png 1\ndata/cat/2.png 2\n")
    listed = read_manifest(tmp_path / "train.txt", root=path)
    assert contents(listed) == [PNGS[0], PNGS[2]] and missing_files(listed).count == 0
    (tmp_path / "test.txt").write_text("data/bee/0.png 1\nbee/9.png 2\n")
    assert missing_files(read_manifest(tmp_path / "test.txt", root=path)).first == ("bee/9.png",)


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("/etc/x.png", "leads out"),
        ("../x.png", "leads out"),
        ("a/../../x.png", "leads out"),
        ("..\\x.png", "leads out"),
        (special("x.png", tarfile.SYMTYPE, "/etc/passwd"), "not a plain file"),
        (special("x.png", tarfile.LNKTYPE, "../y"), "not a plain file"),
        (special("x.png", tarfile.CHRTYPE), "not a plain file"),
        (special("x.png", tarfile.BLKTYPE), "not a plain file"),
        (special("x.png", tarfile.FIFOTYPE), "not a plain file"),
    ],
)
def test_hostile_members_are_refused(
    tmp_path: Path, member: str | tarfile.TarInfo, message: str
) -> None:
    path = tar_of(tmp_path / "train.tar", [("good.png", PNGS[0]), (member, b"x")])
    name = member if isinstance(member, str) else member.name
    for use in (read_manifest, open_store):
        with pytest.raises(ManifestError, match=message) as caught:
            use(path)
        assert "train.tar" in str(caught.value) and repr(name) in str(caught.value)


def test_damaged_tars_are_refused(tmp_path: Path) -> None:
    whole = tar_of(tmp_path / "w.tar", [(f"{i}.png", png) for i, png in enumerate(PNGS)])
    data = whole.read_bytes()
    path = tmp_path / "train.tar"
    with tarfile.open(whole) as archive:
        third = archive.getmembers()[2].offset
    flipped = bytearray(data)
    flipped[third + 5] ^= 0xFF
    cases = [b"", data[:100], data[: len(data) // 2], data[: third + 100], data[:third]]
    for broken in (*cases, bytes(flipped), b"no tar " * 500, bytes(2048)):
        path.write_bytes(broken)
        with pytest.raises(ManifestError, match=r"train\.tar"):
            read_manifest(path)
    (tmp_path / "x.tar.gz").write_bytes(b"x")
    with pytest.raises(ManifestError, match="decompress"):
        open_store(tmp_path / "x.tar.gz")


def test_a_tar_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "train.tar", [("a.png", PNGS[0])])
    store = open_store(path)
    tar_of(path, [("b.png", PNGS[1]), ("a.png", PNGS[2])])
    with pytest.raises(ImageError, match="changed"):
        store.read("a.png")
    assert open_store(path).read("a.png") == PNGS[2]
    path.unlink()
    with pytest.raises(ImageError, match="No such file"):
        store.read("a.png")


@pytest.mark.parametrize(
    "pattern", ["{0..}.tar", "{3..1}.tar", "{0..99999999}.tar", "no-{0..1}.tar"]
)
def test_patterns_that_name_nothing(tmp_path: Path, pattern: str) -> None:
    for use in (read_manifest, open_store):
        with pytest.raises(ManifestError):
            use(tmp_path / pattern)


def parquet(path: Path, rows: Iterable[int], *, struct: bool = True, **options: int) -> Path:
    """Write images in a table, as Hugging Face does or as plain binary values."""
    rows = list(rows)
    images = [PNGS[row] for row in rows]
    column = [{"bytes": data, "path": "x.png"} for data in images] if struct else images
    features = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
    table = pa.table({"image": column, "label": [LABELS[row] for row in rows], "note": rows})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata if struct else None), path, **options)
    return path


@pytest.mark.parametrize("struct", [True, False])
def test_parquet_with_image_bytes(tmp_path: Path, struct: bool) -> None:
    path = parquet(tmp_path / "birds-train.parquet", range(6), struct=struct, row_group_size=2)
    manifest = read_manifest(path)
    assert plain(manifest)[:2] == [
        ("birds-train.parquet/0", 1, "train"),
        ("birds-train.parquet/1", 0, "train"),
    ]
    assert manifest.labels().tolist() == LABELS and manifest.rows["note"].to_pylist() == [*range(6)]
    assert contents(manifest) == PNGS and missing_files(manifest).count == 0
    assert manifest.classes.names == (
        ("ant", "bee", "cat") if struct else tuple(f"class {k}" for k in range(3))
    )
    store = open_store(path)
    for bad in ("birds-train.parquet/6", "birds-train.parquet/-1", "x.parquet/0", "0", "../0"):
        with pytest.raises(ImageError):
            store.read(bad)


def test_parquet_shards_of_a_hub(tmp_path: Path) -> None:
    parquet(tmp_path / "train-00000-of-00002-1a2b3c4d5e.parquet", [0, 1])
    parquet(tmp_path / "train-00001-of-00002-aa2b3c4d5e.parquet", [2, 3])
    parquet(tmp_path / "test-00000-of-00001.parquet", [4, 5])
    manifest = read_manifest(tmp_path)
    assert manifest.splits == ("train", "test")
    assert contents(manifest) == PNGS and manifest.num_classes == 3


def test_parquet_rows_without_bytes(tmp_path: Path) -> None:
    images = pa.array(
        [{"bytes": None, "path": "/etc/passwd"}, None, {"bytes": b"", "path": ""}],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    pq.write_table(pa.table({"image": images}), tmp_path / "pool.parquet")
    store = open_store(tmp_path / "pool.parquet")
    for row in (0, 1):
        with pytest.raises(ImageError, match="no image bytes"):
            store.read(f"pool.parquet/{row}")
    assert store.read("pool.parquet/2") == b""


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    fs = fsspec.filesystem("memory")
    yield fs
    for name in fs.ls("/", detail=False):
        fs.rm(name, recursive=True)


def upload(fs: fsspec.AbstractFileSystem, local: Path, remote: str) -> str:
    for path in local.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"{remote}/{path.relative_to(local).as_posix()}", path.read_bytes())
    return f"memory://{remote.lstrip('/')}"


def test_addresses_of_fsspec(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    (tmp_path / "images").mkdir()
    for row, png in enumerate(PNGS):
        (tmp_path / "images" / f"{row}.png").write_bytes(png)
    lines = "".join(f"images/{row}.png {label}\n" for row, label in enumerate(LABELS))
    (tmp_path / "birds_train.txt").write_text(lines)
    (tmp_path / "classnames.txt").write_text("ant\nbee\ncat\n")
    local = read_manifest(tmp_path / "birds_train.txt")
    address = upload(memory, tmp_path, "/bucket/deep")
    sources = [
        read_manifest(f"{address}/birds_train.txt"),
        read_manifest(address),
        read_manifest(tmp_path / "birds_train.txt", root=address),
        read_manifest(tmp_path / "birds_train.txt", root=Path(address)),
        read_manifest(f"file://{tmp_path}/birds_train.txt"),
        read_manifest(f"local://{tmp_path}/birds_train.txt", root=f"local://{tmp_path}"),
    ]
    for manifest in sources:
        assert manifest.identity() == local.identity()
        assert contents(manifest) == PNGS and missing_files(manifest).count == 0
    store = open_store(address)
    for bad in ("images/9.png", "images", "../x", "/etc/passwd"):
        with pytest.raises(ImageError):
            store.read(bad)


def test_remote_folders_archives_and_cards(
    tmp_path: Path, memory: fsspec.AbstractFileSystem
) -> None:
    source = tmp_path / "source"
    for row, label in enumerate(LABELS):
        path = source / "photos" / NAMES[label] / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNGS[row])
    with zipfile.ZipFile(source / "all.zip", "w") as archive:
        for row, label in enumerate(LABELS):
            archive.writestr(f"{NAMES[label]}/{row}.png", PNGS[row])
    shards(source)
    parquet(source / "birds-train.parquet", range(6))
    card = source / "card"
    card.mkdir()
    (card / "dataset.json").write_text('{"name": "birds", "images": "../all.zip"}')
    (card / "classes.csv").write_text("label,name\n0,ant\n1,bee\n2,cat\n")
    rows = "".join(f"{NAMES[k]}/{row}.png,{k}\n" for row, k in enumerate(LABELS))
    (card / "train.csv").write_text("path,label\n" + rows)
    address = upload(memory, source, "/bucket/source")
    by_class = [PNGS[row] for row in (1, 3, 5, 0, 4, 2)]
    for name, expected in (
        ("photos", by_class),
        ("all.zip", by_class),
        ("birds-train-{00000..00001}.tar", [PNGS[row] for row in ORDER]),
        ("birds-train.parquet", PNGS),
        ("card", PNGS),
    ):
        manifest, local = read_manifest(f"{address}/{name}"), read_manifest(source / name)
        assert contents(manifest) == expected == contents(local), name
        assert manifest.identity() == local.identity(), name
        assert missing_files(manifest).count == 0


def test_what_is_wrong_at_an_address_is_said(memory: fsspec.AbstractFileSystem) -> None:
    memory.pipe_file("/bucket/train.csv", b"path,label\na.jpg\n")
    memory.pipe_file("/bucket/train.tar", b"no tar")
    for source, message in (
        ("memory://bucket/train.csv", r"^memory://bucket/train.csv line 2"),
        ("memory://bucket/train.tar", r"^memory://bucket/train.tar: cannot be read as a tar"),
        ("memory://bucket/none.csv", r"memory://bucket/none.csv"),
        ("memory://nowhere", r"memory://nowhere"),
        ("nonsense://bucket/x.csv", r"^nonsense://bucket.*cannot be reached"),
    ):
        with pytest.raises(ManifestError, match=message) as caught:
            read_manifest(source)
        assert "/tmp" not in str(caught.value)
    for root in ("memory://nowhere", "nonsense://x"):
        with pytest.raises(ManifestError):
            open_store(root)


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> Encoder:
    return load_encoder(f"local-dir:{tiny_clip}")


def test_extraction_from_every_source_gives_the_same_features(
    encoder: Encoder, tmp_path: Path, memory: fsspec.AbstractFileSystem
) -> None:
    paths = shards(tmp_path)
    fs_path = upload(memory, tmp_path, "/bucket")
    sources = {
        "tar": paths,
        "remote": f"{fs_path}/birds-train-{{00000..00001}}.tar",
        "parquet": parquet(tmp_path / "train.parquet", ORDER),
    }
    found = []
    for name, source in sources.items():
        manifest = read_manifest(source)
        report = extract(manifest, tmp_path / name, encoder=encoder, shard_size=4, batch_size=3)
        assert (report.rows, report.failed) == (6, 0)
        found.append(open_cache(tmp_path / name).features())
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_extraction_from_shards_goes_on_where_it_stopped(encoder: Encoder, tmp_path: Path) -> None:
    manifest = read_manifest(shards(tmp_path))
    small = {"encoder": encoder, "shard_size": 2, "batch_size": 1}
    extract(manifest, tmp_path / "whole", **small)

    def stop(progress: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(manifest, tmp_path / "stopped", progress=stop, **small)
    report = extract(manifest, tmp_path / "stopped", **small)
    assert 0 < report.encoded < 6
    assert digests(tmp_path / "stopped") == digests(tmp_path / "whole")
