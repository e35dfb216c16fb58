"""The page as a person uses it, in headless Chromium, opened from disk."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.by import By

from tests.browser import Browser, luminance
from tests.report.html.conftest import NAMES, MarkupShop


def cells(browser: Browser, table: str, column: int) -> list[str]:
    """Return the texts of a column, of the rows that are visible."""
    found = browser.script(
        "return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)].filter(r => !r.hidden)"
        ".map(r => r.cells[arguments[1]].textContent)", table, column)  # fmt: skip
    return [str(text) for text in found]


def opened(browser: Browser, shop: MarkupShop) -> None:
    """Open the page and wait for its figures."""
    browser.open(shop.page)
    browser.wait(lambda: len(browser.all(".plot .main-svg")) >= 3)


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


def test_a_narrow_window_scrolls_tables_alone(browser: Browser, markup_shop: MarkupShop) -> None:
    narrow = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
    try:
        opened(browser, markup_shop)
        width = "return [document.documentElement.scrollWidth, innerWidth]"
        whole, window = browser.script(width)
        assert whole <= window == 400
        assert browser.one("#comparison .scroll").size["width"] < 400
        assert browser.one("#plot-frequency .main-svg:first-child").size["width"] <= 400
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
