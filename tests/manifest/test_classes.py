"""Class lists: every published form of names, and what is wrong with them said by line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltcache.errors import ManifestError
from ltcache.manifest import ClassList, read_classes, readable_name
from ltcache.manifest.text import natural_key
from tests.manifest.helpers import write


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("apartment_building-outdoor", "apartment building outdoor"),
        ("underwater-ocean_deep", "underwater ocean deep"),
        ("t-shirt", "t-shirt"),
        ("great  white_shark ", "great white shark"),
        ("_", "_"),
    ],
)
def test_readable_name(raw: str, words: str) -> None:
    assert readable_name(raw) == words


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_readable_name_is_idempotent(raw: str) -> None:
    once = readable_name(raw)
    assert once and readable_name(once) == once


@given(st.lists(st.integers(0, 10**12), unique=True))
def test_numbers_sort_by_value(numbers: list[int]) -> None:
    texts = sorted(map(str, numbers), key=natural_key)
    assert texts == [str(number) for number in sorted(numbers)]


@given(st.lists(st.text(), unique=True))
def test_natural_order_is_total(texts: list[str]) -> None:
    once = sorted(texts, key=natural_key)
    backwards = texts[::-1]
    assert sorted(backwards, key=natural_key) == once


@pytest.mark.parametrize(
    ("name", "content", "names", "ids"),
    [
        ("names.txt", "great white shark\ntench\n", ["great white shark", "tench"], None),
        (
            "wordnet.txt",
            "n01440764 tench\nn01484850 great white shark\n",
            ["tench", "great white shark"],
            ["n01440764", "n01484850"],
        ),
        (
            "places.txt",
            "airfield airfield\nbazaar-indoor bazaar-indoor\n",
            ["airfield", "bazaar indoor"],
            ["airfield", "bazaar-indoor"],
        ),
        ("tabs.txt", "a b\tred fox\nc\tcrow\n", ["red fox", "crow"], ["a b", "c"]),
        ("numbers.txt", "0 red fox\n1 crow\n", ["red fox", "crow"], ["0", "1"]),
        ("from_one.txt", "1 001.Crow\n2 002.Gull\n", ["001.Crow", "002.Gull"], ["1", "2"]),
        ("latin.txt", "Vulpes vulpes\nCorvus corax\n", ["Vulpes vulpes", "Corvus corax"], None),
        ("classes.csv", 'label,name\n0,"fox, red"\n1,crow\n', ["fox, red", "crow"], [None, None]),
        (
            "bom.csv",
            "\ufefflabel,name,source_id\r\n0,fox,f\r\n1,crow,\r\n",
            ["fox", "crow"],
            ["f", None],
        ),
        ("list.json", '["red_fox", "crow"]', ["red fox", "crow"], [None, None]),
        ("named.json", '{"birds": ["gull", "crow"]}', ["gull", "crow"], [None, None]),
        (
            "index.json",
            '{"1": ["n2", "crow"], "0": ["n1", "fox"]}',
            ["fox", "crow"],
            ["n1", "n2"],
        ),
    ],
)
def test_published_forms(
    tmp_path: Path, name: str, content: str, names: list[str], ids: list[str] | None
) -> None:
    classes = read_classes(write(tmp_path / name, content))
    assert list(classes.names) == names
    expected = [line.strip() for line in content.splitlines()] if ids is None else ids
    assert list(classes.source_ids) == expected


def test_folders_tell_ids_from_names(tmp_path: Path) -> None:
    path = write(tmp_path / "names.txt", "red fox\nblack crow\n")
    assert read_classes(path).names == ("red fox", "black crow")
    assert read_classes(path, folders={"red", "black"}).names == ("fox", "crow")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", "red_fox 0\ncrow 1\n"),
        ("classes.txt", "red_fox\t1\ncrow\t2\n"),
        ("class_to_idx.json", '{"crow": 1, "red_fox": 0}'),
    ],
)
def test_labels_behind_names_are_no_names(tmp_path: Path, name: str, content: str) -> None:
    path = write(tmp_path / name, content)
    classes = read_classes(path, folders={"red_fox", "crow"})
    assert (classes.names, classes.source_ids) == (("red fox", "crow"), ("red_fox", "crow"))


def test_labels_behind_names_are_in_order(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="line 1: label 1 where 0 is due; sort the classes"):
        read_classes(write(tmp_path / "classes.txt", "crow 1\nred_fox 0\n"))
    numbered = write(tmp_path / "classnames.txt", "class 0\nclass 1\n")
    assert read_classes(numbered).names == ("class 0", "class 1")


def test_dataset_chooses_among_several(tmp_path: Path) -> None:
    path = write(tmp_path / "names.json", json.dumps({"a": ["x"], "b": ["y", "z"]}))
    assert len(read_classes(path, dataset="b")) == 2
    with pytest.raises(ManifestError, match="several lists"):
        read_classes(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.csv", "label,name\n0,a\n0,b\n", "line 3: label 0 is already given at line 2"),
        ("c.csv", "label,name\n0,a\n2,b\n", "line 3: label 2 where 1 is due; label 1 is missing"),
        ("c.csv", "label,name\n1,a\n0,b\n", "line 2: label 1 where 0 is due; sort"),
        ("c.csv", "label,name\n0,\n", "line 2: the class has no name"),
        ("c.csv", "label,name\nx,a\n", "line 2: the label 'x' is not a number"),
        ("c.csv", "label,name\n0,a,b\n", "line 2: 3 fields, expected 2"),
        ("c.csv", "id,title\n0,a\n", "the first line must be label,name"),
        ("c.csv", 'label,name\n0,"a\n', "line 2"),
        ("c.csv", "", "the first line must be label,name"),
        ("c.csv", "label,name\n", "lists no classes"),
        ("c.txt", "fox\n\ncrow\n", "line 2: a blank line"),
        ("c.txt", "", "lists no classes"),
        ("c.txt", "a\tfox\na\tcrow\n", "line 2: the id 'a' is already given at line 1"),
        ("c.json", '["fox", 3]', "class 1 is 3, not a name"),
        ("c.json", "[" * 100_000, "not JSON"),
        ("c.json", "3", "expected a list of names"),
        ("c.json", '["\\ud800"]', "no usable name"),
        ("c.json", '{"0": "a", "2": "b"}', "label 1 is missing"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message) as caught:
        read_classes(write(tmp_path / name, content))
    assert name in str(caught.value) or "no usable name" in message


def test_identity_follows_names_and_order() -> None:
    one, other = ClassList(("fox", "crow")), ClassList(("crow", "fox"))
    assert one.identity() != other.identity()
    assert one.identity() == ClassList(("fox", "crow"), ("f", "c")).identity()
    assert one.identity()["num_classes"] == len(one) == 2


def test_header_round_trip() -> None:
    classes = ClassList(("fox", "crow"), ("f", None))
    header = json.loads(json.dumps(classes.header()))
    assert ClassList.from_header(header) == classes
    with pytest.raises(ManifestError, match="not a record of classes"):
        ClassList.from_header({})


def test_repeated_names_are_warned_of() -> None:
    classes = ClassList(("missile", "fox", "missile"))
    assert classes.repeated_names() == {"missile": [0, 2]}
    assert classes.warnings() == [
        "1 class name(s) are used more than once: 'missile' (labels 0, 2)"
    ]


@pytest.mark.parametrize(("names", "ids"), [(("",), ()), (("a",), ("b", "c")), (("a",), (3,))])
def test_bad_class_lists(names: tuple[str, ...], ids: tuple[str, ...]) -> None:
    with pytest.raises(ManifestError):
        ClassList(names, ids)


def test_names_that_look_the_same_are_shown_to_differ() -> None:
    (text,) = ClassList(("Caf\u00e9", "bar", "Cafe\u0301")).warnings()
    assert r"'Caf\xe9' = 'Cafe\u0301' (labels 0, 2)" in text
