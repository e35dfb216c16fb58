"""Columns of texts and labels out of arrays, in the form in which the manifest's readers take them.

numpy holds texts as fixed-width Unicode, as bytes or as objects, with None or NaN where one is
missing; here each becomes an Arrow column with nulls.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ltcache.errors import UsageError
from ltcache.manifest import TableColumns, text_column


def arrow_column(what: str, array: np.ndarray) -> pa.Array:
    """Return an array (n,) as a column; None and NaN are null.

    Raises:
        UsageError: values of several kinds; says what they are of.
    """
    if array.dtype.kind == "f":
        array = array.astype(np.float64)
    try:
        return pa.array(array.tolist(), from_pandas=True)
    except (pa.ArrowException, OverflowError) as error:
        raise UsageError(f"{what} of several kinds, or none that can be read: {error}") from None


def texts_of_array(what: str, array: np.ndarray) -> list[str]:
    """Return an array (n,) as texts: bytes are decoded, whole numbers are taken as texts.

    Raises:
        UsageError: values of several kinds.
        ManifestError: other values, or an empty one; names its position from 1 on.
    """
    column = arrow_column(what, array)
    lines = range(1, len(column) + 1)
    texts: list[str] = text_column(
        what, TableColumns({}, lines), what, column, numbers=True
    ).to_pylist()
    return texts
