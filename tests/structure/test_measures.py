"""The measures themselves, on small packages."""

from __future__ import annotations

from pathlib import Path

from tests.structure.measures import (
    circles,
    defined_twice,
    import_graph,
    imports_past_a_face,
    one_word_classes,
    parameter_types,
    source_files,
    summary,
)


def write_package(root: Path, files: dict[str, str]) -> Path:
    """Write the modules of a package ``house`` by their paths, and its empty ``__init__.py``."""
    package = root / "house"
    for name, text in {"__init__.py": "", **files}.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    return package


def test_a_circle_is_found_where_one_import_stands_in_a_function(tmp_path: Path) -> None:
    lazy = "def late():\n    from house import first\n"
    package = write_package(tmp_path, {"first.py": "from house import second\n", "second.py": lazy})
    found = circles(import_graph(source_files(package)))
    assert found == [["house.first", "house.second"]]


def test_an_import_for_types_alone_makes_no_circle(tmp_path: Path) -> None:
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house import first\n"
    package = write_package(
        tmp_path, {"first.py": "from house import second\n", "second.py": typed}
    )
    assert circles(import_graph(source_files(package))) == []


def test_names_that_several_modules_define_are_found(tmp_path: Path) -> None:
    package = write_package(
        tmp_path,
        {
            "first.py": "class Batch: ...\ndef _own(): ...\n",
            "second.py": "from house.first import Batch\ndef _own(): ...\n",
            "third.py": "def Batch(): ...\n",
        },
    )
    assert defined_twice(source_files(package)) == {"Batch": ["house.first", "house.third"]}


def test_an_import_past_the_face_of_a_package(tmp_path: Path) -> None:
    package = write_package(
        tmp_path,
        {
            "room/__init__.py": "from house.room.wall import Wall\n",
            "room/wall.py": "class Wall: ...\n",
            "guest.py": "from house.room import Wall\n",
            "burglar.py": "from house.room.wall import Wall\n",
        },
    )
    assert imports_past_a_face(source_files(package)) == [("house.burglar", "house.room.wall")]


def test_classes_of_one_word_and_kinds_of_a_parameter(tmp_path: Path) -> None:
    text = (
        "class Batch: ...\nclass RowBatch: ...\n"
        "def one(cache: Path): ...\ndef two(cache: 'Cache', n: int): ...\n"
    )
    files = source_files(write_package(tmp_path, {"first.py": text}))
    assert one_word_classes(files) == ["Batch"]
    assert dict(parameter_types(files)["cache"]) == {"Path": 1, "Cache": 1}
    assert summary(files)["classes named by one word, %"] == 50.0
