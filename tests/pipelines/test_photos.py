"""The comparison on photographs: from a folder of its shape to tables and ranks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines import photos
from pipelines.method_ranks import critical_difference, rank_cells, ranked
from pipelines.set_scores import SetScores, keep_scores, read_scores, write_scores


def _features(counts: tuple[int, ...], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(len(counts)), counts)
    features = np.eye(8)[labels] + 0.4 * rng.standard_normal((len(labels), 8))
    return features.astype(np.float16), labels


def _write(path: Path, **splits: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, counts in splits.items():
        arrays[f"{split}_features"], arrays[f"{split}_labels"] = _features(counts, rng)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def test_sets_without_validation_images_are_tuned_by_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(tmp_path / "clip/caltech101_lt.npz", train=(30, 12, 6), val=(6, 6, 6), test=(9, 9, 9))
    _write(tmp_path / "clip/fgvc_lt.npz", train=(24, 12, 6), test=(9, 9, 9))
    out = tmp_path / "out"
    line = ["photos", "--data", str(tmp_path), "--out", str(out), "--seeds", "2", "--trials", "2",
            "--sets", "caltech101_lt,fgvc_lt", "--methods", "ce,ncm,zero-shot",
            "--workers", "1"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", line)
    photos.main()
    printed = capsys.readouterr().out
    assert "3 folds of train" in printed.split("## fgvc_lt")[1].split("| method")[0]
    assert "3 folds of train" not in printed.split("## fgvc_lt")[0]
    assert "did not run: zero-shot" in printed and "2 methods on 2 sets" in printed
    found = read_scores(out / "scores.csv")["fgvc_lt"]
    assert (found.images, found.texts) == (42, False)
    scores = found.scores["mean_per_class"]
    assert set(scores) == {"ce", "ncm"} and min(scores.values()) > 0.5
    assert "with texts" not in printed and "below 1,000 images: 2 methods" in printed
    before = sorted(path.stat().st_mtime_ns for path in out.rglob("head.safetensors"))
    line[line.index("caltech101_lt,fgvc_lt")] = "fgvc_lt"  # the scores of the other set are kept
    photos.main()
    assert "2 methods on 2 sets" in capsys.readouterr().out
    assert before == sorted(path.stat().st_mtime_ns for path in out.rglob("head.safetensors"))


def test_a_set_on_which_no_method_runs_and_sets_without_common_methods_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(tmp_path / "clip/fgvc_lt.npz", train=(24, 12, 6), val=(6, 6, 6), test=(9, 9, 9))
    _write(tmp_path / "clip/caltech101_lt.npz", train=(24, 12, 6), val=(6, 6, 6), test=(9, 9, 9))
    kept = {"other": SetScores(42, True, {"mean_per_class": {"ncm": 0.5, "gda": 0.4}})}
    write_scores(tmp_path / "kept.csv", kept)
    line = ["photos", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--seeds", "1",
            "--trials", "1", "--workers", "1", "--scores", str(tmp_path / "kept.csv")]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [*line, "--sets", "fgvc_lt", "--methods", "zero-shot"])
    photos.main()
    assert "needs class texts" in capsys.readouterr().out.split("## fgvc_lt")[1]
    assert not (tmp_path / "out" / "scores.csv").exists()
    monkeypatch.setattr(sys, "argv", [*line, "--sets", "caltech101_lt", "--methods", "ce"])
    photos.main()
    printed = capsys.readouterr().out
    assert "no ranks: the 2 sets have less than two methods in common" in printed
    assert "mean rank" not in printed


def test_scores_that_were_written_are_read_and_join_the_ranks(tmp_path: Path) -> None:
    one = SetScores(42, True, {"mean_per_class": {"ce": 0.5, "ncm": 0.25}})
    few = {"mean_per_class": {"ce": 0.75}, "few": {"ce": 0.1234}}
    sets = {"one": one, "two": SetScores(7, False, few)}
    write_scores(tmp_path / "scores.csv", sets)
    assert read_scores(tmp_path / "scores.csv") == sets
    keep_scores(tmp_path / "scores.csv", "two", one)
    assert read_scores(tmp_path / "scores.csv") == {"one": one, "two": one}
    keep_scores(tmp_path / "new.csv", "one", one)
    assert read_scores(tmp_path / "new.csv") == {"one": one}


def test_an_unknown_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["photos", "--data", str(tmp_path), "--sets", "cars"])
    with pytest.raises(SystemExit, match="no such set: cars; known: caltech101_lt"):
        photos.main()


def test_ranks_are_means_over_sets_and_ties_share_theirs() -> None:
    scores = {
        "one": {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.1},
        "two": {"a": 0.5, "b": 0.5, "c": 0.4},
        "three": {"a": 0.6, "b": 0.3, "c": 0.7},
    }
    found = ranked(scores)
    assert found.ranks == pytest.approx({"a": (1 + 1.5 + 2) / 3, "b": 6.5 / 3, "c": 7 / 3})
    assert list(found.ranks) == ["a", "b", "c"] and found.left_out == ("d",) and found.sets == 3
    assert "not on every set: d" in found.sentence()
    assert found.p is not None and 0 < found.p <= 1
    with pytest.raises(ValueError, match="at least 2 each"):
        ranked({"one": {"a": 1.0, "b": 0.0}})


def test_a_table_of_ranks_stars_what_cannot_be_told_from_the_best() -> None:
    sets = {str(n): {"a": 0.9, "b": 0.8 + 0.3 * (n % 2), "c": 0.1} for n in range(20)}
    fewer = {"0": {"a": 0.5, "c": 0.6}, "1": {"a": 0.1, "c": 0.3}}
    heading, rows = rank_cells({"all": ranked(sets), "some": ranked(fewer)})
    assert heading == ["mean rank", "all", "some"]
    assert rows[:3] == [["a", "1.5*", "2.0*"], ["b", "1.5*", "-"], ["c", "3.0", "1.0*"]]
    assert rows[3][0] == "critical difference"


def test_sets_are_collected_by_texts_and_size() -> None:
    def of(images: int, texts: bool, **more: dict[str, float]) -> SetScores:
        return SetScores(images, texts, {"mean_per_class": {"a": 0.5, "b": 0.4}, **more})

    sets = {
        "one": of(10, True, few={"a": 0.1, "b": 0.2}),
        "two": of(10, False),
        "three": of(5000, True),
    }
    found = photos.collected(sets)
    assert {title: ranks.sets for title, ranks in found.items()} == {
        "mean_per_class": 3, "with texts": 2, "below 1,000 images": 2,
    }  # fmt: skip


def test_the_critical_difference_is_that_of_published_tables() -> None:
    """q at 5 % is 2.343 for 3 and 3.164 for 10 methods (Demsar, 2006, table 5)."""
    for methods, q in ((3, 2.343), (10, 3.164)):
        expected = q * np.sqrt(methods * (methods + 1) / (6 * 14))
        assert critical_difference(methods, 14) == pytest.approx(expected, rel=1e-3)
