"""Images that stand in two splits are found by their digests, split against split."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from ltcache.cache.shared_images import SharedContent, compared_splits, shared_content

SPLITS = ["train", "train", "train", "val", "val", "test", "test", "pool"]
CONTENT: list[Any] = ["a", "b", "c", "b", "d", "d", "b", "a"]


def _rows(content: list[Any], **columns: list[Any]) -> pa.Table:
    keys = [f"{split}/{row}" for row, split in enumerate(SPLITS)]
    return pa.table(
        {"key": keys, "split": SPLITS, "sha256": pa.array(content, pa.string()), **columns}
    )


def _found(rows: pa.Table) -> tuple[SharedContent, ...]:
    return shared_content(rows, compared_splits(["pool", "test", "train", "val"]))


def test_pairs_of_splits_and_an_example_of_each() -> None:
    assert _found(_rows(CONTENT)) == (
        SharedContent("val", "train", 1, "val/3", "train/1"),
        SharedContent("test", "train", 1, "test/6", "train/1"),
        SharedContent("test", "val", 2, "test/5", "val/4"),
    )
    said = SharedContent("test", "val", 2, "test/5", "val/4").describe()
    assert said == "2 images of test in val (test/5 is val/4)"


@pytest.mark.parametrize("blank", ["", None])
def test_rows_without_a_digest_are_like_no_other(blank: str | None) -> None:
    assert _found(_rows([blank] * 8)) == ()
    assert _found(_rows(CONTENT).drop_columns(["sha256"])) == ()
    assert [one.split for one in _found(_rows([*CONTENT[:5], blank, *CONTENT[6:]]))] == [
        "val", "test", "test",
    ]  # fmt: skip


def test_copies_within_a_split_and_failed_rows_do_not_count() -> None:
    assert _found(_rows(["a", "a", "a", "b", "b", "c", "c", "a"])) == ()
    status = ["ok", "failed", "ok", "ok", "failed", "ok", "ok", "ok"]
    assert [(one.split, one.other) for one in _found(_rows(CONTENT, status=status))] == [
        ("test", "val")
    ]


def test_tables_in_several_chunks() -> None:
    rows = _rows(CONTENT)
    pieces = pa.concat_tables([rows.slice(start, 3) for start in range(0, 8, 3)])
    assert _found(pieces) == _found(rows)
