"""Every flipped byte, every truncation and every disagreement between files is found."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ltcache.cache import open_cache
from ltcache.cache.checking import UNCHECKED
from ltcache.cache.index import SEAL
from ltcache.cache.norms import norm_stats
from ltcache.cache.repair import repair_shards
from ltcache.cache.shards import array_file, map_array
from ltcache.cache.verify import VerifyReport, merge_verified, verify_files, verify_part
from ltcache.encoder import Encoder, load_encoder
from ltcache.errors import CacheError, IdentityError, LtcacheError, UsageError
from ltcache.extract import extract
from ltcache.records.identity import canonical_json, digest, file_digest
from ltcache.retrieval.scoring.queries import unit
from tests.conftest import write_images
from tests.encoder.tiny_models import write_tiny_clip
from tests.retrieval.conftest import write_cache

SMALL = {"shard_size": 4, "batch_size": 2, "threads": 1}
SHARD, RECORD = "views/center/00000.h5", "views/center/00000.json"


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> Encoder:
    return load_encoder(f"local-dir:{tiny_clip}")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return seven images, one of them broken."""
    root = write_images(tmp_path_factory.mktemp("images") / "set", {"red fox": 4, "moth": 3})
    (root / "moth" / "001.png").write_text("not an image")
    return root


@pytest.fixture(scope="module")
def made(images: Path, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished cache of two shards that no test changes."""
    out = tmp_path_factory.mktemp("made") / "cache"
    extract(images, out, encoder=encoder, **SMALL)
    return out


@pytest.fixture(scope="module")
def smallest(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache with as few bytes as one of every kind of file can have."""
    work = tmp_path_factory.mktemp("smallest")
    encoder = load_encoder(f"local-dir:{write_tiny_clip(work / 'model', embed_dim=8)}")
    extract(images, work / "cache", encoder=encoder, fields=("embedding",), threads=1)
    return work / "cache"


@pytest.fixture
def cache(made: Path, tmp_path: Path) -> Path:
    """Return a copy of the cache to damage."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def checked_files(cache: Path) -> Iterator[Path]:
    for path in sorted(cache.rglob("*")):
        if path.is_file() and path.name not in UNCHECKED:
            yield path


def found(cache: Path, name: str) -> bool:
    """Return whether verify names the file, or the cache is refused for it."""
    try:
        report = verify_files(cache)
    except CacheError as error:
        return name in str(error)
    return not report.ok and report.problems[0].file == name


def reseal(cache: Path) -> None:
    """Make an index that names the files as they are now, as a faulty writer would."""
    path = cache / "cache.json"
    index = json.loads(path.read_text())
    del index[SEAL]
    for record in cache.glob("views/*/*.json"):
        value = json.loads(record.read_text())
        data = record.with_suffix(".h5")
        value |= {"sha256": file_digest(data), "bytes": data.stat().st_size}
        record.write_text(canonical_json(value))
    for name in index["files"]:
        file = cache / name
        index["files"][name] = {"sha256": file_digest(file), "bytes": file.stat().st_size}
    path.write_text(canonical_json({**index, SEAL: digest(index)}))


def test_a_sound_cache_is_fine(made: Path) -> None:
    report = verify_files(made)
    assert report.ok
    assert report.exit_status == 0
    assert (report.rows, report.failed, report.shards, report.all_shards) == (7, 1, 2, 2)
    assert report.leftovers == ()
    assert report.files == 11
    assert (
        report.bytes
        == sum(p.stat().st_size for p in checked_files(made)) - (made / "cache.json").stat().st_size
    )
    assert report.norms["center/embedding"].count == 6
    json.dumps(report.to_dict(), allow_nan=False)


def tried(name: str, size: int) -> Iterator[int]:
    """Yield the bytes of a file to damage.

    Those of the index, which is judged by what it says, are all tried. Another file is judged by
    its SHA-256 alone: whoever left out a part of it would be caught by every seventh, too.
    """
    yield from (range(size) if name == "cache.json" else {*range(0, size, 7), size - 1})


@pytest.mark.slow
def test_flipped_bytes_are_found(smallest: Path, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(smallest, tmp_path / "copy"))
    missed = []
    for path in checked_files(cache):
        name = path.relative_to(cache).as_posix()
        whole = path.read_bytes()
        with open(path, "r+b", buffering=0) as file:
            for position in tried(name, len(whole)):
                byte = whole[position]
                file.seek(position)
                file.write(bytes([byte ^ (1 << position % 8)]))
                if not found(cache, name):
                    missed.append((name, position))
                file.seek(position)
                file.write(bytes([byte]))
        assert path.read_bytes() == whole
    assert missed == []
    assert verify_files(cache).ok


@pytest.mark.slow
def test_truncations_are_found(smallest: Path, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(smallest, tmp_path / "copy"))
    missed = []
    for path in checked_files(cache):
        name = path.relative_to(cache).as_posix()
        whole = path.read_bytes()
        with open(path, "r+b", buffering=0) as file:
            for length in sorted(tried(name, len(whole)), reverse=True):
                file.truncate(length)
                if not found(cache, name):
                    missed.append((name, length))
        path.write_bytes(whole)
    assert missed == []


def test_opening_a_damaged_cache_never_ends_in_a_traceback(cache: Path) -> None:
    """Opening does not read every byte; what it stumbles over is one message."""
    for path in checked_files(cache):
        whole = path.read_bytes()
        for position in range(0, len(whole), 97):
            damaged = bytearray(whole)
            damaged[position] ^= 0x81
            path.write_bytes(damaged)
            with contextlib.suppress(LtcacheError):
                opened = open_cache(cache)
                opened.labels()
                opened.prompts()
                opened.features()
        path.write_bytes(whole)


@pytest.mark.parametrize("name", [SHARD, RECORD, "encoder.json", "cache.json"])
def test_a_lost_file_is_found(cache: Path, name: str) -> None:
    (cache / name).unlink()
    if name == "cache.json":
        with pytest.raises(CacheError, match="not finished"):
            verify_files(cache)
    else:
        (problem,) = verify_files(cache).problems
        assert (problem.file, problem.text) == (name, "missing")
        assert ("--repair" if name.startswith("views/") else "cache.json") in problem.remedy


def test_a_folder_in_place_of_a_file_is_found(cache: Path) -> None:
    (cache / "classes.json").unlink()
    (cache / "classes.json").mkdir()
    (problem,) = verify_files(cache).problems
    assert problem.text == "not a file"


def test_swapped_shards_are_found(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    extract(images, cache, encoder=encoder, shard_size=2, batch_size=2)
    names = [f"views/center/{n:05d}" for n in (0, 1)]
    for suffixes in ((".h5",), (".json",), ()):
        for suffix in suffixes:
            a, b = (cache / (name + suffix) for name in names)
            a.rename(tmp_path / "x")
            b.rename(a)
            (tmp_path / "x").rename(b)
        report = verify_files(cache)
        swapped = {problem.file for problem in report.problems}
        assert not report.ok
        assert {name + ".json" for name in names} <= swapped or {
            name + ".h5" for name in names
        } <= swapped
    reseal(cache)
    assert "starts at item 2" in verify_files(cache).problems[0].text


def test_a_shard_of_another_cache_is_found(cache: Path, tmp_path: Path, encoder: Encoder) -> None:
    root = write_images(tmp_path / "others", {"newt": 3, "owl": 4})
    extract(root, tmp_path / "other", encoder=encoder, **SMALL)
    shutil.copy(tmp_path / "other" / SHARD, cache / SHARD)
    (problem,) = verify_files(cache).problems
    assert problem.file == SHARD
    shutil.copy(tmp_path / "other" / RECORD, cache / RECORD)
    reseal(cache)
    assert "content hash of 4 rows" in verify_files(cache).problems[0].text


def test_the_remedies_work(cache: Path, made: Path, images: Path, encoder: Encoder) -> None:
    before = {p.relative_to(made): p.read_bytes() for p in checked_files(made)}
    for name, encoded in ((SHARD, 3), ("encoder.safetensors", 0), ("prompts", 0)):
        path = next((cache / "prompts").glob("*.h5")) if name == "prompts" else cache / name
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        (problem,) = verify_files(cache).problems
        removed = [word for word in problem.remedy.replace(",", "").split() if "/" in word]
        if "verify --repair" in problem.remedy:
            assert repair_shards(cache, [problem.file]) == [SHARD.removesuffix(".h5")]
        else:
            for word in [*removed, "cache.json"]:
                (cache / word).unlink()
        assert len(removed) == (2 if name == "prompts" else 0)
        assert extract(images, cache, encoder=encoder, **SMALL).encoded == encoded
        after = {p.relative_to(cache): p.read_bytes() for p in checked_files(cache)}
        assert before == after


def test_what_nobody_names_is_listed_and_harmless(cache: Path) -> None:
    for name in ("notes.txt", "views/center/00007.h5", "views/center/.00001.h5.tmp-h-1-0123abcd"):
        (cache / name).write_text("left over")
    report = verify_files(cache)
    assert report.ok
    assert report.leftovers == (
        "notes.txt",
        "views/center/.00001.h5.tmp-h-1-0123abcd",
        "views/center/00007.h5",
    )
    (cache / "cost.jsonl").write_text("anything")
    assert verify_files(cache).ok


def rewrite_shard(change: Callable[[dict[str, np.ndarray]], None]) -> Callable[[Path], None]:
    def damage(cache: Path) -> None:
        path = cache / SHARD
        arrays = {name: np.array(map_array(path, name)) for name in ("embedding", "pooled")}
        change(arrays)
        path.unlink()
        path.write_bytes(array_file(arrays))

    return damage


def rewrite_record(**values: object) -> Callable[[Path], None]:
    def damage(cache: Path) -> None:
        record = json.loads((cache / RECORD).read_text())
        (cache / RECORD).write_text(json.dumps({**record, **values}))

    return damage


def rewrite_rows(column: str, value: object, row: int = 0) -> Callable[[Path], None]:
    def damage(cache: Path) -> None:
        (path,) = cache.glob("manifest-*.parquet")
        rows = pq.read_table(path)
        values = rows[column].to_pylist()
        values[row] = value
        position = rows.column_names.index(column)
        array = pa.array(values, rows.schema.field(column).type)
        pq.write_table(rows.set_column(position, column, array), path)

    return damage


def rewrite_prompts(change: Callable[[dict[str, np.ndarray]], None]) -> Callable[[Path], None]:
    def damage(cache: Path) -> None:
        (path,) = cache.glob("prompts/*.h5")
        names = ("sentences", "count", "mean")
        arrays = {name: np.array(map_array(path, name)) for name in names}
        change(arrays)
        path.unlink()
        path.write_bytes(array_file(arrays))

    return damage


def rewrite_identity(**values: object) -> Callable[[Path], None]:
    """Change the identity of the class texts; the files and the index follow the new name."""

    def damage(cache: Path) -> None:
        (arrays,) = cache.glob("prompts/*.h5")
        texts = arrays.with_suffix(".json")
        header = json.loads(texts.read_text())
        header["identity"] |= values
        texts.write_text(canonical_json(header))
        name = digest(header["identity"])[:16]
        index = (cache / "cache.json").read_text().replace(arrays.stem, name)
        for path in (arrays, texts):
            path.rename(path.with_stem(name))
        (cache / "cache.json").write_text(index)

    return damage


def rename_prompts(cache: Path) -> None:
    (arrays,) = cache.glob("prompts/*.h5")
    index = (cache / "cache.json").read_text().replace(arrays.stem, "0" * 16)
    for path in (arrays, arrays.with_suffix(".json")):
        path.rename(path.with_stem("0" * 16))
    (cache / "cache.json").write_text(index)


def overlap(cache: Path) -> None:
    path = cache / "cache.json"
    path.write_text(path.read_text().replace("[1,4,3]", "[1,3,3]"))


def spare_sentence(arrays: dict[str, np.ndarray]) -> None:
    arrays["sentences"] = np.concatenate([arrays["sentences"]] * 2, axis=1)


def set_at(name: str, where: object, value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[name][where] = value  # type: ignore[index]

    return change


def turn(arrays: dict[str, np.ndarray]) -> None:
    arrays["embedding"] = arrays["embedding"][..., ::-1]


def widen(arrays: dict[str, np.ndarray]) -> None:
    arrays["embedding"] = np.concatenate([arrays["embedding"]] * 2, axis=2)


def whole_numbers(arrays: dict[str, np.ndarray]) -> None:
    arrays["pooled"] = np.ones(arrays["pooled"].shape, np.int16)


def plan_of_another(cache: Path) -> None:
    path = cache / "plans" / "0001.json"
    path.write_text(path.read_text().replace('"activation":"gelu"', '"activation":"relu"'))


def no_plan(cache: Path) -> None:
    (cache / "plans" / "0001.json").write_text("{}")


ROWS = "manifest-"


@pytest.mark.parametrize(
    ("damage", "file", "text"),
    [
        (rewrite_shard(set_at("embedding", 0, np.nan)), SHARD, "not finite, but no failure"),
        (rewrite_shard(set_at("pooled", (2, 0, 3), np.inf)), SHARD, "not finite, but no failure"),
        (rewrite_shard(set_at("embedding", 0, 1.0)), SHARD, "not the projection"),
        (rewrite_shard(set_at("embedding", 2, 0.0)), SHARD, "zero throughout: item 2"),
        (rewrite_shard(turn), SHARD, "not the projection"),
        (rewrite_shard(widen), SHARD, r"\(4, 1, 64\), not \(4, 1, 32\)"),
        (rewrite_shard(whole_numbers), SHARD, "of type int16"),
        (rewrite_shard(lambda arrays: arrays.pop("pooled")), SHARD, "cannot read 'pooled'"),
        (rewrite_record(errors={"3": "broken"}), SHARD, "failed item is not NaN throughout"),
        (rewrite_record(errors={"9": "broken"}), RECORD, "outside the shard"),
        (rewrite_record(first=1), RECORD, "starts at item 1 with 4 items"),
        (rewrite_record(width=[1]), RECORD, "lists are not of 4 items"),
        (rewrite_record(content=["0" * 64] * 4), ROWS, "content hash of 4 rows"),
        (rewrite_record(color="red"), RECORD, "not a shard record"),
        (rewrite_rows("item", 99), ROWS, "no shard holds its item 99"),
        (rewrite_rows("item", -1), ROWS, "no shard holds its item -1"),
        (rewrite_rows("item", 1), ROWS, "content hash of 1 rows"),
        (rewrite_rows("label", 2), ROWS, "labels run from"),
        (rewrite_rows("status", "failed"), ROWS, "status of 1 rows"),
        (rewrite_rows("status", "lost"), ROWS, "unknown status 'lost'"),
        (rewrite_rows("error", "why not"), ROWS, "error of 1 rows"),
        (rewrite_rows("key", "moth/000.png", row=4), ROWS, "'key' is not unique"),
        (rewrite_prompts(set_at("sentences", 0, 0.5)), "prompts/", "not of unit length"),
        (rewrite_prompts(set_at("mean", 0, 0.5)), "prompts/", "not of unit length"),
        (rewrite_prompts(lambda a: a.update(mean=a["mean"][::-1])), "prompts/", "means are not"),
        (rewrite_prompts(set_at("count", 0, 2)), "prompts/", "count is not that of the texts"),
        (rewrite_prompts(spare_sentence), "prompts/", "sentences beyond a class's count"),
        (rewrite_identity(classes="0" * 64), "prompts/", "of another class list"),
        (rewrite_identity(text_tower="0" * 64), "prompts/", "of another text tower"),
        (rewrite_identity(tokenizer={"class": "other"}), "prompts/", "of another tokenizer"),
        (rename_prompts, "prompts/", "not named by what made it"),
        (overlap, "cache.json", "items of shard 1 do not follow"),
        (plan_of_another, "plans/0001.json", "its encoder is not"),
        (no_plan, "plans/0001.json", "not a plan"),
    ],
)
def test_files_that_disagree_are_found(
    cache: Path, damage: Callable[[Path], None], file: str, text: str
) -> None:
    damage(cache)
    with contextlib.suppress(CacheError):  # the index' own digest
        assert not verify_files(cache).ok
    reseal(cache)
    report = verify_files(cache)
    assert report.exit_status == 1
    with pytest.raises(CacheError, match=text):
        raise CacheError("; ".join(map(str, report.problems)))
    assert any(problem.file.startswith(file) for problem in report.problems)


def test_an_index_that_points_outside_is_refused(cache: Path) -> None:
    path = cache / "cache.json"
    index = json.loads(path.read_text())
    del index[SEAL]
    index["files"]["../other/cache.json"] = {"bytes": 3, "sha256": "0" * 64}
    del index["files"]["classes.json"]
    path.write_text(canonical_json({**index, SEAL: digest(index)}))
    texts = [problem.text for problem in verify_files(cache).problems]
    assert "outside the cache" in texts[0]
    assert "does not name classes.json" in texts[1]


def test_some_shards_only(made: Path, cache: Path) -> None:
    report = verify_files(made, max_shards=1)
    assert (report.shards, report.all_shards, report.files) == (1, 2, 9)
    path = cache / "views/center/00001.h5"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert verify_files(cache, max_shards=1).ok
    assert not verify_files(cache, max_shards=2).ok
    path.write_bytes(path.read_bytes()[:-1])
    assert not verify_files(cache, max_shards=1).ok


def test_odd_lengths_are_reported_with_their_keys(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    extract(images, cache, encoder=encoder, fields=("embedding",), **SMALL)
    path = cache / SHARD
    array = np.array(map_array(path, "embedding"))
    array[2] *= 30
    path.unlink()
    path.write_bytes(array_file({"embedding": array}))
    reseal(cache)
    report: VerifyReport = verify_files(cache)
    assert report.ok
    (warning,) = report.warnings
    key = open_cache(cache).manifest.rows["key"][2].as_py()
    assert "1 of 6 lengths" in warning
    assert key in warning


def test_norms() -> None:
    lengths = np.random.default_rng(0).lognormal(1, 0.05, 500).astype(np.float32)
    assert norm_stats(np.arange(500), lengths).outliers == 0
    lengths[[3, 7]] = 0.1, 90
    stats = norm_stats(np.arange(500) + 10, lengths)
    assert stats.first == ((13, pytest.approx(0.1)), (17, pytest.approx(90.0)))
    assert norm_stats(np.arange(0), lengths[:0]).median is None


def test_failed_rows_are_told(made: Path) -> None:
    rows = open_cache(made).manifest.rows
    assert pc.sum(pc.equal(rows["status"], "failed")).as_py() == verify_files(made).failed


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache of nine shards, in which some features are of odd length."""
    rng = np.random.default_rng(0)
    values = unit(rng.normal(size=(90, 16))) * rng.uniform(9, 11, (90, 1))
    values[[3, 41, 88]] *= 7
    out = tmp_path_factory.mktemp("shelf") / "cache"
    return write_cache(out, values, {}, shard_size=10).path


def damage_shard(cache: Path) -> None:
    path = cache / "views/center/00004.h5"
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def damage_several(cache: Path) -> None:
    damage_shard(cache)
    (cache / "views/center/00007.json").unlink()
    (cache / "encoder.json").write_text("{}")
    (cache / "left over").touch()


def misname(cache: Path) -> None:
    for shard in (2, 6):
        record = cache / f"views/center/{shard:05d}.json"
        value = json.loads(record.read_text())
        record.write_text(json.dumps({**value, "first": value["first"] + 1}))
    reseal(cache)


@pytest.mark.parametrize("max_shards", [None, 4])
@pytest.mark.parametrize("damage", [None, damage_shard, damage_several, misname])
@pytest.mark.parametrize("parts", [1, 2, 5, 12])
def test_merged_parts_equal_the_whole(
    shelf: Path,
    tmp_path: Path,
    parts: int,
    damage: Callable[[Path], None] | None,
    max_shards: int | None,
) -> None:
    cache = Path(shutil.copytree(shelf, tmp_path / "cache"))
    if damage is not None:
        damage(cache)
    whole = verify_files(cache, max_shards=max_shards)
    for number in range(parts, 0, -1):
        verify_part(cache, f"{number}/{parts}", tmp_path / "parts", max_shards=max_shards)
    merged = merge_verified([tmp_path / "parts"])
    assert merged == whole
    assert canonical_json(merged.to_dict()) == canonical_json(whole.to_dict())
    if max_shards is None:
        assert whole.ok == (damage is None)
        assert len(whole.warnings) == (damage in (None, misname))  # else no value was looked at


def test_parts_of_another_verification_are_refused(shelf: Path, made: Path, tmp_path: Path) -> None:
    one = verify_part(shelf, "1/2", tmp_path)
    other = verify_part(made, "2/2", tmp_path / "other")
    with pytest.raises(IdentityError, match=rf"the work of {other} differs[^;]*index"):
        merge_verified([one, other])
    some = verify_part(shelf, "2/2", tmp_path / "some", max_shards=3)
    with pytest.raises(IdentityError, match="max_shards: expected None, found 3"):
        merge_verified([one, some])
    with pytest.raises(UsageError, match=r"missing: 2; .*--part 2/2"):
        merge_verified([one])
    with pytest.raises(CacheError, match="not finished|no index|not a feature cache"):
        verify_part(tmp_path, "1/2", tmp_path)
    cache = Path(shutil.copytree(shelf, tmp_path / "cache"))
    whole = verify_part(cache, "1/1", tmp_path / "whole")
    index = json.loads((cache / "cache.json").read_text())
    del index[SEAL], index["files"]["views/center/00000.h5"]
    (cache / "cache.json").write_text(canonical_json({**index, SEAL: digest(index)}))
    with pytest.raises(IdentityError, match="has changed since the parts were made"):
        merge_verified([whole])
