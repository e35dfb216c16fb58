"""ltcache: encode images once, then compare long-tail methods on the cached features."""

__version__ = "0.1.0"
