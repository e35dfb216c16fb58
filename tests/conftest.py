"""Fixtures that several parts of the tests share: small images, a tiny encoder, a small cache."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# of the processes that tests start, too: several spinning threads on a busy machine only wait
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.class_folders import write_images

if TYPE_CHECKING:
    from tests.browser import Browser

PATIENCE = 1800.0
"""Seconds after which a wait counts as a hang. Every limit in the tests is this one: however slow
the machine is, no test fails because of it."""

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# the tests' tensors are small: a second thread only waits, and on a busy machine for long
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let coverage leave out what is slow: following each line doubles the time of plain Python."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker("no_cover")


@pytest.fixture(scope="session")
def folder_of_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 120 images in four classes."""
    counts = {"red fox": 70, "blue jay": 30, "moth": 15, "newt": 5}
    return write_images(tmp_path_factory.mktemp("images"), counts)


@pytest.fixture(scope="session")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 20 images in two classes: two shards of twelve."""
    return write_images(tmp_path_factory.mktemp("few"), {"red fox": 14, "moth": 6})


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a dual encoder that loads in well under a second."""
    from tests.encoder.tiny_models import write_tiny_clip

    return write_tiny_clip(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session", autouse=True)
def _undrawn() -> Iterator[None]:
    """Let comparisons write empty files in place of plots, which take a second or two to draw.

    A test that wants the plot asks for :func:`drawn`; ``tests/report`` tests what is drawn.
    """
    with pytest.MonkeyPatch.context() as patch:
        if "ltcache.ablate" in sys.modules:  # else not worth its import
            patch.setattr("ltcache.ablate.ablation.plot_by_frequency", _write_empty_plots)
        yield


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let comparisons of a test draw their plots."""
    from ltcache.report import plot_by_frequency

    monkeypatch.setattr("ltcache.ablate.ablation.plot_by_frequency", plot_by_frequency)


def _write_empty_plots(comparison: object, out: Path, split: str = "test") -> None:
    for ending in ("png", "svg"):
        (out / f"accuracy_by_frequency.{ending}").write_bytes(b"")


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs a command as typed and gives status, stdout and stderr."""
    from ltcache.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(caught.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Return a browser that several tests share: take :func:`browser`."""
    from tests.browser import Browser, programs

    found = Browser(tmp_path_factory.mktemp("downloads"), programs())
    yield found
    found.driver.quit()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """Return a browser with an empty folder of downloads; its console has to stay silent."""
    for path in chromium.folder.iterdir():
        path.unlink()
    chromium.complaints()
    yield chromium
    assert chromium.complaints() == []
