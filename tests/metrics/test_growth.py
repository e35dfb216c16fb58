"""A law that is known is found again, and nothing is foretold too far."""

from __future__ import annotations

import numpy as np
import pytest

from ltcache.errors import UsageError
from ltcache.metrics import FARTHEST, PowerLaw, foretell

IMAGES = np.array([10.0, 14.0, 20.0, 28.0, 40.0])


def test_a_known_law_is_found_and_continued() -> None:
    law = PowerLaw.fit(IMAGES, 0.9 * IMAGES**-0.6 + 0.2)
    assert (law.scale, law.exponent, law.floor) == pytest.approx((0.9, 0.6, 0.2), rel=0.02)
    assert law.at(FARTHEST * 40) == pytest.approx(0.9 * 160**-0.6 + 0.2, abs=1e-3)


def test_an_error_that_does_not_fall_is_continued_as_it_is() -> None:
    assert PowerLaw.fit(IMAGES, np.full(5, 0.3)).at(160) == pytest.approx(0.3, abs=1e-3)


def test_too_far_and_too_few_points_are_refused() -> None:
    law = PowerLaw.fit(IMAGES, 0.9 * IMAGES**-0.6)
    with pytest.raises(UsageError, match="161 images of a class are more than 4 times the 40"):
        law.at(161)
    with pytest.raises(UsageError, match="needs 3 points, not 2"):
        PowerLaw.fit(IMAGES[:2], np.array([0.5, 0.4]))


def test_the_interval_is_over_seeds() -> None:
    rng = np.random.default_rng(0)
    errors = 0.9 * IMAGES**-0.6 + 0.1 + 0.01 * rng.normal(size=(5, 5))
    (found,) = foretell(IMAGES, errors, [80])
    assert found.low < found.error < found.high
    assert found.low - 0.02 < 0.9 * 80**-0.6 + 0.1 < found.high + 0.02
    (same,) = foretell(IMAGES, np.repeat(errors[:1], 3, axis=0), [80])
    assert same.low == pytest.approx(same.high)
