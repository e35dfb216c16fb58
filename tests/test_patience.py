"""No test fails because the machine is slow: there is one limit, and it is only for what hangs."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import settings

from tests.conftest import PATIENCE

LIMIT = re.compile(r"timeout(=|\()[\d.]|\.(poll|wait|join)\([\d.]|signal\.alarm\(|deadline=\d")


def test_there_is_one_limit_and_it_is_long() -> None:
    assert PATIENCE >= 600
    assert settings().deadline is None
    others = {
        path.name: found.group()
        for path in Path(__file__).parent.rglob("*.py")
        if (found := LIMIT.search(path.read_text())) and path != Path(__file__)
    }
    assert others == {}
