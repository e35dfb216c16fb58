"""The gallery's page, the decisions that come back from it, and the t-SNE picture."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from ltcache.errors import IdentityError, ManifestError, UsageError
from ltcache.images.thumbnails import EDGE
from ltcache.manifest import packaged_names
from ltcache.pages import find_store
from ltcache.retrieval import (
    RetrievalResult,
    RetrievalSettings,
    open_retrieved,
    retrieve_tail,
)
from ltcache.retrieval.review import tsne
from ltcache.retrieval.review.decisions import (
    ACCEPT,
    REJECT,
    ReviewDecisions,
    apply_decisions,
    decisions_of,
    read_decisions,
    retrieval_identity,
    undecided,
)
from ltcache.retrieval.review.gallery import (
    NEAR_MISSES,
    PICKS,
    TRAINING,
    _shown,
    write_gallery,
)
from ltcache.retrieval.review.tsne import TsnePoints, collect, place, write_tsne
from tests.conftest import Call
from tests.retrieval.looks import SCRIPT, Shop, wide_result


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = dict(attrs)
        self.found.append((tag, own))
        self._inside = own.get("id") or tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[self._inside] = self.texts.get(self._inside, "") + data


def page_of(shop: Shop, result: RetrievalResult | None = None, **stores: Any) -> Elements:
    result = shop.result if result is None else result
    stores = stores or {
        "images": find_store(shop.images, shop.images, ""),
        "pool_images": find_store(shop.pool_images, shop.images, ""),
    }
    out = shop.out.parent / "page.html"
    report = write_gallery(result, shop.cache, out=out, **stores)
    assert report.bytes == out.stat().st_size
    return Elements(out.read_text(encoding="utf-8"))


def data_of(page: Elements, name: str) -> Any:
    return json.loads(page.texts[name])


def picture(data: str) -> Image.Image:
    kind, text = data.split(",", 1)
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(text)))


def first(result: RetrievalResult, status: str, reason: str = "") -> tuple[int, str]:
    """Return label and key of the first candidate with this verdict."""
    for row in result.table.to_pylist():
        if (row["status"], row["reason"]) == (status, reason):
            return row["label"], row["key"]
    raise AssertionError(f"no candidate is {status} {reason}")


def verdicts(result: RetrievalResult) -> dict[tuple[int, str], tuple[str, str]]:
    rows = result.table.to_pylist()
    return {(row["label"], row["key"]): (row["status"], row["reason"]) for row in rows}


def choose(result: RetrievalResult, **chosen: tuple[int, str]) -> ReviewDecisions:
    return ReviewDecisions(
        retrieval_identity(result), {place: name for name, place in chosen.items()}
    )


def test_the_page_has_every_class_with_its_images(shop: Shop) -> None:
    page = page_of(shop)
    header = data_of(page, "page")
    assert [entry["label"] for entry in header["classes"]] == [3, 4, 5]
    for entry in header["classes"]:
        data = data_of(page, f"class-{entry['label']}")
        rows = {
            row["key"]: row
            for row in shop.result.table.to_pylist()
            if row["label"] == entry["label"]
        }
        taken = [item for item in data["items"] if item["status"] == "accepted"]
        assert len(taken) == entry["accepted"] == shop.result.counts()[entry["label"]]
        assert len(data["items"]) - len(taken) == NEAR_MISSES
        for item in data["items"]:
            row = rows[item["key"]]
            assert all(
                item[name] == row[name] for name in ("p", "rank", "log_odds", "reason", "caption")
            )
            shown = picture(data["images"][item["image"]]["data"]).convert("RGB")
            with Image.open(shop.pool_images / row["uri"]) as original:
                difference = np.subtract(shown.getpixel((20, 20)), original.getpixel((20, 20)))
            assert np.abs(difference).max() < 12
        train = shop.cache.manifest.rows.to_pylist()
        own = [r["key"] for r in train if r["split"] == "train" and r["label"] == entry["label"]]
        assert [t["key"] for t in data["training"]] == own[:TRAINING]
    assert header["classes"][2]["accepted"] == 0  # the honest zero has no images but says why
    assert header["classes"][2]["rejected"] == {"threshold": 36}


def test_the_page_needs_nothing_else_and_runs_nothing_else(shop: Shop) -> None:
    page = page_of(shop)
    assert not [own for _, own in page.found if {"src", "href", "style", "srcset"} & set(own)]
    assert not [name for _, own in page.found for name in own if name.startswith("on")]
    policy = next(own["content"] for tag, own in page.found if own.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    for name in ("style", "script"):
        content = base64.b64encode(hashlib.sha256(page.texts[name].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{content}'" in policy


def test_texts_of_the_data_are_never_markup(shop: Shop) -> None:
    nasty = "</script>" + SCRIPT + "<!--{{script}}\u2028"
    table = shop.result.table
    for name in ("caption", "url", "licence", "class_name", "source"):
        column = pa.array([nasty] * table.num_rows)
        table = table.set_column(table.column_names.index(name), name, column)
    classes = tuple(replace(e, name=nasty, prompts=(nasty,)) for e in shop.result.classes)
    record = replace(shop.result.record, classes=classes, pool=nasty, cache=nasty)
    result = RetrievalResult(table, record, shop.result.features, shop.result.feature_rows)
    page, plain = page_of(shop, result), page_of(shop)
    assert [tag for tag, _ in page.found] == [tag for tag, _ in plain.found]
    assert data_of(page, "page")["classes"][0]["prompts"] == [nasty]
    assert data_of(page, "class-3")["items"][0]["caption"] == nasty


def test_images_that_are_not_there_or_have_changed_say_so(shop: Shop, tmp_path: Path) -> None:
    (row, *_) = [r for r in shop.result.accepted.to_pylist() if r["label"] == 3]
    hashes = ["0" * 64 if k == row["key"] else "" for k in shop.result.table["key"].to_pylist()]
    table = shop.result.table
    table = table.set_column(table.column_names.index("sha256"), "sha256", pa.array(hashes))
    result = RetrievalResult(table, shop.result.record)

    class Broken:
        def read(self, uri: str) -> bytes:
            return b"" if uri != row["uri"] else b"other bytes"

    report = write_gallery(result, shop.cache, pool_images=Broken(), out=tmp_path / "g.html")
    assert report.images == 0
    assert "the file is no longer the one that was encoded" in report.missing
    assert "empty file (0 bytes)" in report.missing
    assert "where the labelled images lie was not said" in report.missing
    with pytest.raises(UsageError, match="was not written"):
        write_gallery(result, shop.cache)


def test_thumbnails_are_small_and_a_page_is_bounded(tmp_path: Path) -> None:
    result, cache = wide_result(2, PICKS + 20)
    noise = np.random.default_rng(0).integers(0, 256, (300, 500, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")

    class Store:
        def read(self, uri: str) -> bytes:
            return stream.getvalue()

    store = Store()
    out = tmp_path / "g.html"
    report = write_gallery(result, cache, images=store, pool_images=store, out=out)
    assert report.images == 2 * (PICKS + 5)
    data = data_of(Elements(out.read_text(encoding="utf-8")), "class-0")
    assert max(picture(data["images"][0]["data"]).size) == EDGE
    assert max(len(image["data"]) for image in data["images"]) < 12_000  # even of pure noise


def test_no_reason_is_crowded_out_of_the_near_misses() -> None:
    reasons = ["", "threshold", *["quota"] * 60, "near-leak", ""]
    table = pa.table({"rank": np.arange(len(reasons)) + 1, "reason": reasons})
    order = np.random.default_rng(0).permutation(len(reasons))
    found = _shown(table.take(order))
    shown = [reasons[n] for n in order[found]]
    assert shown[:2] == ["", ""]
    assert len(shown) == 2 + NEAR_MISSES
    assert {"threshold", "near-leak"} <= set(shown)
    ranks = order[found][2:]
    assert (np.diff(ranks) > 0).all()


def test_a_store_is_found_by_source_or_by_a_packaged_name(shop: Shop) -> None:
    assert find_store(None, shop.images, "no such manifest") is None
    assert "emoji_lt" in packaged_names()
    assert find_store(None, shop.images, "emoji_lt") is not None
    found = find_store(shop.images, shop.images, "")  # images without class folders
    assert found is not None
    assert found.read("0.png").startswith(b"\x89PNG")
    with pytest.raises(ManifestError, match="nowhere"):
        find_store("nowhere/at/all", shop.images, "")


def test_decisions_change_what_is_taken_and_can_be_taken_back(shop: Shop) -> None:
    result = shop.result
    pick, miss = first(result, "accepted"), first(result, "rejected", "quota")
    decided = apply_decisions(result, choose(result, reject=pick, accept=miss))
    changed = {k: v for k, v in verdicts(decided).items() if v != verdicts(result)[k]}
    assert changed == {pick: ("rejected", "person"), miss: ("accepted", "")}
    entry = next(entry for entry in decided.classes if entry.label == pick[0])
    assert entry.rejected["person"] == 1
    assert decided.key != result.key
    assert decided.record.thresholds == result.record.thresholds
    assert dict(decisions_of(decided).chosen) == {pick: REJECT, miss: ACCEPT}
    assert undecided(decided).equals(result.table)
    # the same, and another file, in place of the first
    assert apply_decisions(decided, choose(result, reject=pick, accept=miss)).key == decided.key
    other = apply_decisions(decided, choose(result, accept=pick))
    assert verdicts(other) == verdicts(result)
    back = apply_decisions(decided, replace(decisions_of(result), chosen={}))
    assert (back.key, back.record) == (result.key, result.record)


def test_an_image_that_is_accepted_is_taken_from_another_class(shop: Shop) -> None:
    result = shop.result
    label, key = first(result, "accepted")
    other = next(e.label for e in result.classes if (e.label, key) in verdicts(result)
                 and e.label != label)  # fmt: skip
    decided = apply_decisions(result, choose(result, accept=(other, key)))
    assert verdicts(decided)[other, key] == ("accepted", "")
    assert verdicts(decided)[label, key] == ("rejected", "other-class")
    assert dict(decisions_of(decided).chosen) == {(other, key): ACCEPT}
    assert undecided(decided).equals(result.table)
    both = {(other, key): ACCEPT, (label, key): ACCEPT}
    with pytest.raises(UsageError, match="an image has one class"):
        apply_decisions(result, ReviewDecisions(retrieval_identity(result), both))


def test_decisions_that_cannot_be_applied_are_refused(shop: Shop, tmp_path: Path) -> None:
    result = shop.result
    with pytest.raises(UsageError, match="no candidates, such as nobody for class 3"):
        apply_decisions(result, choose(result, accept=(3, "nobody")))
    label, key = first(result, "rejected", "quota")
    reasons = ["leak" if r == "quota" else r for r in result.table["reason"].to_pylist()]
    table = result.table
    table = table.set_column(table.column_names.index("reason"), "reason", pa.array(reasons))
    leaky = RetrievalResult(table, result.record)
    with pytest.raises(UsageError, match="byte for byte"):
        apply_decisions(leaky, choose(leaky, accept=(label, key)))
    items = data_of(page_of(shop, leaky), f"class-{label}")["items"]
    assert {item["locked"] for item in items if item["reason"] == "leak"} == {True}
    other = retrieve_tail(shop.cache, shop.pool, None, RetrievalSettings(per_class=2))
    with pytest.raises(IdentityError, match="settings.per_class: expected 4, found 2") as refused:
        apply_decisions(result, choose(other, reject=first(other, "accepted")))
    assert refused.value.exit_status == 4
    with pytest.raises(IdentityError, match="the cache differs"):
        write_gallery(result, wide_result(2, 1)[1], out=tmp_path / "g.html")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no decisions of a gallery"),
        ("[1]", "no decisions of a gallery"),
        ("{}", "lacks 'format'"),
        ('{"format": 2}', "format 2 is unknown"),
        ('{"format": 1, "decisions": []}', "lacks 'retrieval'"),
        ('{"format": 1, "retrieval": {}, "decisions": [3]}', "no decisions of a gallery"),
        (
            '{"format": 1, "retrieval": {}, "decisions": [{"label": 1, "key": "a", '
            '"decision": "perhaps"}]}',
            "'perhaps' is neither accept nor reject",
        ),
        (
            '{"format": 1, "retrieval": {}, "decisions": [{"label": 1, "key": "a", "decision": '
            '"accept"}, {"label": 1, "key": "a", "decision": "reject"}]}',
            "both accepted and rejected",
        ),
    ],
)
def test_a_file_that_holds_no_decisions_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "decisions.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=complaint) as refused:
        read_decisions(path)
    assert "decisions.json" in str(refused.value)


def test_decisions_that_an_editor_has_saved_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = write_decisions(tmp_path / "d.json", ReviewDecisions({"key": "k"}, {(1, "a"): ACCEPT}))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert dict(read_decisions(path).chosen) == {(1, "a"): ACCEPT}


def write_decisions(path: Path, decisions: ReviewDecisions) -> Path:
    entries = [{"label": n, "key": k, "decision": d} for (n, k), d in decisions.chosen.items()]
    text = {"format": 1, "retrieval": decisions.retrieval, "decisions": entries}
    path.write_text(json.dumps(text))
    return path


def test_from_the_command_line(call: Call, shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "r"
    command = ("retrieve-tail", shop.cache.path, shop.pool.path, "--out", out, "--per-class", 4)
    status, _, err = call(*command)
    assert status == 0
    assert not (out / "gallery.html").exists()  # nothing says where images are
    look = ("review", out, shop.cache.path)
    status, _, err = call(*look)
    assert (status, "say where they are, --pool-source" in err) == (2, True)
    places = ("--source", shop.images, "--pool-source", shop.pool_images)
    status, _, err = call(*look, *places)
    assert (status, (out / "tsne.png").exists()) == (0, False)
    assert "gallery.html: 3 classes, 141 images" in err
    assert call(*look, "--tsne")[0] == 0
    assert Image.open(out / "tsne.png").format == "PNG"
    page = (out / "gallery.html").read_bytes()
    result = open_retrieved(out)
    pick, miss = first(result, "accepted"), first(result, "rejected", "quota")
    decisions = choose(result, reject=pick, accept=miss)
    file = write_decisions(tmp_path / "d.json", decisions)
    status, told, _ = call("review", out, "--decisions", file)
    assert status == 0
    assert "1 accepted and 1 rejected by hand; 8 images before, 8 now" in told
    decided = open_retrieved(out)
    assert verdicts(decided)[pick] == ("rejected", "person")
    assert verdicts(decided)[miss] == ("accepted", "")
    assert (out / "gallery.html").read_bytes() == page
    assert not (out / "tsne.png").exists()  # it would show what was taken before
    status, _, err = call(*look, *places)
    assert status == 0
    header = data_of(Elements((out / "gallery.html").read_text(encoding="utf-8")), "page")
    assert sorted(map(tuple, header["decisions"])) == sorted(
        [(f"{pick[0]}\t{pick[1]}", REJECT), (f"{miss[0]}\t{miss[1]}", ACCEPT)]
    )
    assert header["classes"][0]["accepted"] == 4  # what the guards said
    assert call(*command)[0] == 2  # decisions are not overwritten unless told to
    assert call(*command, "--overwrite")[0] == 0
    assert call("review", out, "--decisions", file)[0] == 0
    assert open_retrieved(out).key == decided.key


def test_the_command_line_refuses(call: Call, shop: Shop, tmp_path: Path) -> None:
    wrong = replace(choose(shop.result), retrieval={"settings": {"per_class": 9}})
    file = write_decisions(tmp_path / "d.json", wrong)
    before = sorted((path.name, path.read_bytes()) for path in shop.out.iterdir())
    status, _, err = call("review", shop.out, "--decisions", file)
    assert (status, "settings.per_class: expected 4, found 9" in err) == (4, True)
    assert call("review", shop.out)[0] == 2
    assert call("review", shop.out, "--gallery")[0] == 2
    assert call("review", tmp_path, "--decisions", file)[0] == 2
    assert call("review", shop.out, "--decisions", tmp_path / "no")[0] == 2
    assert sorted((path.name, path.read_bytes()) for path in shop.out.iterdir()) == before


def test_the_picture_is_of_a_bounded_sample_and_repeats(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = collect(shop.result, shop.cache)
    kinds = {name: len(points.of(name)) for name in ("training", "retrieved", "prompt")}
    assert kinds == {"training": 22, "retrieved": 8, "prompt": 3}
    np.testing.assert_allclose(np.linalg.norm(points.values, axis=1), 1, atol=1e-6)
    files = [write_tsne(shop.result, shop.cache, tmp_path / f"{n}.png") for n in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()
    with Image.open(files[0]) as image:
        assert min(image.size) > 600
    empty = RetrievalResult(shop.result.table.slice(0, 0), shop.result.record, shop.result.features)
    assert len(collect(empty, shop.cache).of("retrieved")) == 0
    monkeypatch.setattr(tsne, "IMAGES", 5)
    few = collect(shop.result, shop.cache)
    assert [len(few.of(name)) for name in kinds] == [5, 5, 3]


def test_prompts_lie_among_the_images_of_their_class() -> None:
    rng = np.random.default_rng(0)
    means, gap = rng.normal(size=(4, 32)), 10 * rng.normal(size=32)
    labels = np.repeat(np.arange(4), 20)
    images = means[labels] + 0.3 * rng.normal(size=(80, 32)) + gap
    values = np.concatenate([images, means - gap])  # texts lie elsewhere
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    kinds = np.array(["training"] * 80 + ["prompt"] * 4)
    where = place(TsnePoints(values, np.concatenate([labels, np.arange(4)]), kinds))
    centres = np.stack([where[:80][labels == c].mean(axis=0) for c in range(4)])
    nearest = np.linalg.norm(where[80:, None] - centres[None], axis=2).argmin(axis=1)
    assert nearest.tolist() == [0, 1, 2, 3]


def test_every_asset_is_ascii_or_utf8_and_has_no_address() -> None:
    import ltcache.retrieval.review.gallery as gallery

    folder = Path(gallery.__file__).parent
    for name in ("gallery.html", "gallery.css", "gallery.js"):
        text = (folder / name).read_text(encoding="utf-8")
        assert not re.search(r"https?://\w|@import|url\(|innerHTML|eval\(", text)
