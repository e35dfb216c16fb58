"""Pages as a person uses them, in headless Chromium, opened from disk.

Needs Debian's chromium and chromium-driver; :func:`programs` decides what happens without them.
A test takes the fixture ``browser``, which fails it where the console says anything.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import SessionNotCreatedException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.conftest import PATIENCE

PACKAGES = {"chromium": "chromium", "chromedriver": "chromium-driver"}
"""Program -> Debian's package of it."""
ARGUMENTS = (
    "--headless=new",
    "--window-size=1300,900",
    # a container has no user namespaces for the sandbox and a small /dev/shm, which end a tab
    "--no-sandbox",
    "--disable-dev-shm-usage",
    # fewer processes that a small machine has to keep: pages are drawn by the CPU all the same
    "--disable-gpu",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)
REQUIRED = "LTCACHE_REQUIRE_BROWSER"
"""Set to 1, as ``.ci/run`` does, a missing browser fails these tests."""


def programs() -> dict[str, str]:
    """Return where the browser and its driver are; without them skip, or fail where asked to."""
    found = {name: shutil.which(name) for name in PACKAGES}
    if missing := [name for name, place in found.items() if place is None]:
        packages = ", ".join(PACKAGES[name] for name in missing)
        reason = f"no {' and no '.join(missing)}: tests of pages need Debian's {packages}"
        (pytest.fail if os.environ.get(REQUIRED) == "1" else pytest.skip)(reason)
    return {name: str(place) for name, place in found.items()}


class Browser:
    """One page in Chromium, and a folder for what it saves."""

    def __init__(self, folder: Path, places: dict[str, str]) -> None:
        self.folder = folder
        options = webdriver.ChromeOptions()
        options.binary_location = places["chromium"]
        for argument in ARGUMENTS:
            options.add_argument(argument)
        options.add_experimental_option(
            "prefs", {"download.default_directory": str(folder), "download.prompt_for_download": 0}
        )
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = started(options, places["chromedriver"])
        self.driver.set_script_timeout(PATIENCE)
        self.driver.set_page_load_timeout(PATIENCE)

    def open(self, page: Path) -> None:
        """Open a page without any decision."""
        self.driver.get(page.resolve().as_uri())
        self.driver.execute_script("localStorage.clear()")
        self.reload()

    def reload(self) -> None:
        self.driver.refresh()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def all(self, selector: str) -> list[WebElement]:
        return list(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def one(self, selector: str) -> WebElement:
        (found,) = self.all(selector)
        return found

    def text(self, selector: str) -> str:
        return str(self.driver.execute_script(
            "return document.querySelector(arguments[0]).textContent", selector))  # fmt: skip

    def script(self, text: str, *arguments: Any) -> Any:
        return self.driver.execute_script(text, *arguments)

    def wait(self, condition: Callable[[], Any]) -> Any:
        return WebDriverWait(self.driver, PATIENCE, 0.05).until(lambda _: condition())

    def focused(self) -> str:
        """Return the key of the candidate in focus."""
        return str(self.script("return document.activeElement.dataset.key"))

    def verdict(self, key: str) -> str:
        card = self.script(
            "return [...document.querySelectorAll('.card')].find(c => c.dataset.key === "
            "arguments[0]).dataset.verdict", key)  # fmt: skip
        return str(card)

    def visible(self) -> list[int]:
        """Return the natural width of every picture on the page, once each is decoded."""
        widths: list[int] = self.driver.execute_async_script(
            "const done = arguments[0], all = [...document.images];"
            "Promise.all(all.map(i => i.decode().catch(() => 0)))"
            ".then(() => done(all.map(i => i.naturalWidth)))"
        )
        return widths

    def scheme(self, name: str) -> None:
        """Take the light or the dark colours."""
        feature = {"name": "prefers-color-scheme", "value": name}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    @contextmanager
    def narrow(self, width: int = 400) -> Iterator[None]:
        """Be a phone that is held upright."""
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def contrast_of(self, selector: str) -> float:
        """Return the contrast of an element's text to what is behind it (WCAG 2.1)."""
        front, back = self.script(
            "let node = document.querySelector(arguments[0]);"
            "const front = getComputedStyle(node).color;"
            "const clear = 'rgba(0, 0, 0, 0)';"
            "while (getComputedStyle(node).backgroundColor === clear) node = node.parentElement;"
            "return [front, getComputedStyle(node).backgroundColor]", selector)  # fmt: skip
        low, high = sorted([luminance(front), luminance(back)])
        return (high + 0.05) / (low + 0.05)

    def loaded(self) -> list[str]:
        """Return what was loaded from anywhere but the page itself."""
        names = self.script("return performance.getEntriesByType('resource').map(e => e.name)")
        return [name for name in names if not name.startswith(("data:", "blob:"))]

    def complaints(self) -> list[str]:
        """Return what the console says, such as a violation of the security policy."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser")]

    def saved(self) -> Path:
        """Press Export and return the file."""
        self.one("#export").click()
        self.wait(lambda: [*self.folder.glob("decisions-*.json")])
        (path,) = self.folder.glob("decisions-*.json")
        return path


def luminance(colour: str) -> float:
    """Return the relative luminance of ``rgb(r, g, b)`` (WCAG 2.1)."""
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def started(options: webdriver.ChromeOptions, driver: str) -> webdriver.Chrome:
    """Start the browser; again where it took longer than the minute that its driver waits."""
    for _ in range(4):
        try:
            return webdriver.Chrome(options, Service(driver))
        except SessionNotCreatedException:
            continue
    return webdriver.Chrome(options, Service(driver))
