"""How an error falls with the number of training images: a power law, and how far it is believed.

Hestness et al., "Deep learning scaling is predictable, empirically", 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ltcache.errors import UsageError

FARTHEST = 4.0
"""A curve is continued to so many times the most images that it was fitted on, at most."""
_RESAMPLES = 200
_EXPONENTS = np.linspace(0.05, 2, 79)


@dataclass(frozen=True)
class PowerLaw:
    """The error ``scale * n ** -exponent + floor`` at n images of a class; ``most`` were fitted."""

    scale: float
    exponent: float
    floor: float
    most: float

    @classmethod
    def fit(cls, images: np.ndarray, errors: np.ndarray) -> PowerLaw:
        """Return the law with the least squares.

        Args:
            images: of a class, (P,), at least 3 different. errors: 0..1, (P,).

        Raises:
            UsageError: fewer than 3 points.
        """
        if len(np.unique(images)) < 3:
            raise UsageError(f"a curve of error by images needs 3 points, not {len(images)}")
        from scipy.optimize import nnls

        first, fits = float(images.min()), []
        for exponent in _EXPONENTS:  # with it fixed, the other two have one solution
            columns = np.stack([(images / first) ** -exponent, np.ones(len(images))], axis=1)
            (scale, floor), missed = nnls(columns, errors)
            fits.append((float(missed), float(exponent), float(scale), float(floor)))
        _, exponent, scale, floor = min(fits)
        return cls(scale * first**exponent, exponent, floor, float(images.max()))

    def at(self, images: float) -> float:
        """Return the error at some images of a class.

        Raises:
            UsageError: more than :data:`FARTHEST` times those that it was fitted on.
        """
        if images > FARTHEST * self.most * (1 + 1e-9):
            raise UsageError(
                f"{images:.0f} images of a class are more than {FARTHEST:g} times the "
                f"{self.most:.0f} that the curve was fitted on: nothing is foretold that far"
            )
        return self.scale * images**-self.exponent + self.floor


@dataclass(frozen=True)
class ForetoldError:
    """An error at ``images`` of a class, 0..1, with the 95 % interval over seeds."""

    images: float
    error: float
    low: float
    high: float


def foretell(
    images: np.ndarray, errors: np.ndarray, wanted: Sequence[float]
) -> list[ForetoldError]:
    """Return the error at each of ``wanted`` images of a class, by a power law.

    The interval is of laws that are fitted to seeds drawn with replacement: it says how much seeds
    and subsets matter, not whether the error goes on as a power law.

    Args:
        images: of a class, (P,). errors: of each seed, 0..1, (S, P).

    Raises:
        UsageError: too few points, or one of ``wanted`` is too far: see :class:`PowerLaw`.
    """
    rng = np.random.default_rng(0)
    law = PowerLaw.fit(images, errors.mean(axis=0))
    draws = np.sort(rng.integers(len(errors), size=(_RESAMPLES, len(errors))), axis=1)
    unique, of_draw = np.unique(draws, axis=0, return_inverse=True)  # few seeds: few fits
    laws = [PowerLaw.fit(images, errors[draw].mean(axis=0)) for draw in unique]
    found = []
    for at in wanted:
        values = np.array([other.at(at) for other in laws])[of_draw.ravel()]
        low, high = (float(end) for end in np.quantile(values, [0.025, 0.975]))
        found.append(ForetoldError(at, law.at(at), low, high))
    return found
