"""Pages of pictures as a person uses them, in headless Chromium, opened from disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from ltcache.browse import browse_cache
from ltcache.cache import open_cache
from ltcache.fit import fit_adapter
from ltcache.manifest.root_file import keep_root
from ltcache.retrieval import write_search_page
from ltcache.retrieval.search import SearchHit
from ltcache.runs import Run
from tests.browser import Browser, luminance
from tests.report.html.conftest import NAMES, write_named_cache
from tests.retrieval.looks import SCRIPT, write_pictures

COUNTS = np.array([12, 9, 6, 4, 3, 2])
EACH = 3


class Album:
    """A cache whose classes are named by markup, with a run on it and pages of it."""

    def __init__(self, root: Path) -> None:
        place = write_named_cache(root / "cache", COUNTS, NAMES, EACH)
        self.images = root / "photos"
        write_pictures(self.images, int(COUNTS.sum()) + 2 * EACH * len(COUNTS))
        (self.images / "0.png").unlink()
        keep_root(place, self.images)
        self.cache = open_cache(place)
        self.run: Run = fit_adapter(self.cache, "ncm", out=root / "run")
        self.page = root / "browse.html"
        self.written = browse_cache(self.cache, self.page, run=self.run)


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    return Album(tmp_path_factory.mktemp("album"))


def keys_of(browser: Browser) -> list[str]:
    """Return the keys of the images that are shown, in their order."""
    return list(browser.script("return state.cards.map(card => card.node.dataset.key)"))


def choose(browser: Browser, name: str, value: str) -> None:
    found = Select(browser.one(f"select[name={name}]")).options
    next(option for option in found if option.get_attribute("value") == value).click()


def test_the_page_holds_all_images_and_loads_nothing(browser: Browser, album: Album) -> None:
    browser.open(album.page)
    total = len(album.cache.rows())
    assert album.written.missing == {"No such file or directory": 1}
    assert album.written.images == total - 1
    assert len(keys_of(browser)) == total
    widths = browser.visible()
    assert min(widths) > 0 and len(widths) >= total - 1
    assert browser.text(".card[data-key=k0] .picture") == "no picture: No such file or directory"
    assert "1 image not shown: No such file or directory." in browser.text("#about")
    assert browser.loaded() == []


def test_markup_in_names_is_text(browser: Browser, album: Album) -> None:
    browser.open(album.page)
    assert browser.driver.title == "Images of photos"
    assert (
        browser.script("return document.querySelectorAll('#columns script, [onerror]').length") == 0
    )
    texts = [option.text for option in browser.all("select[name=class] option")]
    assert any(SCRIPT.split(">")[0] in text for text in texts)


def test_classes_splits_and_predictions_are_chosen(browser: Browser, album: Album) -> None:
    browser.open(album.page)
    rows = album.cache.manifest.rows.to_pylist()
    choose(browser, "class", "moth")
    moths = [row for row in rows if row["label"] == NAMES.index("moth")]
    assert keys_of(browser) == [row["key"] for row in moths]
    assert browser.text("#shown") == f"{len(moths)} of {len(rows)} images shown"
    choose(browser, "split", "test")
    assert keys_of(browser) == [row["key"] for row in moths if row["split"] == "test"]
    choose(browser, "class", "")
    choose(browser, "right", "wrong")
    found = album.run.logits_of(album.cache, "test", np.arange(EACH * len(NAMES))).logits
    of = [row for row in rows if row["split"] == "test"]
    wrong = [row["key"] for row, p in zip(of, found.argmax(1), strict=True) if p != row["label"]]
    assert keys_of(browser) == wrong


def test_images_sort_are_searched_and_grow(browser: Browser, album: Album) -> None:
    browser.open(album.page)
    Select(browser.one("#sort")).select_by_visible_text("probability")
    shares = browser.script("return state.cards.map(card => card.item.facts.probability)")
    assert shares == sorted(shares, reverse=True)
    browser.one("#filter").send_keys("MOTH")
    facts = browser.script("return state.cards.map(card => card.item.facts)")
    names = [one["class"] + one["prediction"] for one in facts]
    assert names and all("moth" in name for name in names)
    browser.one("#size").send_keys(Keys.END)
    assert browser.all(".card .picture")[0].size["width"] == 240


def test_a_point_of_the_map_leads_to_its_image(browser: Browser, album: Album) -> None:
    browser.open(album.page)
    assert len(browser.all("circle")) == len(album.cache.rows())
    assert f"of {len(album.cache.rows())} images." in browser.text("#about")
    click = "document.querySelectorAll('circle')[5].dispatchEvent(new MouseEvent('click'))"
    browser.script(click)
    key = browser.focused()
    assert key == browser.script("return state.at.key")
    assert key in browser.text("#detail")
    assert browser.script("return state.points.get(state.at).classList.contains('chosen')")
    choose(browser, "split", "val")
    shown = [circle for circle in browser.all("circle") if circle.is_displayed()]
    assert len(shown) == len(keys_of(browser)) == EACH * len(NAMES)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_can_be_read(browser: Browser, album: Album, scheme: str) -> None:
    browser.scheme(scheme)
    browser.open(album.page)
    for selector in (
        "body",
        ".note",
        "#look",
        "#about",
        "#sort",
        ".card p",
        "#detail dt",
        "#shown",
    ):
        assert browser.contrast_of(selector) >= 4.5
    dark = luminance(browser.script("return getComputedStyle(document.body).backgroundColor"))
    assert (dark < 0.1) == (scheme == "dark")


def test_a_phone_shows_all_of_it(browser: Browser, album: Album) -> None:
    with browser.narrow():
        browser.open(album.page)
        assert browser.script("return document.documentElement.scrollWidth") <= 400
        card = browser.all(".card")[3]
        browser.script("arguments[0].scrollIntoView({block: 'center'})", card)
        card.click()
        assert str(card.get_attribute("data-key")) in browser.text("#detail")
        box = browser.script("return document.getElementById('detail').getBoundingClientRect()")
        assert 0 < box["top"] < 800
        assert browser.one("svg").size["width"] <= 400


def test_what_a_search_has_found(browser: Browser, album: Album, tmp_path: Path) -> None:
    hits = [
        SearchHit(query, rank, 0.9 - 0.1 * rank, row, f"k{row}", f"{row}.png")
        for query, rows in {SCRIPT: (4, 30, 12), "a moth": (12, 5, 7)}.items()
        for rank, row in enumerate(rows, 1)
    ]
    page = write_search_page(album.cache, hits, tmp_path / "found.html").path
    browser.open(page)
    assert keys_of(browser) == ["k4", "k30", "k12", "k12", "k5", "k7"]
    choose(browser, "query", "a moth")
    assert keys_of(browser) == ["k12", "k5", "k7"]
    assert "cosine: 0.8" in browser.all(".card")[0].text
    assert not browser.one("#map").is_displayed()
    assert min(browser.visible()) > 0 and browser.loaded() == []
    choose(browser, "query", SCRIPT)
    assert keys_of(browser) == ["k4", "k30", "k12"]
    assert SCRIPT in browser.text("#detail")
