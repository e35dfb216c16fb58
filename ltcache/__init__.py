"""ltcache: encode images once, then compare long-tail methods on the cached features."""

__version__ = "0.1.0"

__all__ = ["LongTailClassifier", "__version__"]


def __getattr__(name: str) -> object:
    """Import :class:`ltcache.estimator.LongTailClassifier` when asked for, with scikit-learn."""
    if name != "LongTailClassifier":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return import_module("ltcache.estimator").LongTailClassifier
