"""Runs: a trained head with its configuration, its numbers and every identity that it used."""

from ltcache.runs.frequency import by_frequency, frequency_figure
from ltcache.runs.record import LEFT_OUT, SCORED, RunCost, RunRecord
from ltcache.runs.run import RowLogits, Run, open_run, token_map, write_classes
from ltcache.runs.scoring import (
    LabelledLogits,
    check_features,
    finish_run,
    require_views,
    score,
    warn_of_division,
)

__all__ = [
    "LEFT_OUT",
    "SCORED",
    "LabelledLogits",
    "RowLogits",
    "Run",
    "RunCost",
    "RunRecord",
    "by_frequency",
    "check_features",
    "finish_run",
    "frequency_figure",
    "open_run",
    "require_views",
    "score",
    "token_map",
    "warn_of_division",
    "write_classes",
]
