"""Pages of a cache's images, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ltcache.browse import MAPPED, browse_cache
from ltcache.cache import open_cache
from tests.conftest import Call
from tests.report.html.conftest import write_named_cache
from tests.retrieval.conftest import CLASSES, World
from tests.retrieval.looks import write_pictures

COUNTS = np.array([9, 3, 1])


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return write_named_cache(tmp_path / "cache", COUNTS, ("fox", "jay", "moth"), 1)


def header(page: Path) -> dict[str, Any]:
    """Return the data of a page."""
    text = page.read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text.split('id="page">')[1].split("</script>")[0])
    return found


def test_images_that_are_gone_are_counted_and_found_by_root(
    call: Call, cache: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    status, out, err = call("browse", cache, "--html", page)
    assert (status, out) == (0, "")
    told = "warning: 19 images not shown: the place of the images was not said: --root says"
    assert told in err
    photos = tmp_path / "photos"
    write_pictures(photos, 19)
    status, out, err = call("browse", cache, "--html", page, "--root", photos, "--json")
    assert status == 0 and "warning" not in err
    assert json.loads(out)["images"] == 19
    (cache / "root.json").write_text(json.dumps({"root": [str(tmp_path / "moved")]}))
    assert "moved) is gone: --root says where they are" in call("browse", cache, "--html", page)[2]


def test_a_bounded_page_takes_of_each_class_alike_and_says_so(cache: Path, tmp_path: Path) -> None:
    opened = open_cache(cache)
    browse_cache(opened, tmp_path / "page.html", split="train", most=6)
    found = header(tmp_path / "page.html")
    names = [item["facts"]["class"] for item in found["items"]]
    assert [names.count(name) for name in ("fox", "jay", "moth")] == [3, 2, 1]
    assert found["about"][0] == "6 of 13 images that were asked for, of photos."
    again = tmp_path / "again.html"
    browse_cache(opened, again, split="train", most=6)
    assert header(again) == found


def test_images_without_features_are_counted_among_those_asked_for(
    cache: Path, tmp_path: Path
) -> None:
    whole, page = open_cache(cache), tmp_path / "page.html"
    table = whole.manifest.rows
    status = np.array(table["status"].to_pylist(), dtype=object)
    status[whole.rows("train")[[0, 1, 9]]] = "failed"  # two foxes and a jay
    place = table.column_names.index("status")
    some = whole.with_rows(table.set_column(place, "status", pa.array(status, pa.string())))

    def told(**asked: Any) -> list[str]:
        browse_cache(some, page, **asked)
        return [text for text in header(page)["about"] if "no features" in text]

    assert told() == ["3 more have no features, so that they are not here."]
    assert told(split="train", classes=["fox"])[0].startswith("2 more have no")
    assert not told(split="test") and not told(classes=["moth"])


def test_the_map_is_bounded_and_says_so(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAPPED == 1000
    monkeypatch.setattr("ltcache.browse.MAPPED", 8)
    browse_cache(open_cache(cache), tmp_path / "page.html")
    found = header(tmp_path / "page.html")
    points = [item["point"] for item in found["items"] if item["point"]]
    assert len(points) == 8
    assert "of 8 images chosen at random." in found["about"][1]
    browse_cache(open_cache(cache), tmp_path / "page.html", classes=["moth"])
    assert "3 images cannot be arranged" in str(header(tmp_path / "page.html")["about"])


def test_what_is_not_there_is_refused(call: Call, cache: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    for words, told in (
        (("--class", "mooth"), "did you mean 'moth'?"),
        (("--split", "dev"), "dev"),
        (("--root", tmp_path / "nowhere"), "nowhere"),
    ):
        status, out, err = call("browse", cache, "--html", page, *words)
        assert (status != 0, out) == (True, "") and told in err
    assert not page.exists()


def test_a_search_is_a_page_with_its_images(call: Call, few_images: Path, tmp_path: Path) -> None:
    cache, page = tmp_path / "cache", tmp_path / "found.html"
    assert call("extract", few_images, "--out", cache)[0] == 0
    image = next(few_images.rglob("*.png"))
    query = ("search", cache, "--text", "moth", "--image", image, "--top", 3)
    status, out, err = call(*query, "--json", "--html", page)
    assert (status, out) == (0, call(*query, "--json")[1])
    assert "6 images" in err and "not shown" not in err
    found = header(page)
    assert [item["key"] for item in found["items"]] == [hit["key"] for hit in json.loads(out)]
    assert all("data" in picture for picture in found["images"])


def test_a_pool_without_labels_has_a_page_but_no_predictions(
    call: Call, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "world").mkdir()
    world = World(tmp_path / "world")
    pool = world.pool(world.labelled(), np.arange(CLASSES)).path
    status, _, err = call("browse", pool, "--html", tmp_path / "page.html")
    assert status == 0, err
    found = header(tmp_path / "page.html")
    assert {item["facts"]["class"] for item in found["items"]} == {"unlabelled"}
    run = tmp_path / "run"
    assert call("fit-adapter", cache, "--method", "ncm", "--out", run)[0] == 0
    status, _, err = call("browse", pool, "--run", run, "--html", tmp_path / "page.html")
    assert status == 2 and "no image there has a label" in err and "ltcache predict" in err
