"""Any split, any field: the reader returns the rows that were written, and refuses the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ltcache.cache import Cache, check_identities, open_cache, reader, store_prompts
from ltcache.cache.cost import add_cost, read_cost
from ltcache.cache.prompt_set import PromptEmbeddings
from ltcache.encoder import load_encoder
from ltcache.errors import CacheError, IdentityError
from ltcache.extract import extract
from ltcache.manifest import read_manifest


@pytest.fixture(scope="module")
def cache(
    folder_of_images: Path, tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory
) -> Cache:
    """Return a cache with two splits that share images, in shuffled order."""
    work = tmp_path_factory.mktemp("cache")
    rng = np.random.default_rng(0)
    names = sorted(path.relative_to(folder_of_images) for path in folder_of_images.rglob("*.png"))
    for split, count in (("train", 60), ("test", 50)):
        chosen = rng.permutation(len(names))[:count]
        lines = [f"{names[i].as_posix()} {i % 3}\n" for i in chosen]
        (work / f"{split}.txt").write_text("".join(lines))
    (work / "classes.csv").write_text("label,name\n0,a\n1,b\n2,c\n3,never seen\n")
    manifest = read_manifest(work, root=folder_of_images)
    encoder = load_encoder(f"local-dir:{tiny_clip}")
    extract(manifest, work / "out", encoder=encoder, shard_size=16, batch_size=8)
    return open_cache(work / "out")


def test_every_row_is_its_own_image(cache: Cache) -> None:
    everything = cache.features()
    for split in ("train", "test"):
        assert np.array_equal(cache.features(split), everything[cache.rows(split)])
        assert len(cache.labels(split)) == len(cache.rows(split))
    keys = np.array(cache.manifest.rows["uri"].to_pylist())
    by_image: dict[str, np.ndarray] = {}
    for key, row in zip(keys[cache.rows()], everything, strict=True):
        assert np.array_equal(by_image.setdefault(key, row), row)


def test_empty_classes_keep_their_place(cache: Cache) -> None:
    assert cache.class_counts().shape == (4,)
    assert cache.class_counts()[3] == 0
    assert cache.class_counts().sum() == 60


def test_what_is_not_there_is_named(cache: Cache, tmp_path: Path) -> None:
    for call, text in (
        (lambda: cache.features("val"), "no split 'val', only train, test"),
        (lambda: cache.features("test", "tokens"), "no field 'tokens'"),
        (lambda: cache.features("test", view="flip"), "no view 'flip'.*--views flip"),
        (lambda: cache.prompts("openai"), r"no prompts 'openai' \(there are: default\)"),
        (lambda: open_cache(tmp_path), "not a feature cache"),
    ):
        with pytest.raises(CacheError, match=text):
            call()
    assert cache.column("vendor") is None


def test_prompts_can_be_added_and_replaced(cache: Cache) -> None:
    default = cache.prompts()
    other = PromptEmbeddings(
        "mine",
        [list(texts) for texts in default.texts],
        default.sentences,
        default.count,
        default.mean[::-1].copy(),
        {**default.identity, "sentences": "others"},
    )
    store_prompts(cache.path, other)
    store_prompts(cache.path, other)
    again = open_cache(cache.path)
    assert again.prompt_names == ("default", "mine")
    assert np.array_equal(again.prompts("mine").mean, other.mean)
    assert np.array_equal(again.prompts().mean, default.mean)
    assert again.prompts("mine").identity == other.identity


@pytest.mark.parametrize("part", ["count", "mean", "texts", "norm"])
def test_misshapen_prompts_are_refused(cache: Cache, part: str) -> None:
    values = vars(cache.prompts()).copy()
    if part == "norm":
        values["mean"] = values["mean"] * 2
    else:
        values[part] = values[part][:-1]
    with pytest.raises(CacheError, match="prompts 'default'"):
        PromptEmbeddings(**values)


def test_identities_refuse_or_mark(cache: Cache) -> None:
    found = cache.identities(prompts=cache.prompts())
    assert check_identities(found, found) == ([], [])
    older = {**found, "encoder": {**found["encoder"], "towers": {"image": "x", "text": "y"}}}
    with pytest.raises(IdentityError, match=r"towers\.image") as caught:
        check_identities(older, found)
    assert caught.value.kind == "encoder"
    stale, _ = check_identities(older, found, allow_stale=["encoder"])
    assert stale == ["encoder.towers.image", "encoder.towers.text"]
    other_threads = {**found, "numerics": {**found["numerics"], "threads": 99}}
    assert check_identities(other_threads, found) == ([], ["numerics.threads"])
    renamed = {**found, "classes": {**found["classes"], "num_classes": 5}}
    with pytest.raises(IdentityError, match="num_classes: expected 5, found 4"):
        check_identities(renamed, found)


def test_costs_add_up_over_processes_and_torn_lines(tmp_path: Path) -> None:
    nothing = {"images": 0, "seconds": 0, "finetune_seconds": 0, "finetune_passes": 0}
    assert read_cost(tmp_path) == nothing
    add_cost(tmp_path, images=10, seconds=1.5)
    with (tmp_path / "cost.jsonl").open("a") as file:
        file.write('{"images": 7')
        file.write("\n")
    add_cost(tmp_path, images=5, seconds=0.5)
    add_cost(tmp_path, finetune_seconds=60.0, finetune_passes=10)
    spent = {"images": 15, "seconds": 2, "finetune_seconds": 60, "finetune_passes": 10}
    assert read_cost(tmp_path) == spent


def test_only_the_columns_that_are_asked_for_are_read(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, lazy, asked = cache.manifest, open_cache(str(cache.path)), []
    read = reader.read_rows

    def noting(
        paths: Sequence[Path], names: Sequence[str] = (), coded: Sequence[str] = ()
    ) -> pa.Table:
        asked.append(list(names))
        return read(paths, names, coded)

    monkeypatch.setattr(reader, "read_rows", noting)
    for split in (None, "train", "test"):
        assert np.array_equal(lazy.rows(split), cache.rows(split))
        assert np.array_equal(lazy.labels(split), whole.labels(split))
    assert lazy.splits == whole.splits and lazy.classes == whole.classes
    assert np.array_equal(lazy.features(), cache.features())
    assert lazy.column("unit") is None and list(lazy.column("key")) == whole.rows["key"].to_pylist()
    assert asked == [["status"], ["label"], ["split"], ["item"], ["key"]]
    assert lazy.table("uri", "sha256").equals(whole.rows.select(["uri", "sha256"]))
    with pytest.raises(CacheError, match=r"no column 'unit': damaged"):
        lazy.table("unit")
    assert lazy.manifest.rows.equals(whole.rows) and asked[-1] == []


def test_another_list_of_the_same_images_is_read_in_place_of_the_one_before(cache: Cache) -> None:
    lazy = open_cache(str(cache.path))
    before, counts = lazy.splits, lazy.class_counts()  # columns that are kept, once read
    assert lazy.column("split") is not None
    table = lazy.manifest.rows
    moved = pa.array(["left out"] * len(table), pa.string())
    place = table.column_names.index("split")
    other = lazy.with_rows(table.set_column(place, "split", moved).append_column("unit", moved))
    assert other.splits == ("left out",)
    assert other.class_counts("left out").sum() == (lazy.labels() >= 0).sum()
    assert np.array_equal(other.features("left out"), lazy.features())
    assert list(other.column("unit")) == ["left out"] * len(other.rows())
    assert lazy.splits == before and np.array_equal(lazy.class_counts(), counts)
    assert lazy.column("unit") is None
