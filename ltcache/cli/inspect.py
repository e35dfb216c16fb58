"""``ltcache inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ltcache.cli.class_sizes import class_lines
from ltcache.cli.combinations import refuse_given
from ltcache.cli.options import general, label_column_option, print_json
from ltcache.records import counted

if TYPE_CHECKING:
    from ltcache.cache import CacheSummary
    from ltcache.examine import CacheChecks
    from ltcache.examine.inspection import ManifestSummary, SplitSummary
    from ltcache.manifest import MissingFiles


@click.command("inspect", short_help="Show what a list of images or a cache holds.")
@click.argument("source")
@click.option("--root", type=click.Path(path_type=Path), help="Where the images are.")
@click.option("--classes", type=click.Path(path_type=Path), help="Class names, in label order.")
@label_column_option
@click.option("--unlabelled", is_flag=True, help="Take SOURCE as a pool without labels.")
@click.option(
    "--checks",
    is_flag=True,
    help="Look for images that are in two splits (which reads all images of a list); of a cache, "
    "also for permuted labels and repeated names.",
)
@general
def command(
    source: str,
    root: Path | None,
    classes: Path | None,
    label_column: str | None,
    unlabelled: bool,
    checks: bool,
    as_json: bool,
) -> None:
    """Show classes with their images per split, groups, imbalance and missing files of SOURCE.

    SOURCE is whatever `ltcache extract` takes, or a cache; --root, --classes, --label-column and
    --unlabelled are those of `ltcache extract`.

    \b
    ltcache inspect emoji_lt
    ltcache inspect lists/Places_LT --root /data/places
    ltcache inspect photos/ --classes names.txt
    ltcache inspect cache --checks
    """
    from ltcache.cache import open_cache, summarise_cache
    from ltcache.examine import check_cache
    from ltcache.examine.inspection import describe
    from ltcache.manifest import read_manifest
    from ltcache.records import PlaceKind, kind_of

    made = checked = None
    if kind_of(source) is PlaceKind.CACHE:
        refuse_given(
            ("root", "classes", "label_column", "unlabelled"),
            f"{source} is a cache, which keeps its classes and needs no images",
        )
        cache = open_cache(source)
        summary, made = describe(cache.manifest), summarise_cache(cache)
        checked = check_cache(cache) if checks else None
    else:
        manifest = read_manifest(
            source,
            root=root,
            classes=classes,
            labelled=False if unlabelled else None,
            label_column=label_column,
        )
        summary = describe(manifest, read_files=checks)
    if as_json:
        more = {"cache": made, "checks": checked}
        known = {name: record for name, record in more.items() if record is not None}
        print_json({**summary.to_dict(), **known})
    else:
        click.echo("\n".join(summary_lines(summary, made, checked)))


def summary_lines(
    summary: ManifestSummary, cache: CacheSummary | None, checks: CacheChecks | None
) -> list[str]:
    """Return a summary as lines for people."""
    title = f" ({summary.title})" if summary.title else ""
    images, classes = counted(summary.num_rows, "image"), counted(summary.num_classes, "class")
    result = [f"{summary.name}{title}: {images}, {classes}"]
    result += [_split(name, split) for name, split in summary.splits.items()]
    if summary.splitting:
        result.append(f"divided: {summary.splitting}")
    result += class_lines(summary.classes, summary.counted_on)
    if summary.counted_on not in ("train", None):
        result.append("groups:  unknown, since there is no training split to count on")
    if summary.groups:
        sizes = ", ".join(f"{name} {size}" for name, size in summary.groups.sizes.items())
        result.append(f"groups:  {sizes} classes ({summary.groups.scheme})")
    if summary.imbalance_ratio:
        result.append(
            f"imbalance ratio: {summary.imbalance_ratio:.1f} (largest class over smallest, "
            f"counted on {summary.counted_on})"
        )
    result += [f"template: {template}" for template in summary.templates]
    result += _missing(summary.missing) if cache is None else _cache(cache)
    if summary.copies is not None:
        result.append(f"copies:  {summary.copies or 'no'} images are others byte for byte")
    shared = "; ".join(one.describe() for one in summary.shared)
    warnings = [*summary.warnings, *(checks.lines() if checks else [])]
    if shared and checks is None:
        warnings.append(f"identical images stand in two splits: {shared}")
    result += [f"warning: {warning}" for warning in warnings]
    return result if warnings or checks is None else [*result, "checks: nothing found"]


def _split(name: str, split: SplitSummary) -> str:
    if not split.labelled:
        return f"{name + ':':8} {counted(split.rows, 'image')} without labels"
    empty = f", {len(split.empty)} classes empty" if split.empty else ""
    return (
        f"{name + ':':8} {counted(split.rows, 'image')}, {split.max} to {split.min} in a class "
        f"(median {split.median:g}){empty}"
    )


def _missing(missing: MissingFiles | None) -> list[str]:
    if missing is None:
        return ["images:  not looked for (no root is known; give one with --root)"]
    if not missing.count:
        return [f"images:  all {missing.total} files are there"]
    from ltcache.manifest import some

    first = some(missing.first)
    result = [f"images:  {missing.count} of {missing.total} are missing, such as {first}"]
    return result + ([f"         {missing.hint}"] if missing.hint else [])


def _cache(cache: CacheSummary) -> list[str]:
    name = ", ".join(cache.encoder.values())
    made = f"{cache.numerics['precision']} on {cache.numerics['device']}"
    result = [f"encoder: {name} ({cache.architecture}), {made}"]
    result += [f"  {tower} tower {sha[:16]}" for tower, sha in cache.towers.items()]
    for view, fields in cache.views.items():
        dims = ", ".join(f"{field} {dim}" for field, dim in fields.items())
        result.append(f"view {view}: {dims}")
    result += [f"prompts {name}: {count} sentences" for name, count in cache.prompts.items()]
    statuses = ", ".join(f"{count} {status}" for status, count in cache.status.items())
    result.append(
        f"rows: {statuses}; {cache.bytes / 1e6:.1f} MB; {cache.cost['images']:.0f} images "
        f"encoded in {cache.cost['seconds']:.0f} s"
    )
    if cache.root is not None:
        result.append(f"images:  {cache.root}")
    from ltcache.manifest import printable

    failed = cache.failed.items()
    return result + [f"  failed {printable(key)}: {printable(reason)}" for key, reason in failed]
