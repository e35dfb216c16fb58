"""What one of several processes found is read as it was written, with what belongs to it alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ltcache.errors import IdentityError, UsageError
from ltcache.records import PartialResult, parts_folder, read_parts


def made(part: int, parts: int, **whole: object) -> PartialResult:
    values = {"rows": np.arange(part), "odds": np.array([1 / 3] * part)}
    return PartialResult("work", part, parts, whole, {"said": [part, "é"]}, values)


def test_parts_are_read_in_their_order_as_they_were_written(tmp_path: Path) -> None:
    files = [made(part, 3, tau=0.1).save(tmp_path) for part in (3, 1, 2)]
    for places in ([tmp_path], files, [str(file) for file in files]):
        found = read_parts(places, "work")
        assert [part.part for part in found] == [1, 2, 3]
        for part in found:
            model = made(part.part, 3, tau=0.1)
            assert (part.whole, part.found, part.parts) == (model.whole, model.found, 3)
            assert {name: value.tobytes() for name, value in part.arrays.items()} == {
                name: value.tobytes() for name, value in model.arrays.items()
            }


def test_parts_get_a_folder_of_their_own(tmp_path: Path) -> None:
    assert parts_folder(tmp_path / "new") == tmp_path / "new"
    (tmp_path / "cache.json").touch()
    (tmp_path / "file").touch()
    for place, said in ((tmp_path, "is a cache"), (tmp_path / "file", "is a file")):
        with pytest.raises(UsageError, match=f"{said}: parts go into a folder of their own"):
            parts_folder(place)


def test_many_missing_parts_are_told_shortly(tmp_path: Path) -> None:
    made(4, 12).save(tmp_path)
    with pytest.raises(UsageError, match=r"missing: 1, 2, 3, 5, 6 and 6 more; .*--part 1/12"):
        read_parts([tmp_path], "work")


def test_every_field_that_differs_is_told(tmp_path: Path) -> None:
    one = made(1, 2, settings={"tau": 0.1, "view": "center"}).save(tmp_path)
    two = made(2, 2, settings={"tau": 0.2, "view": "flip"}).save(tmp_path)
    with pytest.raises(IdentityError) as caught:
        read_parts([one, two], "work")
    assert caught.value.exit_status == 4
    assert caught.value.kind == f"work of {two}"
    assert set(caught.value.differences) == {"settings.tau", "settings.view"}
    assert str(one) in caught.value.remedy
