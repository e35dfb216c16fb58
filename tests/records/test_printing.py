"""What is printed of a value is one line, whatever it holds."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from typing import Any

import numpy as np
import pytest
import torch

import ltcache
from ltcache.finetune import TUNINGS
from ltcache.fit import LabelledRows, fit_adapter, fit_head
from ltcache.heads import HeadContext
from ltcache.methods import METHODS
from ltcache.records.printing import brief, counted
from tests.fakes import FakeCache, long_tail_counts

ARRAYS = re.compile(r"ndarray|Tensor|Table\b|\bHead\b|\bModule\b|\bRows\b|\bManifest\b")


def _records() -> list[Any]:
    """Return every public dataclass of the package with an array, a table or a network in it."""
    found: dict[str, Any] = {}
    for module in pkgutil.walk_packages(ltcache.__path__, "ltcache."):
        if module.name.endswith("__main__"):
            continue
        for name, kind in vars(importlib.import_module(module.name)).items():
            own = dataclasses.is_dataclass(kind) and not name.startswith("_")
            if not own or getattr(kind, "__module__", None) != module.name:
                continue
            if any(ARRAYS.search(str(f.type)) for f in dataclasses.fields(kind)):
                found[f"{module.name}.{name}"] = kind
    return list(found.values())


@pytest.mark.parametrize("kind", _records(), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_a_record_with_arrays_prints_no_arrays(kind: Any) -> None:
    assert not hasattr(kind.__repr__, "__wrapped__")  # the one that dataclasses write has it


def test_values_are_printed_on_one_line() -> None:
    cache: Any = FakeCache(long_tail_counts(40, 200, 5))
    run = fit_adapter(cache, "ce", overrides={"optimisation.epochs": 2})
    assert repr(run).startswith("Run(ce, seed 0, val ") and "mean/class" in repr(run)
    rows = LabelledRows(torch.zeros(3000, 8), torch.arange(3000) % 40)
    shown = "row_features=float32 3000x8, labels=int64 3000, weights=None, units=None"
    assert repr(rows).startswith(f"LabelledRows({shown}, ")
    context = HeadContext(8, 40, torch.ones(40))
    fitted = fit_head(METHODS["ncm"], rows, context, choose=False)
    values = (run, rows, context, fitted, run.method, run.metrics["test"], cache.manifest,
              TUNINGS["lift"], METHODS["mislas+h2t"])  # fmt: skip
    for value in values:
        text = repr(value)
        assert len(text) <= 240 and "\n" not in text, text


def test_a_value_in_a_few_words() -> None:
    assert brief(np.zeros((2, 3), np.float32)) == "float32 2x3"
    assert brief({"a": 1}) == "{'a': 1}" and brief(list(range(100))) == "<100 entries>"
    assert brief("x\ny") == "'x\\ny'" and brief(1 / 3) == "0.333333" and brief(None) == "None"


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [(1, "image", "1 image"), (0, "image", "0 images"), (2, "class", "2 classes")],
)
def test_a_number_and_its_noun_agree(number: int, noun: str, text: str) -> None:
    assert counted(number, noun) == text
