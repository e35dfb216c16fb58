"""Independent units: rows of one unit show the same thing, such as one person or one shot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def named_units(units: Any, numbers: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
    """Return the unit of each row, (N,), of values that sort.

    A row whose unit is missing (None, NaN, pandas' NA, an empty text) is its own: nobody has said
    that it shows what another shows.

    Args:
        units: (N,), an array, a list or a column of numbers or texts; of several types, they are
            told apart by their texts.
        numbers: what rows without a unit are named after, (N,), each once; None: 0..N-1.

    Raises:
        ValueError: not one value a row.
    """
    found = units if hasattr(units, "__array__") else np.array(units, dtype=object)
    found = np.asarray(found)
    if found.ndim != 1:
        raise ValueError(f"units are one value a row, (N,), not of shape {found.shape}")
    if found.dtype.kind in "iub" or (found.dtype.kind == "U" and (found != "").all()):
        return found
    values = found.tolist()
    known = [_is_known(unit) for unit in values]
    if all(known) and len({type(unit) for unit in values}) == 1:
        return found
    names = range(len(values)) if numbers is None else np.asarray(numbers).tolist()
    named = zip(values, known, names, strict=True)
    return np.array([f"unit {unit}" if told else f"row {row}" for unit, told, row in named])


def _is_known(unit: Any) -> bool:
    if unit is None or (isinstance(unit, str) and not unit):
        return False
    same = unit == unit  # NaN is not, and pandas' NA is neither equal nor unequal
    return isinstance(same, (bool, np.bool_)) and bool(same)
