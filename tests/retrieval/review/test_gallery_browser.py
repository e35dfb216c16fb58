"""The gallery as a person uses it, in headless Chromium, opened from disk."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

import ltcache.images.thumbnails
from ltcache.images import thumbnail
from ltcache.pages import find_store
from ltcache.retrieval import (
    RetrievalResult,
    RetrievalSettings,
    apply_decisions,
    open_retrieved,
    read_decisions,
    retrieve_tail,
)
from ltcache.retrieval.review.gallery import write_gallery
from tests.browser import Browser, luminance
from tests.conftest import Call
from tests.retrieval.looks import SCRIPT, Shop, wide_result


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Return a result whose captions are scripts, with its gallery."""
    shop = Shop(tmp_path_factory.mktemp("shop"))
    write(shop, with_column(shop.result, "caption", SCRIPT), shop.out / "gallery.html")
    return shop


def with_column(result: RetrievalResult, name: str, text: str) -> RetrievalResult:
    table = result.table
    column = pa.array([text] * table.num_rows)
    table = table.set_column(table.column_names.index(name), name, column)
    return RetrievalResult(table, result.record, result.features, result.feature_rows, result.path)


def write(shop: Shop, result: RetrievalResult, out: Path) -> Path:
    stores = {
        "images": find_store(shop.images, shop.images, ""),
        "pool_images": find_store(shop.pool_images, shop.images, ""),
    }
    return write_gallery(result, shop.cache, out=out, **stores).path


def test_images_are_visible_from_disk(browser: Browser, shop: Shop) -> None:
    browser.open(shop.out / "gallery.html")
    for entry in shop.result.classes:
        widths = browser.visible()
        cards = len(browser.all(".card"))
        assert cards == entry.accepted + 24
        assert len(widths) == cards + min(entry.train, 12) + 2  # two in the detail
        assert min(widths) > 0
        assert all(image.get_attribute("alt") for image in browser.all("img"))
        assert browser.text("#class h2").strip() == entry.name
        assert entry.prompts[0] in browser.text(".prompts")
        browser.press("j")
    zero = browser.text(".zero")
    assert zero == "No image was taken for this class. None of its 36 candidates passed the guards."
    assert browser.loaded() == []


def test_p_rank_and_reasons_are_shown(browser: Browser, shop: Shop) -> None:
    browser.open(shop.out / "gallery.html")
    rows = {r["key"]: r for r in shop.result.table.to_pylist() if r["label"] == 3}
    cards = browser.all(".card")
    for card in (cards[0], cards[5]):
        row = rows[card.get_attribute("data-key")]
        hover = card.get_attribute("title")
        assert f"rank {row['rank']}, log-odds {row['log_odds']:.3f}" in hover
        expected = "> 0.999" if row["p"] > 0.9995 else f"{row['p']:.3f}"
        assert f"p {expected}" in card.text
    assert "taken" in cards[0].text
    assert "the class has all that were asked for" in cards[5].text


def test_a_script_in_a_caption_is_text(browser: Browser, shop: Shop) -> None:
    browser.open(shop.out / "gallery.html")
    assert SCRIPT in browser.text("#detail")
    assert browser.driver.title == "pool for the rare classes of cache"
    assert browser.all("#columns script") == []
    assert browser.script("return document.querySelectorAll('[onerror]').length") == 0


def test_keys_move_decide_and_undo(browser: Browser, shop: Shop) -> None:
    browser.open(shop.out / "gallery.html")
    keys = [card.get_attribute("data-key") for card in browser.all(".card")]
    assert browser.focused() == keys[0]
    browser.press(Keys.ARROW_RIGHT)
    assert browser.focused() == keys[1]
    outline = browser.script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    browser.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert browser.focused() == keys[0]
    browser.press(Keys.ARROW_DOWN)  # from the first pick to the first near miss
    assert browser.focused() == keys[4]
    browser.press(Keys.ARROW_UP)
    assert browser.focused() == keys[0]
    browser.press("n")
    assert browser.verdict(keys[0]) == "rejected"
    assert browser.focused() == keys[1]
    browser.press("r", "r")  # and taken back
    assert browser.verdict(keys[1]) == "accepted"
    assert browser.text("#tally").startswith("1 decision:")
    browser.press(Keys.ARROW_DOWN, "y")
    assert browser.verdict(keys[5]) == "accepted"
    browser.press("j")
    assert browser.text("#class h2").strip() == "class 4"
    browser.press("u")
    assert browser.text("#class h2").strip() == "class 3"
    assert browser.focused() == keys[5]
    assert browser.verdict(keys[5]) == "rejected"
    browser.press("j", "k", "k")
    assert browser.text("#class h2").strip() == "class 3"


def test_clicks_and_keys_are_kept_exported_and_applied(
    browser: Browser, shop: Shop, call: Call
) -> None:
    browser.open(shop.out / "gallery.html")
    cards = browser.all(".card")
    keys = [card.get_attribute("data-key") for card in cards]
    cards[0].find_elements(By.TAG_NAME, "button")[1].click()
    cards[6].find_elements(By.TAG_NAME, "button")[0].click()
    browser.press(Keys.ARROW_RIGHT, "a")
    browser.reload()
    assert [browser.verdict(keys[n]) for n in (0, 1, 6, 7)] == [
        "rejected", "accepted", "accepted", "accepted"]  # fmt: skip
    pressed = "button[aria-pressed=true]"
    assert len(browser.all(pressed)) == 3
    path = browser.saved()
    status, told, _ = call("review", shop.out, "--decisions", path)
    assert (status, "2 accepted and 1 rejected by hand" in told) == (0, True)
    rows = {r["key"]: r for r in open_retrieved(shop.out).table.to_pylist() if r["label"] == 3}
    assert (rows[keys[0]]["status"], rows[keys[0]]["reason"]) == ("rejected", "person")
    assert [rows[keys[n]]["status"] for n in (6, 7)] == ["accepted"] * 2
    browser.one("#clear").click()
    assert browser.all(pressed) == []
    browser.one("#file").send_keys(str(path))
    browser.wait(lambda: browser.text("#message") == "3 decisions imported.")
    assert len(browser.all(pressed)) == 3
    browser.press("u")
    assert browser.all(pressed) == []


def test_decisions_of_another_retrieval_stay_out(browser: Browser, shop: Shop) -> None:
    browser.open(shop.out / "gallery.html")
    browser.press("r")
    other = retrieve_tail(shop.cache, shop.pool, None, RetrievalSettings(per_class=3))
    page = write(shop, other, shop.out.parent / "other.html")
    path = browser.saved()
    browser.driver.get(page.as_uri())
    assert browser.text("#tally").startswith("0 decisions")
    browser.one("#file").send_keys(str(path))
    browser.wait(lambda: "belongs to another retrieval" in browser.text("#message"))
    assert browser.text("#tally").startswith("0 decisions")
    broken = path.with_name("decisions-broken.json")
    broken.write_text("{")
    browser.one("#file").send_keys(str(broken))
    browser.wait(lambda: "holds no decisions" in browser.text("#message"))


def test_an_image_of_another_split_cannot_be_accepted(browser: Browser, shop: Shop) -> None:
    table = shop.result.table
    reasons = ["leak" if r == "quota" else r for r in table["reason"].to_pylist()]
    table = table.set_column(table.column_names.index("reason"), "reason", pa.array(reasons))
    page = write(shop, RetrievalResult(table, shop.result.record), shop.out.parent / "leaks.html")
    browser.open(page)
    browser.press(Keys.ARROW_DOWN, "a")
    assert browser.verdict(browser.focused()) == "rejected"
    assert "cannot be accepted" in browser.text("#message")
    assert not browser.all(".card")[4].find_elements(By.TAG_NAME, "button")[0].is_enabled()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_can_be_read(browser: Browser, shop: Shop, scheme: str) -> None:
    browser.scheme(scheme)
    browser.open(shop.out / "gallery.html")
    for selector in (
        "body",
        ".note",
        "#help",
        "#explained",
        "#look",
        "#sort",
        "#detail dt",
        ".card .badge",
        "nav small",
    ):
        assert browser.contrast_of(selector) >= 4.5
    dark = luminance(browser.script("return getComputedStyle(document.body).backgroundColor"))
    assert (dark < 0.1) == (scheme == "dark")


def test_a_hundred_classes_of_a_hundred_images(
    browser: Browser, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, cache = wide_result(100, 100)
    # equal files are scaled once: what is tested is the page, whose every image is in it apart
    monkeypatch.setattr(ltcache.images.thumbnails, "thumbnail", functools.cache(thumbnail))

    class Store:
        def read(self, uri: str) -> bytes:
            return (shop.pool_images / f"{int(uri.partition('.')[0]) % 50}.png").read_bytes()

    page = tmp_path / "wide.html"
    report = write_gallery(result, cache, images=Store(), pool_images=Store(), out=page)
    assert report.images == 100 * (100 + 5)
    browser.open(page)
    assert len(browser.all("#classes button")) == 100
    browser.all("#classes button")[98].click()
    browser.press("j", "n")
    assert browser.text("#class h2").strip() == "class 99"
    assert len(browser.all(".card")) == 100  # one class at a time is in the document
    widths = browser.visible()
    assert (len(widths), min(widths) > 0) == (100 + 5 + 2, True)
    browser.press(*["n"] * 5)
    stored = browser.script("return Object.values(localStorage).map(v => JSON.parse(v).length)")
    assert stored == [6]
    found = json.loads(browser.saved().read_text())["decisions"]
    assert [entry["key"] for entry in found] == [f"w{9900 + n}" for n in range(6)]


def keys_of(browser: Browser) -> list[str]:
    return [str(card.get_attribute("data-key")) for card in browser.all(".card")]


def choose(browser: Browser, name: str, value: str) -> None:
    """Choose an option of a list."""
    Select(browser.one(f"#{name}")).select_by_visible_text(value)


def test_images_sort_filter_and_grow(browser: Browser, shop: Shop) -> None:
    browser.open(shop.out / "gallery.html")
    rows = {r["key"]: r for r in shop.result.table.to_pylist() if r["label"] == 3}
    choose(browser, "sort", "likeness to a training image")
    picks, misses = keys_of(browser)[:4], keys_of(browser)[4:]
    for keys in (picks, misses):
        values = [rows[key]["train_similarity"] for key in keys]
        assert values == sorted(values, reverse=True)
    choose(browser, "sort", "rank")
    assert [rows[key]["rank"] for key in keys_of(browser)[:4]] == [1, 2, 3, 4]
    browser.one("#filter").send_keys(picks[0])
    assert keys_of(browser) and all(picks[0] in key for key in keys_of(browser))
    assert "hidden by the filter" in browser.text("#class h3:last-of-type")
    assert browser.script("return document.activeElement.id") == "filter"
    browser.one("#filter").clear()
    choose(browser, "verdict", "accepted")
    assert keys_of(browser) == sorted(picks, key=lambda key: rows[key]["rank"])
    before = browser.all(".card img")[0].size["width"]
    browser.one("#size").send_keys(Keys.END)
    assert before == 96 and browser.all(".card img")[0].size["width"] == 240


def test_all_that_is_visible_is_accepted_in_one_step_and_counts_follow(
    browser: Browser, shop: Shop, call: Call, tmp_path: Path
) -> None:
    browser.open(shop.out / "gallery.html")
    browser.press("r")
    assert "3 taken" in browser.text(".counts")
    assert browser.text("#classes li:first-child small").startswith("3 of 4 taken, 1 by hand")
    choose(browser, "verdict", "rejected")
    assert len(keys_of(browser)) == 25
    browser.one("#all").click()
    assert browser.text("#message") == "25 of 25 visible images accepted."
    assert "28 taken" in browser.text(".counts")
    counts = [int(node.text.split(" of ")[0]) for node in browser.all("#classes small")]
    applied = apply_decisions(shop.result, read_decisions(browser.saved()))
    assert counts == list(applied.counts().values())  # as ltcache review counts them
    browser.one("#undo").click()
    assert "3 taken" in browser.text(".counts")
    assert browser.text("#tally").startswith("1 decision:")


def test_an_image_that_is_taken_over_is_counted_once(browser: Browser, shop: Shop) -> None:
    rows = shop.result.table.to_pylist()
    picks = {r["key"] for r in rows if not r["reason"]}
    n = next(n for n, r in enumerate(rows) if r["reason"] and r["key"] in picks)
    label, pick = rows[n]["label"], rows[n]["key"]
    ranks = [row["rank"] for row in rows]
    ranks[n] = 0  # so that it is on the page
    table = shop.result.table
    table = table.set_column(table.column_names.index("rank"), "rank", pa.array(ranks))
    result = RetrievalResult(table, shop.result.record)
    browser.open(write(shop, result, shop.out.parent / "over.html"))
    browser.press(*["j"] * [entry.label for entry in result.classes].index(label))
    browser.script("state.cards.find(c => c.item.key === arguments[0]).accept.click()", pick)
    assert browser.verdict(pick) == "accepted"
    counts = [int(node.text.split(" of ")[0]) for node in browser.all("#classes small")]
    applied = apply_decisions(result, read_decisions(browser.saved()))
    assert counts == list(applied.counts().values())


def test_classes_that_wanted_nothing_are_hidden(browser: Browser, shop: Shop) -> None:
    first, *others = shop.result.classes
    table = shop.result.table.filter(pc.not_equal(shop.result.table["label"], first.label))
    record = replace(shop.result.record, classes=(replace(first, quota=0, accepted=0), *others))
    browser.open(write(shop, RetrievalResult(table, record), shop.out.parent / "idle.html"))
    assert browser.text("#class h2").strip() == others[0].name
    shown = [node.is_displayed() for node in browser.all("#classes li")]
    assert shown == [False, *(True for _ in others)]
    browser.press("k")
    assert browser.text("#class h2").strip() == others[0].name
    browser.one("#idle").click()
    assert all(node.is_displayed() for node in browser.all("#classes li"))
    browser.press("k")
    assert "wants no more" in browser.text(".zero")


def test_a_line_explains_the_numbers(browser: Browser, shop: Shop) -> None:
    browser.open(shop.out / "gallery.html")
    told = browser.text("#explained")
    assert f"softmax over all {len(shop.cache.classes)} classes" in told and "log(p_k" in told


def test_a_phone_shows_all_of_it(browser: Browser, shop: Shop) -> None:
    with browser.narrow():
        browser.open(shop.out / "gallery.html")
        assert browser.script("return document.documentElement.scrollWidth") <= 400
        reject = browser.all(".card")[1].find_elements(By.TAG_NAME, "button")[1]
        browser.script("arguments[0].scrollIntoView({block: 'center'})", reject)
        reject.click()
        key = keys_of(browser)[1]
        assert browser.verdict(key) == "rejected"
        box = browser.script("return document.getElementById('detail').getBoundingClientRect()")
        assert 0 < box["top"] < 800  # what is in focus is in sight
        assert key in browser.text("#detail")
        browser.all("#classes button")[1].click()
        assert browser.text("#class h2").strip() == shop.result.classes[1].name
        assert browser.visible() and min(browser.visible()) > 0
