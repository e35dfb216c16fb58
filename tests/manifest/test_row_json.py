"""The digest of rows that Arrow puts together is that of Python's JSON, whatever stands in them."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest

from ltcache.manifest import row_json
from ltcache.manifest.row_json import rows_digest

ODD = ["plain", "", 'quo"te', "back\\slash", "tab\t", "nul\x00", "\x7f", "é", "\u2028", "狐/🦊"]


def _expected(rows: pa.Table) -> str:
    lists = [list(row.values()) for row in rows.to_pylist()]
    text = "".join(json.dumps(row, ensure_ascii=False) for row in lists)
    return hashlib.sha256(text.encode()).hexdigest()


def _rows(texts: list[str | None], kind: pa.DataType) -> pa.Table:
    column = pa.array(texts, kind)
    numbers = pa.array(np.arange(len(texts)) * 10**17 - 1)
    return pa.table({"key": column, "label": numbers, "split": column})


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.parametrize("block", [1, 3, 1 << 15])
def test_odd_texts(kind: pa.DataType, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_json, "_BLOCK", block)
    for texts in (ODD, ODD[:2], ["", ""], [], *([text, text] for text in ODD)):
        rows = _rows(texts, kind)
        assert rows_digest([rows]) == _expected(rows)
        assert rows_digest([rows.slice(0, 1), rows.slice(1)]) == _expected(rows)
        pieces = pa.concat_tables([rows.slice(0, 1), rows.slice(1)])
        assert rows_digest([pieces.slice(1)]) == _expected(rows.slice(1))


def test_other_values_are_what_json_says() -> None:
    for values in ([1.5, 2.0], [True, False], [None, 3], ["a", None]):
        rows = pa.table({"key": ["a", "b"], "value": values})
        assert rows_digest([rows]) == _expected(rows)


def test_plain_rows_are_no_python_values(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _rows(["plain", "é"], pa.string())
    expected = _expected(rows)
    monkeypatch.setattr(row_json, "_encoded", None)
    assert rows_digest([rows]) == expected
