"""A comparison as text: Markdown, CSV, LaTeX, JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ltcache.errors import UsageError
from ltcache.manifest import how_to_split
from ltcache.metrics import percent
from ltcache.records import JsonObject, counted
from ltcache.report.standing import BEST, TIED, Comparison, standing, verdict
from ltcache.report.tables import COLUMNS, mean_and_spread
from ltcache.tables import markdown_table


def comparison_table(
    comparison: Comparison, split: str = "test", *, width: int | None = None
) -> str:
    """Return the comparison on one split as a table with what must be said of it.

    The best line is the first; a mark says which it is, and which cannot be told from it.

    Args:
        width: see :func:`ltcache.report.markdown_table`.

    Raises:
        UsageError: the runs were not scored on that split.
    """
    heading, rows = comparison_cells(comparison, split)
    stands, statistic = standing(comparison, split), comparison["statistic"]
    marked = [
        (entry["scores"][split][statistic]["mean"], [_marked(entry["name"], stands), *cells])
        for entry, (_, *cells) in zip(comparison["entries"], rows, strict=True)
    ]
    ordered = [cells for _, cells in sorted(marked, key=lambda line: -line[0])]
    table = markdown_table(heading, ordered, width)
    closing = f"{verdict(comparison, split)} Marked: * the best, ~ not told from the best."
    return "\n".join([table, *remarks(comparison, split), closing])


def _marked(name: str, stands: Mapping[str, str | None]) -> str:
    return name + {BEST: "*", TIED: "~"}.get(stands[name] or "", "")


def to_markdown(comparison: Comparison, split: str = "test") -> str:
    """Return the table of one split and its remarks as Markdown."""
    heading, rows = comparison_cells(comparison, split)
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    return "\n\n".join([markdown_table(heading, escaped), *remarks(comparison, split)]) + "\n"


def to_csv(comparison: Comparison, split: str = "test") -> str:
    """Return every split's scores as fractions, one line per entry and split."""
    text = io.StringIO()
    lines = [_flat(entry, name) for name in comparison["splits"] for entry in comparison["entries"]]
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def to_latex(comparison: Comparison, split: str = "test") -> str:
    """Return a ``tabular`` (booktabs) of one split, with the remarks as comments."""
    heading, rows = comparison_cells(comparison, split)
    lines = [f"% {latex_text(remark)}" for remark in remarks(comparison, split)]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(heading) - 1)}}}", r"\toprule"]
    lines += [_latex_line(heading), r"\midrule", *map(_latex_line, rows)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def to_json(comparison: Comparison, split: str = "test") -> str:
    """Return the whole comparison."""
    return json.dumps(comparison, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


WRITERS: Mapping[str, Callable[[Comparison, str], str]] = {
    "json": to_json,
    "csv": to_csv,
    "md": to_markdown,
    "tex": to_latex,
}
"""Ending of a file -> (comparison, split) -> its text."""


_FOLDS = (
    "each image is scored by the run that was not fitted on its fold, so that the accuracy of a "
    "class is its mean over the folds, weighted by images; 95 %: of mean/class, mean over seeds, "
    "bootstrap over units (images that belong together); settings are chosen {tuned}"
)


def rows_in_words(comparison: Comparison, split: str) -> str:
    """Return which rows were scored: ``test split``, or ``5 folds of train``."""
    return split if "folds" in comparison else f"{split} split"


def usual_split(comparison: Comparison) -> str:
    """Return which rows are shown where nothing is said: test, or the folds of train."""
    return str(next(iter(comparison["splits"]))) if "folds" in comparison else "test"


def remarks(comparison: Comparison, split: str = "test") -> list[str]:
    """Return what a table must say of its numbers, one sentence or two each."""
    about = comparison["splits"][split]
    sizes = "/".join(str(about["group_sizes"][name]) for name in ("many", "medium", "few"))
    seeds = sorted({len(entry["seeds"]) for entry in comparison["entries"]})
    spread = "–".join(str(number) for number in (seeds[:1] + seeds[1:][-1:]))
    lines = [
        f"accuracy in %, {rows_in_words(comparison, split)}, {about['rows']} images of "
        f"{about['units']} units; mean ± sd over seeds ({spread}); groups "
        f"{about['group_scheme']} ({sizes} classes)",
        f"rank: of mean/class, mean over seeds; vs {comparison['baseline']}: difference of "
        "mean/class in points with 95 % interval and two-sided p, paired bootstrap over units; p "
        "is not corrected for the number of comparisons",
        f"chosen on {_tuned(comparison['entries'])}",
    ]
    if "folds" in comparison:
        lines.insert(1, _FOLDS.format(tuned=comparison["folds"]["tuned"]))
    lines += [
        f"failed: {lost['name']}, seed {lost['seed']}: {lost['reason']}"
        for lost in comparison.get("failures", ())
    ]
    return lines + [f"note: {note}" for note in comparison.get("notes", ())]


def _tuned(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return what was chosen on what, over all entries: ``epoch on val; loss.tau on val``.

    In one order, whether the records were made just now or read from their files.
    """
    chosen: dict[str, set[str]] = {}
    for entry in entries:
        for name, rows in entry["tuned_on"].items():
            chosen.setdefault(rows, set()).add(name)
    trials = sorted({entry["trials"] for entry in entries} - {0})
    budget = f" ({'–'.join(str(t) for t in trials)} trials each)" if trials else ""
    unseen = max((entry.get("unseen_classes") or 0 for entry in entries), default=0)
    budget += f"; no part in settings: {counted(unseen, 'class')} without a row" if unseen else ""
    said = [f"{rows}: {', '.join(sorted(chosen[rows]))}" for rows in sorted(chosen)]
    return "; on ".join(said) + budget


def require_split(comparison: Comparison, split: str) -> None:
    """Refuse a split that not all runs were scored on.

    Raises:
        UsageError: with those that they were.
    """
    if split not in comparison["splits"]:
        known = ", ".join(comparison["splits"])
        how = f"{how_to_split(['train'])}, and fit again"
        remedy = f"known: {known} (--split)" if known else how
        raise UsageError(f"the runs have no scores on split {split!r} in common; {remedy}")


def comparison_cells(comparison: Comparison, split: str) -> tuple[list[str], list[list[str]]]:
    """Return the heading and the rows of the table of one split.

    Raises:
        UsageError: the runs were not scored on that split.
    """
    require_split(comparison, split)
    against = f"vs {comparison['baseline']}"
    sure = ["95 %"] if "folds" in comparison else []
    heading = ["", *COLUMNS.values(), *sure, "rank", against, "p", "head s", "passes"]
    return heading, [_row(entry, split) for entry in comparison["entries"]]


def _row(entry: Mapping[str, Any], split: str) -> list[str]:
    scores, difference = entry["scores"][split], entry["difference"][split]
    rank, cost = entry["rank"][split], entry["cost"]
    return [
        entry["name"],
        *(mean_and_spread(scores[name]) for name in COLUMNS),
        *("–".join(map(percent, found[split])) for found in [entry.get("interval")] if found),
        "-" if rank is None else f"{rank:.1f}",
        "-" if difference is None else difference_interval(difference),
        "-" if difference is None else f"{difference['p']:.3f}",
        _number(cost.get("head_seconds"), 1),
        _number(cost.get("encoder_passes"), 0),
    ]


def difference_interval(found: Mapping[str, Any]) -> str:
    """Return a paired difference with its interval, in points."""
    middle, low, high = (f"{100 * found[key]:+.1f}" for key in ("difference", "low", "high"))
    return f"{middle} [{low}, {high}]"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _flat(entry: Mapping[str, Any], split: str) -> JsonObject:
    line: JsonObject = {"name": entry["name"], "method": entry["method"], "split": split}
    line["overrides"] = json.dumps(entry["overrides"], sort_keys=True)
    line["seeds"] = " ".join(str(seed) for seed in entry["seeds"])
    for name, value in entry["scores"][split].items():
        line[name] = None if value is None else value["mean"]
        line[f"{name}_sd"] = None if value is None else value["sd"]
    line["rank"] = entry["rank"][split]
    difference = entry["difference"][split] or {}
    for name in ("difference", "low", "high", "p"):
        line[name if name in ("difference", "p") else f"difference_{name}"] = difference.get(name)
    tuned = {"chosen": entry["chosen"], "tuned_on": entry["tuned_on"]}
    line |= {name: json.dumps(value, sort_keys=True) for name, value in tuned.items()}
    return line | {"trials": entry["trials"], **entry["cost"]}


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "–": "--", "<": "$<$", ">": "$>$", "\n": " ",
}  # fmt: skip


def latex_text(text: str) -> str:
    """Return text with everything escaped that means something to LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(latex_text(cell) for cell in cells) + r" \\"
