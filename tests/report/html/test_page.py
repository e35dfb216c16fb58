"""The page as text: no name becomes markup, and every number is the comparison's."""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltcache.ablate import ablate, label_errors, read_folds
from ltcache.errors import IdentityError, UsageError
from ltcache.images import thumbnail_uri
from ltcache.metrics import PredictedClasses
from ltcache.report import LineLogits, MoreImages, confusions, read_runs, report
from ltcache.report.html import write_report_page
from ltcache.report.html.mistakes import worst_mistakes
from ltcache.report.html.pairs import pairs_table
from ltcache.report.html.pictures import CacheImages
from ltcache.report.html.predictions import LinePredictions, predict_lines
from ltcache.report.standing import BEST, TIED, standing, verdict
from ltcache.runs import LEFT_OUT, LabelledLogits, by_frequency, open_run
from tests.conftest import Call
from tests.report.html.conftest import COUNTS, NAMES, MarkupShop
from tests.retrieval.looks import write_pictures


class PageText(HTMLParser):
    """The tables, the figures and the elements of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.figures: dict[str, Any] = {}
        self.texts: dict[str, str] = {}
        self._table: list[list[str]] = []
        self._inside = ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = dict(attrs)
        self.elements.append((tag, own))
        if tag == "section":
            self._table = self.tables.setdefault(own.get("id") or "", [])
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append("")
            self._inside = "cell"
        elif own.get("id"):
            self._inside = own["id"] or ""

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "script", "p"):
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "cell":
            self._table[-1][-1] += data.strip()
        elif self._inside == "page":
            self.figures = json.loads(data)["figures"]
        elif self._inside:
            self.texts[self._inside] = self.texts.get(self._inside, "") + data

    def column(self, table: str, heading: str) -> list[str]:
        """Return the cells of a column."""
        at = self.tables[table][0].index(heading)
        return [row[at] for row in self.tables[table][1:]]


@pytest.fixture(scope="module")
def page(markup_shop: MarkupShop) -> PageText:
    return PageText(markup_shop.page)


@pytest.fixture(scope="module")
def results(markup_shop: MarkupShop) -> dict[str, Any]:
    return dict(json.loads((markup_shop.ablation / "results.json").read_text()))


def test_names_are_text_and_nothing_is_loaded(markup_shop: MarkupShop, page: PageText) -> None:
    assert page.column("classes", "class") == list(NAMES)
    scripts = [own for tag, own in page.elements if tag == "script"]
    assert [own for own in scripts if own.get("type") != "application/json"] == [{}, {}]
    assert not [tag for tag, _ in page.elements if tag in ("link", "iframe", "base")]
    assert not [own for _, own in page.elements if {"href", "onerror"} & {*own}]
    sources = [own["src"] or "" for _, own in page.elements if "src" in own]
    assert sources and all(text.startswith("data:image/webp;base64,") for text in sources)
    (policy,) = [own["content"] for _, own in page.elements if "http-equiv" in own]
    assert policy is not None and policy.startswith("default-src 'none'; img-src data: blob:;")
    assert page.texts["verdict"].count("mean/class") == 1


def test_the_table_and_the_curve_are_those_of_results_json(
    page: PageText, results: dict[str, Any]
) -> None:
    assert page.column("comparison", "line") == [entry["name"] for entry in results["entries"]]
    for heading, score in (("overall", "overall"), ("few", "few")):
        means = [100 * e["scores"]["test"][score]["mean"] for e in results["entries"]]
        shown = [float(cell.split(" ± ")[0]) for cell in page.column("comparison", heading)]
        assert shown == pytest.approx(means, abs=0.051)
    assert page.column("classes", "training images") == [str(count) for count in COUNTS]
    traces = {trace["name"]: trace for trace in page.figures["frequency"]["data"]}
    for entry in results["entries"]:
        accuracy = np.array(entry["per_class"]["test"], dtype=float)
        assert page.column("classes", entry["name"]) == [f"{100 * a:.1f}" for a in accuracy]
        places, means = by_frequency(COUNTS, accuracy)
        assert traces[entry["name"]]["x"] == pytest.approx(places.tolist())
        assert traces[entry["name"]]["y"] == pytest.approx((100 * means).tolist())
        assert len(traces[entry["name"]]["error_y"]["array"]) == len(places)
    axis = page.figures["frequency"]["layout"]["xaxis"]
    assert axis["type"] == "log" and {"5", "100"} <= set(axis["ticktext"])
    base, other = (np.array(e["per_class"]["test"]) for e in results["entries"][:2])
    gains = [f"{100 * gain:+.1f}" for gain in other - base]
    assert page.column("classes", "posthoc-la − ce") == gains


def test_confusions_and_calibration_are_those_of_the_runs(
    markup_shop: MarkupShop, page: PageText, results: dict[str, Any]
) -> None:
    run = open_run(markup_shop.ablation / results["entries"][0]["runs"][0])
    reading = read_runs([markup_shop.ablation], markup_shop.cache)
    (cache,) = reading.every_cache()
    scored = LabelledLogits.of(run, cache, "test")
    found = PredictedClasses.of(scored.logits, scored.labels)
    wrong = int((found.predicted != scored.labels).sum())
    assert sum(int(cell.split()[0]) for cell in page.column("pairs", "ce")) == wrong
    assert page.column("calibration", "ECE")[0] == f"{100 * run.metrics['test'].ece:.1f}"
    names = [trace["name"] for trace in page.figures["reliability"]["data"]]
    assert {"ce", "ce, scaled"} <= set(names)
    losses = [record["loss"] for record in run.history]
    assert page.figures["training"]["data"][0]["y"] == pytest.approx(losses)


def test_the_worst_mistakes_come_first_with_their_images(
    markup_shop: MarkupShop, tmp_path: Path
) -> None:
    (cache,) = (read_runs([markup_shop.ablation], markup_shop.cache)).every_cache()
    run = open_run(next(markup_shop.ablation.glob("runs/ce-*/seed-0")))
    line = LinePredictions.of("ce", LineLogits.of(run, cache, "test"))
    found = worst_mistakes(line, NAMES, CacheImages.of(cache, None)).cards
    keys = np.array(cache.manifest.rows["key"].to_pylist())[line.rows]
    wrong = line.found.predicted != line.labels
    assert {card.image.key for card in found} == set(keys[wrong])
    confidence = [card.probability for card in found]
    assert confidence == sorted(confidence, reverse=True)
    first = int(np.flatnonzero(keys == found[0].image.key)[0])
    names = NAMES[line.labels[first]], NAMES[line.found.predicted[first]]
    assert (found[0].label, found[0].other) == names
    file = markup_shop.images / f"{line.rows[first]}.png"
    assert found[0].image.picture == thumbnail_uri(file.read_bytes())
    write_pictures(tmp_path / "others", 1)
    lost = worst_mistakes(line, NAMES, CacheImages.of(cache, tmp_path / "others")).cards[0].image
    assert lost.picture is None and lost.error
    unsaid = worst_mistakes(line, NAMES, CacheImages(cache, None)).cards[0].image
    assert unsaid.error == "where the images lie was not said"


def test_a_confused_pair_has_images_of_both_classes_and_the_cosine_of_their_prompts(
    markup_shop: MarkupShop,
) -> None:
    reading = read_runs([markup_shop.ablation], markup_shop.cache)
    lines = predict_lines(reading, ["ce", "ncm"], "test").values()
    (cache,) = reading.every_cache()
    images = CacheImages.of(cache, None)
    table = pairs_table([*lines], NAMES, COUNTS.tolist(), {cache.path: images})
    labels, splits = (np.array(cache.manifest.rows[n].to_pylist()) for n in ("label", "split"))
    by_names = {(one.name, one.taken_for): one for one in confusions([markup_shop.ablation])}
    for cells in table.rows:
        true, other = NAMES.index(cells[0].text), NAMES.index(cells[2].text)
        for cell, label, split in ((cells[0], true, "test"), (cells[2], other, "train")):
            assert 0 < len(cell.images) <= 2
            for image in cell.images:
                row = int(image.key[1:])  # the key of row n is kn
                assert (labels[row], splits[row]) == (label, split)
                file = markup_shop.images / f"{row}.png"
                assert image.picture == thumbnail_uri(file.read_bytes())
        assert cells[4].value == pytest.approx(by_names[cells[0].text, cells[2].text].text_cosine)


def test_label_errors_of_folds_stand_in_a_list_and_on_the_page(
    markup_shop: MarkupShop, tmp_path: Path, call: Call
) -> None:
    folds = str(tmp_path / "folds")
    ablate(markup_shop.cache, ["ncm"], folds, seeds=1, folds=3, workers=1)
    status, shown, _ = call("report", folds, "--label-errors")
    assert status == 0 and "labels look wrong of" in shown
    page = tmp_path / "page.html"
    assert call("report", str(markup_shop.ablation), folds, "--html", str(page))[0] == 0
    text = page.read_text(encoding="utf-8")
    found = label_errors(folds)
    assert f"of {len(found.errors)} labels that look wrong among {found.images}" in text


def test_what_more_images_would_buy_stands_on_the_page(
    markup_shop: MarkupShop, tmp_path: Path, call: Call
) -> None:
    more, page = tmp_path / "more", tmp_path / "page.html"
    few = ("--method", "ncm", "--out", more, "--rows", "0.3,0.6,1", "--seeds", "2")
    status, shown, _ = call("more-images", markup_shop.cache, *few)
    assert status == 0 and "foretold by a power law" in shown and "x 4" in shown
    assert call("report", markup_shop.ablation, more, "--html", page)[0] == 0
    assert "What would more images buy" in page.read_text(encoding="utf-8")
    found, shown = MoreImages.read(more), PageText(page)
    traces = {trace["name"]: trace for trace in shown.figures["growth-0"]["data"]}
    assert shown.column("growth-0", "error, %") == [growth.group for growth in found.groups]
    for growth in found.groups:
        assert traces[growth.group]["x"] == pytest.approx(growth.images)
        assert traces[growth.group]["y"] == pytest.approx(100 * np.mean(growth.errors, axis=0))
        (told,) = growth.foretold(4 * growth.images[-1])
        curve = traces[f"{growth.group}, foretold"]
        assert (curve["x"][-1], curve["y"][-1]) == pytest.approx((told.images, 100 * told.error))
        ends = curve["y"][-1] - curve["error_y"]["arrayminus"][-1], curve["error_y"]["array"][-1]
        assert ends == pytest.approx((100 * told.low, 100 * (told.high - told.error)))
    status, _, said = call("report", more, "--html", page)
    assert status == 2 and "runs that are scored on a split, or of one ablation on folds" in said


def test_an_ablation_on_folds_has_a_page_of_the_images_left_out(
    markup_shop: MarkupShop, tmp_path: Path, call: Call
) -> None:
    folds, out = tmp_path / "folds", tmp_path / "page.html"
    short = {"optimisation.epochs": 3}
    made = ablate(
        markup_shop.cache, ["ce", "ncm"], folds, seeds=2, folds=3, overrides=short, workers=1
    )
    assert call("report", folds, "--html", out)[0] == 0
    page, split = PageText(out), "3 folds of train"
    first = made.comparison["entries"][0]
    low, high = first["interval"][split]
    intervals = page.column("comparison", "95 % of mean/class")
    assert intervals[0] == f"{100 * low:.1f}–{100 * high:.1f}"
    assert page.column("folds", "fold 2")[0] == f"{100 * first['by_fold'][1]:.1f}"
    accuracy = [100 * value for value in first["per_class"][split]]
    assert page.column("classes", "ce") == [f"{value:.1f}" for value in accuracy]
    reading = read_folds(folds)
    logits = reading.logits_of("ce", split).scored
    wrong = int((logits.logits.argmax(axis=1) != logits.labels).sum())
    assert wrong and sum(int(cell.split()[0]) for cell in page.column("pairs", "ce")) == wrong
    # each image is judged by the run that has not seen it
    for number, cache in enumerate(reading.parts.left_out):
        run = open_run(folds / first["runs"][0] / f"fold-{number + 1}")
        keys = cache.column("key", LEFT_OUT).tolist()
        rows = np.isin(np.array(cache.manifest.rows["key"].to_pylist()), keys)
        mine = np.isin(reading.parts.left_out_rows, np.flatnonzero(rows))
        own = LabelledLogits.of(run, cache, LEFT_OUT)
        assert np.array_equal(logits.logits[mine], own.logits)
    assert "ce, scaled" in {trace["name"] for trace in page.figures["reliability"]["data"]}
    assert f"labels that look wrong among {len(logits.labels)}" in out.read_text(encoding="utf-8")
    assert report([folds])["entries"] == json.loads((folds / "results.json").read_text())["entries"]
    status, _, said = call("report", folds, "--html", out, "--split", "test")
    assert status == 2 and f"no scores on split 'test' in common; known: {split}" in said


def test_best_and_what_cannot_be_told_from_it() -> None:
    def entry(name: str, mean: float, high: float | None) -> dict[str, Any]:
        difference = None if high is None else {"high": high}
        score = {"mean_per_class": {"mean": mean}}
        return {"name": name, "scores": {"test": score}, "behind_best": {"test": difference}}

    entries = [entry("a", 0.5, None), entry("b", 0.4, -0.01), entry("c", 0.45, 0.02)]
    found = {"baseline": "a", "statistic": "mean_per_class", "entries": entries}
    assert standing(found, "test") == {"a": BEST, "b": "", "c": TIED}
    told = verdict(found, "test")
    assert told.startswith("a has the highest mean/class of these 3 on test (50.0 %)")
    assert "it can be told from b; it cannot be told from c (95 %" in told
    unknown = {**found, "entries": [entries[0], entry("b", 0.4, None)]}
    assert "without the cache of the runs about b" in verdict(unknown, "test")
    assert "nothing to tell it from" in verdict({**found, "entries": entries[:1]}, "test")


def test_without_the_cache_the_page_says_what_it_lacks(
    markup_shop: MarkupShop, tmp_path: Path, call: Call
) -> None:
    moved = tmp_path / "moved"
    markup_shop.ablation.rename(moved)
    try:
        out = tmp_path / "page.html"
        status, _, err = call("report", moved, "--html", out)
        assert status == 0 and f"{out}: " in err
        lacking = PageText(out)
        assert "pairs" not in lacking.tables and "reliability" not in lacking.figures
        assert "without the cache of the runs" in lacking.texts["verdict"]
        assert "--cache says where it is" in out.read_text(encoding="utf-8")
        call("report", moved, "--html", out, "--cache", markup_shop.cache)
        assert "pairs" in PageText(out).tables
    finally:
        moved.rename(markup_shop.ablation)


def test_another_cache_is_refused(
    markup_shop: MarkupShop, tmp_path: Path, results: dict[str, Any]
) -> None:
    from tests.cli.small_caches import write_cache

    other = write_cache(tmp_path / "other", {"train": [5] * 4, "val": [2] * 4, "test": [2] * 4})
    with pytest.raises(IdentityError):
        report([markup_shop.ablation], cache=other)
    found = report([markup_shop.ablation], cache=markup_shop.cache)
    difference = results["entries"][1]["difference"]
    assert found["entries"][1]["difference"] == difference and difference["test"] is not None


def test_a_split_without_scores_and_a_missing_plotly_are_refused(
    markup_shop: MarkupShop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = read_runs([markup_shop.ablation])
    with pytest.raises(UsageError, match=r"'train' in common; known: val, test"):
        write_report_page(reading, tmp_path / "page.html", split="train")
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(UsageError, match=r"Plotly.*pip install '\.\[report\]'.*leave --html out"):
        write_report_page(reading, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
