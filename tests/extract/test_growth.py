"""A cache that grows ends as if it had been extracted anew, and encodes nothing twice."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ltcache.cache import index, open_cache, read_plans
from ltcache.cache.layers import NO_ROW
from ltcache.cache.layout import record_path
from ltcache.cache.verify import verify_files
from ltcache.encoder import Encoder, load_encoder
from ltcache.errors import IdentityError
from ltcache.extract import ExtractReport, extract
from ltcache.manifest import ClassList, Manifest
from ltcache.texts import add_class_texts
from tests.conftest import write_images
from tests.encoder.tiny_models import write_tiny_clip
from tests.extract.kill_driver import digests

SMALL = {"shard_size": 4, "batch_size": 3}
CLASSES = ("fox", "jay", "moth")


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> Encoder:
    return load_encoder(f"local-dir:{tiny_clip}")


def manifest_of(root: Path, rows: list[tuple[str, int, str]]) -> Manifest:
    """Return a manifest of (uri, label, split) rows."""
    uris, labels, splits = zip(*rows, strict=True)
    table = pa.table(
        {
            "row_id": pa.array(range(len(rows)), pa.int64()),
            "key": pa.array(uris),
            "uri": pa.array(uris),
            "label": pa.array(labels, pa.int64()),
            "split": pa.array(splits),
        }
    )
    return Manifest("zoo", table, ClassList(CLASSES, (None,) * 3), root=root)


def assert_like_new(out: Path, manifest: Manifest, encoder: Encoder, work: Path) -> None:
    """Compare a cache with one fresh extraction: rows, statuses, features to the last bits."""
    fresh = work / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    extract(manifest, fresh, encoder=encoder, **SMALL)
    a, b = open_cache(out), open_cache(fresh)
    if a.views != b.views or a.field_shapes() != b.field_shapes():
        fields = [*a.field_shapes()]
        extract(manifest, fresh, encoder=encoder, views=a.views, fields=fields, **SMALL)
        b = open_cache(fresh)
    for name in ("key", "uri", "label", "split", "status", "sha256", "width", "error"):
        assert a.manifest.rows[name].to_pylist() == b.manifest.rows[name].to_pylist(), name
    for view in a.views:
        for field in a.field_shapes(view):
            x, y = a.features(view=view, field=field), b.features(view=view, field=field)
            assert (np.abs(x - y) <= 2 * np.abs(y) * 2.0**-10 + 2.0**-20).all(), (view, field)


def test_relabelling_moving_and_deleting_touch_the_manifest_alone(
    few_images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    uris = sorted(str(path.relative_to(few_images)) for path in few_images.rglob("*.png"))
    rows = [(uri, number % 3, "train") for number, uri in enumerate(uris)]
    out = tmp_path / "cache"
    extract(manifest_of(few_images, rows), out, encoder=encoder, **SMALL)
    shards = {name: sha for name, sha in digests(out).items() if name.startswith("views")}
    changed = [(uri, 2 - label, "test" if label else "train") for uri, label, _ in rows[::2]]
    manifest = manifest_of(few_images, changed)
    report = extract(manifest, out, encoder=encoder)
    assert (report.rows, report.encoded) == (10, 0)
    assert shards == {name: sha for name, sha in digests(out).items() if name.startswith("views")}
    assert_like_new(out, manifest, encoder, tmp_path)
    back = [(uri, 2 - label, "train") for uri, label, _ in changed]
    without_images = replace(manifest_of(few_images, back), root=None)
    assert extract(without_images, out, encoder=encoder).encoded == 0
    assert len(read_plans(out)) == 1


def test_a_cache_whose_classes_change_stays_whole_until_the_new_index_is_there(
    few_images: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris = sorted(str(path.relative_to(few_images)) for path in few_images.rglob("*.png"))
    manifest = manifest_of(few_images, [(uri, 0, "train") for uri in uris])
    renamed = replace(manifest, classes=ClassList(("vixen", "jay", "moth"), (None,) * 3))
    out = tmp_path / "cache"
    extract(manifest, out, encoder=encoder, **SMALL)

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(index, "_write_index", stopped)
    with pytest.raises(KeyboardInterrupt):
        extract(renamed, out, encoder=encoder)
    monkeypatch.undo()
    assert open_cache(out).classes.names == CLASSES
    assert verify_files(out).ok
    for wanted in (renamed, manifest, renamed):
        assert extract(wanted, out, encoder=encoder).encoded == 0
        assert open_cache(out).classes.names == wanted.classes.names
        assert verify_files(out).ok


def test_added_class_texts_stay_with_the_classes_and_are_named_when_they_go(
    few_images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    uris = sorted(str(path.relative_to(few_images)) for path in few_images.rglob("*.png"))
    manifest = manifest_of(few_images, [(uri, k % 3, "train") for k, uri in enumerate(uris)])
    out, file = tmp_path / "cache", tmp_path / "mine.txt"
    file.write_text("a sketch of a {}.")
    extract(manifest, out, encoder=encoder, **SMALL)
    add_class_texts(out, str(file), encoder=encoder)
    added = open_cache(out).prompts("mine")
    changed = replace(manifest, templates=("a drawing of a {}.",))
    extract(changed, out, encoder=encoder, **SMALL)
    cache = open_cache(out)
    assert cache.prompt_names == ("default", "mine")
    assert cache.prompts("default").texts[0] == ["a drawing of a fox."]
    assert cache.prompts("mine").identity == added.identity
    assert verify_files(out).ok
    other = replace(changed, classes=ClassList(("fox", "jay", "owl"), (None,) * 3))
    with pytest.warns(UserWarning, match="classes have changed, so that .* mine .*--name mine"):
        extract(other, out, encoder=encoder, **SMALL)
    assert open_cache(out).prompt_names == ("default",)


def test_known_content_under_a_new_name_is_not_encoded_again(
    encoder: Encoder, tmp_path: Path
) -> None:
    root = write_images(tmp_path / "images", {"a": 6})
    rows = [(f"a/{n:03d}.png", 0, "train") for n in range(6)]
    out = tmp_path / "cache"
    extract(manifest_of(root, rows[:4]), out, encoder=encoder, **SMALL)
    shutil.copy(root / "a" / "001.png", root / "copy.png")
    shutil.copy(root / "a" / "005.png", root / "twin.png")
    grown = manifest_of(root, [*rows, ("copy.png", 1, "test"), ("twin.png", 1, "test")])
    assert extract(grown, out, encoder=encoder).encoded == 2
    assert_like_new(out, grown, encoder, tmp_path)


def test_changed_images_are_noticed_and_rehashed(encoder: Encoder, tmp_path: Path) -> None:
    root = write_images(tmp_path / "images", {"a": 5})
    manifest = manifest_of(root, [(f"a/{n:03d}.png", 0, "train") for n in range(5)])
    out = tmp_path / "cache"
    extract(manifest, out, encoder=encoder, **SMALL)
    shutil.copy(
        write_images(tmp_path / "other", {"x": 1, "b": 1}) / "b" / "000.png", root / "a/002.png"
    )
    with pytest.raises(IdentityError, match=r"a/002\.png"):
        extract(manifest, out, encoder=encoder)
    assert extract(manifest, out, encoder=encoder, rehash=True).encoded == 1
    assert_like_new(out, manifest, encoder, tmp_path)


def test_failed_images_are_tried_again_when_asked(encoder: Encoder, tmp_path: Path) -> None:
    root = write_images(tmp_path / "images", {"a": 5})
    good = (root / "a" / "001.png").read_bytes()
    (root / "a" / "001.png").write_text("no image")
    manifest = manifest_of(root, [(f"a/{n:03d}.png", 0, "train") for n in range(5)])
    out = tmp_path / "cache"
    assert extract(manifest, out, encoder=encoder, **SMALL).failed == 1
    assert extract(manifest, out, encoder=encoder).encoded == 0
    assert extract(manifest, out, encoder=encoder, retry_failed=True).failed == 1
    (root / "a" / "001.png").write_bytes(good)
    report = extract(manifest, out, encoder=encoder, retry_failed=True)
    assert (report.failed, report.encoded) == (0, 1)
    assert_like_new(out, manifest, encoder, tmp_path)


def test_growth_refuses_another_encoder(encoder: Encoder, few_images: Path, tmp_path: Path) -> None:
    uris = sorted(str(path.relative_to(few_images)) for path in few_images.rglob("*.png"))
    out = tmp_path / "cache"
    extract(
        manifest_of(few_images, [(uri, 0, "train") for uri in uris[:5]]),
        out,
        encoder=encoder,
        **SMALL,
    )
    before = digests(out)
    other = load_encoder(f"local-dir:{write_tiny_clip(tmp_path / 'other', seed=9)}")
    with pytest.raises(IdentityError, match=r"towers\.image"):
        extract(manifest_of(few_images, [(uri, 0, "train") for uri in uris]), out, encoder=other)
    assert digests(out) == before


class Growing(RuleBasedStateMachine):
    """Any sequence of changes, interruptions and damage ends like one fresh extraction."""

    encoder: Encoder
    work: Path

    @initialize()
    def start(self) -> None:
        self.root = self.work / "images"
        shutil.rmtree(self.work, ignore_errors=True)
        self.root.mkdir(parents=True)
        self.stock = write_images(self.work / "stock", {"s": 30})
        self.used = 0
        self.rows: list[tuple[str, int, str]] = []
        self.out = self.work / "cache"
        self.encoded = self.allowed = 0
        self.bytes: dict[str, str] = {}
        self.views: list[str] = ["center"]
        self.fields = ["embedding"]
        self.add(5)
        self.run(fields=["embedding"])

    def run(self, **options: object) -> ExtractReport:
        manifest = manifest_of(self.root, self.rows)
        report = extract(manifest, self.out, encoder=self.encoder, **SMALL, **options)
        self.encoded += report.encoded
        return report

    @property
    def images(self) -> int:
        return len({uri for uri, _, _ in self.rows})

    @rule(view=st.sampled_from(["flip", "five", "rrc:2"]))
    def add_view(self, view: str) -> None:
        new = view not in self.views
        self.run(views=[view])
        self.views += [view] * new
        self.allowed += self.images * new
        assert set(open_cache(self.out).views) == set(self.views)

    @rule(field=st.sampled_from(["pooled", "tokens"]))
    def add_field(self, field: str) -> None:
        lacking = [v for v in self.views if field not in open_cache(self.out).field_shapes(v)]
        self.allowed += self.images * len(lacking)
        self.run(fields=[field])
        assert all(field in open_cache(self.out).field_shapes(view) for view in self.views)

    @rule(view=st.sampled_from(["flip", "five"]))
    def stop_while_a_view_is_added(self, view: str) -> None:
        """Interrupt it after the first shard; nothing of it is seen until it is asked for again."""
        if view in self.views or (self.out / "views" / view).exists():
            return

        def stop(_: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            self.run(views=[view], progress=stop)
        assert view not in open_cache(self.out).views
        done = sorted(self.out.glob(f"views/{view}/*.json"))
        paid = sum(self.tried(path) for path in done)
        self.encoded, self.allowed = self.encoded + paid, self.allowed + paid

    def tried(self, path: Path) -> int:
        """Return how many images were encoded for a shard, by its record."""
        record = json.loads(path.read_text())
        return sum(text != NO_ROW for text in record["errors"].values()) + (
            record["count"] - len(record["errors"])
        )

    def add(self, count: int) -> None:
        for _ in range(min(count, 30 - self.used)):
            name = f"{self.used:03d}.png"
            shutil.copy(self.stock / "s" / name, self.root / name)
            self.rows.append((name, self.used % 3, "train"))
            self.used += 1
            self.allowed += len(self.layers())

    def layers(self) -> set[str]:
        """Return the views that new images are encoded in."""
        return set(self.views)

    @rule(count=st.integers(1, 6))
    def extend(self, count: int) -> None:
        self.add(count)
        self.run()

    @rule(count=st.integers(5, 9))
    def extend_and_stop(self, count: int) -> None:
        """Stop an extension after its first shard, as an interrupt or a kill would."""

        def stop(_: object) -> None:
            raise KeyboardInterrupt

        before = self.used
        self.add(count)
        if self.used - before <= 4:  # a single shard would be whole before the stop
            return
        shards = len(list(self.out.glob("views/center/*.json")))
        with pytest.raises(KeyboardInterrupt):
            self.run(progress=stop)
        done = sorted(self.out.glob("views/center/*.json"))[shards:]
        for path in done[1:]:  # what was in flight may have been committed still
            path.unlink()
        self.encoded += 4 * len(self.views) if done else 0

    @rule(data=st.data())
    def relabel(self, data: st.DataObject) -> None:
        row = data.draw(st.integers(0, len(self.rows) - 1))
        uri, label, split = self.rows[row]
        self.rows[row] = (uri, (label + 1) % 3, split)
        self.run()

    @rule(data=st.data())
    def move(self, data: st.DataObject) -> None:
        row = data.draw(st.integers(0, len(self.rows) - 1))
        uri, label, _ = self.rows[row]
        self.rows[row] = (uri, label, "test")
        self.run()

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        if len(self.rows) > 2:
            self.rows.pop(data.draw(st.integers(0, len(self.rows) - 1)))
            self.run()

    @rule()
    def reread(self) -> None:
        assert self.run(rehash=True, retry_failed=True).encoded <= self.allowed

    @invariant()
    def shards_keep_their_bytes(self) -> None:
        cache = open_cache(self.out)
        found = {name: entry["sha256"] for name, entry in cache.files.items() if "views" in name}
        assert all(found.get(name, sha) == sha for name, sha in self.bytes.items())
        now = digests(self.out)
        assert all(now[name] == sha for name, sha in self.bytes.items())
        self.bytes = found
        for view in cache.views:
            assert np.isfinite(cache.features(view=view)).all()

    def teardown(self) -> None:
        if not hasattr(self, "rows"):
            return
        self.run()
        manifest = manifest_of(self.root, self.rows)
        assert_like_new(self.out, manifest, self.encoder, self.work)
        assert self.encoded <= self.allowed
        assert verify_files(self.out).ok
        assert all(
            record_path(self.out, "center", k).exists() for k in read_plans(self.out)[0].shards
        )


@pytest.mark.filterwarnings("ignore:.*values in float16 take")
def test_any_sequence_ends_like_a_fresh_extraction(encoder: Encoder, tmp_path: Path) -> None:
    Growing.encoder, Growing.work = encoder, tmp_path / "machine"
    case = Growing.TestCase
    case.settings = settings(
        max_examples=12,
        stateful_step_count=8,
        phases=[Phase.generate],  # each example is many extractions: to shrink one takes minutes
        suppress_health_check=list(HealthCheck),
    )
    case("runTest").runTest()


def test_a_cache_keeps_its_precision(tiny_clip: Path, tmp_path: Path) -> None:
    images, out, model = tmp_path / "images", tmp_path / "cache", f"local-dir:{tiny_clip}"
    write_images(images, {"train/fox": 3, "train/jay": 3})
    given = {"model": model, "device": "cpu", **SMALL}
    extract(images, out, precision="bf16", **given)
    assert extract(images, out, views=("flip",), **given).encoded > 0  # in its own
    plan = read_plans(out)[0]
    assert plan.numerics["precision"] == "bf16"
    with pytest.raises(IdentityError, match="(?s)numerics.*bf16.*fp32.*leave --precision out"):
        extract(images, out, precision="fp32", **given)
    with pytest.raises(IdentityError, match="precision"):
        extract(images, out, encoder=load_encoder(model, device="cpu"), **SMALL)


def test_a_cache_of_another_device_can_be_relabelled(
    tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out, model = tmp_path / "images", tmp_path / "cache", f"local-dir:{tiny_clip}"
    write_images(images, {"train/fox": 3, "train/jay": 3})
    given = {"model": model, "device": "cpu", **SMALL}
    with monkeypatch.context() as patch:
        of_gpu = {**load_encoder(model, device="cpu").numerics(), "precision": "fp16"}
        patch.setattr(Encoder, "numerics", lambda _: of_gpu)
        extract(images, out, **given)
    assert extract(images, out, **given).encoded == 0
    with pytest.raises(IdentityError, match="(?s)numerics.*fp16"):
        extract(images, out, views=("flip",), **given)
