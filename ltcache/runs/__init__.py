"""Runs: a trained head with its configuration, its numbers and every identity that it used."""

from ltcache.runs.run import (
    Run,
    check_features,
    open_run,
    require_labels,
    require_run_place,
    score,
    token_map,
    write_classes,
)

__all__ = [
    "Run",
    "check_features",
    "open_run",
    "require_labels",
    "require_run_place",
    "score",
    "token_map",
    "write_classes",
]
