"""ltcache: encode images once, then compare long-tail methods on the cached features.

On a machine that other programs use, set ``OMP_WAIT_POLICY=passive`` before torch is imported: fits
and extraction then take a fraction of the time, with the same results. The command line does so by
itself; a library that is imported after torch cannot.
"""

__version__ = "0.1.0"

__all__ = ["LongTailClassifier", "__version__"]


def __getattr__(name: str) -> object:
    """Import :class:`ltcache.estimator.LongTailClassifier` when asked for, with scikit-learn."""
    if name != "LongTailClassifier":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return import_module("ltcache.estimator").LongTailClassifier
