"""Templates and class sentences from files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ltcache.errors import UsageError
from ltcache.texts.adding import read_sentences
from ltcache.texts.sentences import class_sentences, fill, read_class_sentences, read_templates

NAMES = ("cat", "dog", "missile", "missile", "hot_dog")


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("template", ["a {}.", "a {c}.", "a {classname}."])
def test_placeholders(template: str) -> None:
    assert fill(template, "hot_dog") == "a hot dog."


def test_a_name_is_never_read_as_a_pattern() -> None:
    assert fill("{} and {c}", r"\1 {c}") == r"\1 {c} and \1 {c}"
    assert fill("{other} {}", "x") == "{other} x"


def test_class_sentences() -> None:
    assert class_sentences(["a {}.", "the {c}"], ["x", "y"]) == [
        ["a x.", "the x"],
        ["a y.", "the y"],
    ]
    found = class_sentences(["a {}."], ["x", "y", "z"], {1: ("it barks", "a {}!"), 2: ()})
    assert found == [["a x."], ["it barks", "a y!"], ["a z."]]
    assert class_sentences([], ["x"], {0: ["only this"]}) == [["only this"]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((["no place"], ["x"]), "'no place' has no place"),
        (([], ["x"]), "no templates"),
        ((["{}"], ["x"], {1: ["a"]}), "label 1, but there are 1 classes"),
    ],
)
def test_class_sentences_refused(arguments: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        class_sentences(*arguments)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.txt", "a {}.\n\n# a comment\n  the {c} \r\n"),
        ("t.txt", "\ufeffa {}.\nthe {c}"),
        ("t", "a {}.\nthe {c}"),
        ("t.json", ["a {}.", "the {c}"]),
        ("t.json", {"imagenet": ["a {}.", "the {c}"]}),
    ],
)
def test_read_templates(name: str, content: Any, tmp_path: Path) -> None:
    assert read_templates(write(tmp_path / name, content)) == ("a {}.", "the {c}")


def test_read_templates_of_one_dataset(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", {"cars": ["a {}."], "pets": ["the {}"]})
    assert read_templates(path, "pets") == ("the {}",)
    with pytest.raises(UsageError, match="templates of cars, pets; name one"):
        read_templates(path)
    with pytest.raises(UsageError, match="no templates of 'x', only of cars, pets"):
        read_templates(path, "x")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.txt", "a {}.\n\nno place", "t.txt, line 3: 'no place' has no place"),
        ("t.json", ["a {}.", "none"], "t.json, entry 2: 'none' has no place"),
        ("t.json", ["a {}.", 3], "t.json, entry 2: 3 has no place"),
        ("t.json", "[\n{", "t.json, line 2: not JSON"),
        ("t.json", "3", "neither a list"),
        ("t.json", {"a": "x"}, "neither a list"),
        ("t.json", [], "no templates"),
        ("t.txt", "# only a comment", "no templates"),
    ],
)
def test_read_templates_refused(name: str, content: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        read_templates(write(tmp_path / name, content))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"x.txt: No such file"):
        read_templates(tmp_path / "x.txt")
    (tmp_path / "t.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_templates(tmp_path / "t.txt")


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_sentences_per_class_are_known_with_a_byte_order_mark_too(
    mark: str, tmp_path: Path
) -> None:
    path = tmp_path / "s.JSON"
    path.write_text(f'{mark}{{"fox": ["a red {{}}"], "owl": ["at night"]}}', encoding="utf-8")
    cache = SimpleNamespace(classes=SimpleNamespace(names=("fox", "owl")), path=tmp_path)
    assert read_sentences(cache, path) == [["a red fox"], ["at night"]]  # type: ignore[arg-type]
    path.write_text(f'{mark}["a photo of {{}}"]', encoding="utf-8")
    assert read_sentences(cache, path)[0] == ["a photo of fox"]  # type: ignore[arg-type]


def test_read_class_sentences_by_label_and_by_name(tmp_path: Path) -> None:
    by_label = {str(label): [f"sentence {label} "] for label in range(5)}
    expected = {label: (f"sentence {label}",) for label in range(5)}
    assert read_class_sentences(write(tmp_path / "s.json", by_label), NAMES) == expected
    names = ["cat", "Dog", "hot dog"]  # case and underscores are forgiven
    content = {name: [f"of {name}"] for name in names}
    found = read_class_sentences(write(tmp_path / "n.json", content), ("cat", "dog", "hot_dog"))
    assert found == {0: ("of cat",), 1: ("of Dog",), 2: ("of hot dog",)}


def test_names_that_are_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "s.json", {"0": ["zero"], "1": ["one"]})
    assert read_class_sentences(path, ("0", "1"))[1] == ("one",)
    with pytest.raises(UsageError, match="labels and names of other classes"):
        read_class_sentences(path, ("1", "0"))
    years = write(tmp_path / "y.json", {"1999": ["a"], "2000": ["b"]})
    assert read_class_sentences(years, ("2000", "1999")) == {0: ("b",), 1: ("a",)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"cat": ["a"], "missile": ["b"]}, r"'missile' belongs to the classes 2, 3; key .* labels"),
        ('{"cat": ["a"], "cat": ["b"]}', "'cat' is there twice"),
        ({"0": ["a"], "00": ["b"]}, "a label is there twice"),
        ({"hot dog": ["a"], "Hot_Dog": ["b"]}, r"'hot dog' and 'Hot_Dog' are both class 4 \(hot_d"),
        ({"cta": ["a"]}, "no class is named 'cta'; did you mean 'cat'?"),
        ({"zebra": ["a"]}, "no class is named 'zebra'$"),
        ({"7": ["a"]}, "label 7, but there are 5 classes"),
        ({"0": ["a"], "2": ["a"]}, r"no sentences for 1 \(dog\), 3 \(missile\), 4 \(hot_dog\)"),
        ({"0": []}, "'0' has no list of sentences"),
        ({"0": ["a", " "]}, "'0' has no list of sentences"),
        ({"0": "a"}, "'0' has no list of sentences"),
        ({}, "not an object"),
        (["a"], "not an object"),
        ("{", "not JSON"),
    ],
)
def test_read_class_sentences_refused(content: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        read_class_sentences(write(tmp_path / "s.json", content), NAMES)
