"""Benchmarks: each measures a limit, a peer and ltcache in one run; only the ratios count."""
