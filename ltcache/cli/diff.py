"""``ltcache diff``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltcache.cli.combinations import refuse_given
from ltcache.cli.options import cache_argument, general, label_column_option, print_json
from ltcache.records import counted

if TYPE_CHECKING:
    from ltcache.examine.diff import DiffReport, FeatureMovement, SharedRows

_TOP = 10


@click.command("diff", short_help="Compare a cache with another one or with a list of images.")
@cache_argument
@click.argument("other")
@click.option("--root", type=click.Path(path_type=Path), help="Where OTHER's images are.")
@label_column_option
@click.option(
    "--rehash", is_flag=True, help="Read OTHER's images to find changed and renamed ones."
)
@general
def command(
    cache: Path,
    other: str,
    root: Path | None,
    label_column: str | None,
    rehash: bool,
    as_json: bool,
) -> None:
    """Show in what OTHER differs from CACHE; OTHER is a cache or whatever `extract` takes.

    Identities field by field, rows that came, went, changed label or split, images that would be
    encoded, and, between two caches, how far features moved in each class.

    \b
    ltcache diff cache longer-list.csv --root /data/images
    ltcache diff cache cache-of-finetuned --json
    """
    from ltcache.examine.diff import diff
    from ltcache.records import PlaceKind, kind_of

    if kind_of(other) is PlaceKind.CACHE:
        refuse_given(("root", "rehash", "label_column"), f"{other} is a cache, which has its rows")
    report = diff(cache, other, root=root, rehash=rehash, label_column=label_column)
    if as_json:
        print_json(report)
    else:
        click.echo("\n".join(diff_lines(report)))


def diff_lines(report: DiffReport) -> list[str]:
    """Return a report as lines for people."""
    result = [f"A: {report.a}, {report.rows[0]} rows", f"B: {report.b}, {report.rows[1]} rows"]
    for kind, fields in report.identities.items():
        result.append(f"{kind} differs in {len(fields)} fields:")
        result += [f"  {name}: {_short(a)} -> {_short(b)}" for name, (a, b) in fields.items()]
    if not report.matched and all(report.rows):
        result.append(
            "no row of A could be matched with one of B: rows are matched by their key, and no key "
            "is in both. Where the images are the same, make both of lists with the same keys "
            "(ltcache import --manifest LIST)"
        )
    for title, rows in (
        ("only in B", report.added),
        ("only in A", report.removed),
        ("other label", report.relabelled),
        ("other split", report.moved),
    ):
        result += _rows(title, rows)
    result += _contents(report)
    result += _rows("to encode for B", report.encode)
    if report.features is not None:
        result += _features(report.features, report.names)
    elif report.why:
        result.append(f"features not compared: {report.why}")
    return [*result, "nothing differs"] if report.same else result


def _contents(report: DiffReport) -> list[str]:
    title = "other content"
    lacking = f"A or B does not know the content of {counted(report.unknown, 'shared row')}"
    if report.changed is None:
        why = f"known ({lacking})" if report.unknown else "looked at (--rehash reads the images)"
        return [f"{title}: not {why}"]
    return [*_rows(title, report.changed), *([f"  {lacking}"] if report.unknown else [])]


def _rows(title: str, told: SharedRows) -> list[str]:
    from ltcache.manifest import printable

    more = ["  ..."] if told.count > len(told.first) else []
    return [f"{title}: {told.count}", *(f"  {printable(text)}" for text in told.first), *more]


def _features(moved: FeatureMovement, names: tuple[str, ...]) -> list[str]:
    from ltcache.manifest import printable

    result = [
        f"features of {moved.rows} shared rows: cosine {moved.mean:.5f} on average, at least "
        f"{moved.minimum:.5f} ({printable(moved.worst)})"
    ]
    if moved.groups:
        groups = ", ".join(f"{name} {value:.5f}" for name, value in moved.groups.items())
        result.append(f"  {groups} ({moved.scheme})")
    for label, value in list(moved.classes.items())[:_TOP]:
        result.append(f"  {value:.5f}  {label} {names[label]}")
    more = len(moved.classes) - _TOP
    return [*result, f"  ... {more} classes moved less"] if more > 0 else result


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:28]}...{text[-28:]}"
