"""What people read and paste: tables of results, comparisons of methods, a plot by frequency."""

from __future__ import annotations

from ltcache.report.comparison import ComparisonEntry, ScoredRows, ScoredRun, compare, scored
from ltcache.report.confused import ConfusedClasses, confusions, confusions_table
from ltcache.report.formats import WRITERS, comparison_cells, comparison_table, usual_split
from ltcache.report.frequency import comparison_figure, plot_by_frequency
from ltcache.report.label_errors import (
    LabelError,
    LabelErrors,
    label_errors_table,
    suspicious_rows,
)
from ltcache.report.line_logits import TUNED_ON, LineLogits
from ltcache.report.more_images import (
    GROWTH,
    GroupGrowth,
    MoreImages,
    more_images_cells,
    more_images_note,
    more_images_table,
)
from ltcache.report.reading import RESULTS, ReportedRuns, on_folds, read_runs, report
from ltcache.report.tables import (
    COLUMNS,
    classes_table,
    details,
    footnote,
    results_table,
    seeds_table,
)

__all__ = [
    "COLUMNS",
    "GROWTH",
    "RESULTS",
    "TUNED_ON",
    "WRITERS",
    "ComparisonEntry",
    "ConfusedClasses",
    "GroupGrowth",
    "LabelError",
    "LabelErrors",
    "LineLogits",
    "MoreImages",
    "ReportedRuns",
    "ScoredRows",
    "ScoredRun",
    "classes_table",
    "compare",
    "comparison_cells",
    "comparison_figure",
    "comparison_table",
    "confusions",
    "confusions_table",
    "details",
    "footnote",
    "label_errors_table",
    "more_images_cells",
    "more_images_note",
    "more_images_table",
    "on_folds",
    "plot_by_frequency",
    "read_runs",
    "report",
    "results_table",
    "scored",
    "seeds_table",
    "suspicious_rows",
    "usual_split",
]
