"""The page as a person uses it, in headless Chromium, opened from disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from tests.browser import Browser, luminance
from tests.report.html.conftest import NAMES, FuturePages, MarkupShop


def cells(browser: Browser, table: str, column: int) -> list[str]:
    """Return the texts of a column, of the rows that are visible."""
    found = browser.script(
        "return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)].filter(r => !r.hidden)"
        ".map(r => r.cells[arguments[1]].textContent)", table, column)  # fmt: skip
    return [str(text) for text in found]


def opened(browser: Browser, shop: MarkupShop) -> None:
    """Open the page and wait for its figures."""
    shown(browser, shop.page)


def shown(browser: Browser, page: Path) -> None:
    """Open a page and wait for its figures."""
    browser.open(page)
    browser.wait(lambda: all(plot.find_elements(By.CLASS_NAME, "main-svg") for plot in
                             browser.all(".plot")))  # fmt: skip


def test_the_page_is_whole_and_loads_nothing(browser: Browser, markup_shop: MarkupShop) -> None:
    opened(browser, markup_shop)
    assert browser.loaded() == []
    assert browser.driver.title == "3 lines on test"
    assert cells(browser, "classes", 0) == list(NAMES)
    assert browser.script("return document.querySelectorAll('main script, [onerror]').length") == 0
    shown = browser.script("return [...document.querySelectorAll('.plot .js-line')].length")
    assert shown > 3
    widths = browser.visible()
    assert len(widths) > 3 and min(widths) > 0


def test_columns_sort_both_ways_and_classes_are_searched(
    browser: Browser, markup_shop: MarkupShop
) -> None:
    opened(browser, markup_shop)
    heads = browser.one("#comparison thead").find_elements(By.TAG_NAME, "button")
    heads[2].click()
    falling = [float(text.split(" ± ")[0]) for text in cells(browser, "comparison", 2)]
    assert falling == sorted(falling, reverse=True)
    heads[2].click()
    rising = [float(text.split(" ± ")[0]) for text in cells(browser, "comparison", 2)]
    assert rising == sorted(falling)
    heads[0].click()
    assert cells(browser, "comparison", 0) == ["ce", "ncm", "posthoc-la"]
    browser.one("#classes input").send_keys("FOX")
    rows = browser.script("return [...document.querySelectorAll('#classes tbody tr')]")
    found = [row for row in rows if row.is_displayed()]
    assert 0 < len(found) < 6 and all("fox" in row.text for row in found)
    assert browser.text("#classes .count") == f"{len(found)} of 6"


def test_a_click_in_the_legend_switches_a_line(browser: Browser, markup_shop: MarkupShop) -> None:
    opened(browser, markup_shop)
    lines = "return document.querySelectorAll('#plot-frequency .scatterlayer .trace').length"
    before = browser.script(lines)
    browser.all("#plot-frequency .legendtoggle")[0].click()
    browser.wait(lambda: browser.script(lines) == before - 1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_can_be_read(browser: Browser, markup_shop: MarkupShop, scheme: str) -> None:
    browser.scheme(scheme)
    opened(browser, markup_shop)
    for selector in ("body", ".note", "th button", "td", "td.best", "dt", "#verdict", ".card p"):
        assert browser.contrast_of(selector) >= 4.5
    dark = luminance(browser.script("return getComputedStyle(document.body).backgroundColor"))
    assert (dark < 0.1) == (scheme == "dark")
    fill = "return getComputedStyle(document.querySelector('#plot-frequency .xtick text')).fill"
    browser.wait(lambda: (luminance(browser.script(fill)) > 0.5) == (scheme == "dark"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_labels_that_look_wrong_and_more_images_are_shown(
    browser: Browser, future_pages: FuturePages, scheme: str
) -> None:
    browser.scheme(scheme)
    shown(browser, future_pages.whole)
    assert browser.loaded() == []
    cards = browser.all(".label-errors .card")
    natural = "return [...document.querySelectorAll('.label-errors img')].map(i => i.naturalWidth)"
    browser.visible()
    assert len(browser.script(natural)) == len(cards) > 1 and min(browser.script(natural)) > 0
    first = browser.script("return [...document.querySelectorAll('.label-errors b')].map("
                           "b => b.textContent)")  # fmt: skip
    assert {*first} <= {*NAMES}
    assert " looks like " in cards[0].text
    assert len(browser.all("#plot-growth-0 .scatterlayer .trace")) == 2 * len(
        cells(browser, "growth-0", 0)
    )
    ticks = browser.script("return [...document.querySelectorAll('#plot-growth-0 .xtick text')]"
                           ".map(text => text.textContent)")  # fmt: skip
    assert "50" in ticks and not [text for text in ticks if "e" in text or "k" in text]
    for selector in (".label-errors .card p", "#growth-0 td", "#growth-0 th button"):
        assert browser.contrast_of(selector) >= 4.5
    fill = "return getComputedStyle(document.querySelector('#plot-growth-0 .xtick text')).fill"
    browser.wait(lambda: (luminance(browser.script(fill)) > 0.5) == (scheme == "dark"))
    heads = browser.one("#growth-0 thead").find_elements(By.TAG_NAME, "button")
    heads[0].click()
    assert cells(browser, "growth-0", 0) == sorted(cells(browser, "growth-0", 0))


def test_the_page_of_folds_is_whole_and_loads_nothing(
    browser: Browser, future_pages: FuturePages
) -> None:
    shown(browser, future_pages.folds)
    assert browser.loaded() == [] and browser.driver.title == "1 line on 3 folds of train"
    assert len(cells(browser, "folds", 1)) == 1 and len(cells(browser, "pairs", 0)) > 0
    assert browser.all(".mistakes .card") and browser.all(".label-errors .card")
    assert min(browser.visible()) > 0


@pytest.mark.parametrize("page", ["page", "whole", "folds"])
def test_a_narrow_window_scrolls_tables_alone(
    browser: Browser, markup_shop: MarkupShop, future_pages: FuturePages, page: str
) -> None:
    with browser.narrow():
        shown(browser, markup_shop.page if page == "page" else getattr(future_pages, page))
        width = "return [document.documentElement.scrollWidth, innerWidth]"
        whole, window = browser.script(width)
        assert whole <= window == 400
        assert browser.one("#comparison .scroll").size["width"] < 400
        for plot in browser.all(".plot .main-svg:first-child"):
            assert plot.size["width"] <= 400
