"""A cache without class texts: every method fits its pooled features, or says what it lacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ltcache.errors import CacheError, FitError
from ltcache.fit import fit_adapter, needs_texts
from ltcache.methods import METHODS, override
from tests.fakes import FakeCache
from tests.fit.test_catalogue import short

CACHE: Any = FakeCache(
    np.array([12, 8, 6]), per_class=4, dim=6, image_only=True, views={"rrc:2": 0.1}
)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_fits_or_names_what_an_image_only_cache_lacks(name: str) -> None:
    method = short(METHODS[name], epochs=1)
    if method.feature.composites != "none":
        with pytest.raises(CacheError, match=r"--views cmo:2"):
            fit_adapter(CACHE, method)
    elif not needs_texts(method):
        assert fit_adapter(CACHE, method).record.field == "pooled"
    else:
        for changed in (method, override(method, {"feature.field": "pooled"})):
            with pytest.raises(FitError, match="an image-only encoder has no"):
                fit_adapter(CACHE, changed)
