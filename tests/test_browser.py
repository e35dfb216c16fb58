"""What happens to tests of pages where there is no browser."""

from __future__ import annotations

import shutil

import pytest

from tests.browser import REQUIRED, programs


def test_a_missing_browser_skips_with_the_names_of_its_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv(REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="Debian's chromium, chromium-driver"):
        programs()
    monkeypatch.setenv(REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match="no chromium and no chromedriver"):
        programs()
